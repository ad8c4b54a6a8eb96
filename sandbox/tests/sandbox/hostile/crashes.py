# ---- abort
# crash | SystemError: the interpreter crashed (unreachable)
import os
os.abort()
# ---- a signal that kills
# crash | SystemError: the interpreter crashed (unreachable)
import signal
signal.raise_signal(signal.SIGSEGV)
# ---- faulthandler
# crash | SystemError: the interpreter crashed (unreachable)
import faulthandler
faulthandler._sigsegv()
# ---- an opcode that does not exist
# crash | SystemError: the interpreter crashed (_PyEval_EvalFrameDefault: JIT instruction executed in non-jit build.)
def f(): pass
f.__code__ = f.__code__.replace(co_code=b'\xff' * 64, co_stacksize=0)
f()
# ---- caches executed
# crash | SystemError: the interpreter crashed (_PyEval_EvalFrameDefault: Executing a cache.)
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes(2000))
f()
# ---- a constant that does not exist
# any
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes([100, 255, 83, 0]), co_consts=())
f()
# ---- a local that does not exist
# any
import opcode
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes([opcode.opmap['LOAD_FAST'], 200] * 10 + [opcode.opmap['RETURN_VALUE'], 0]))
f()
# ---- a stack popped below its start
# any
import opcode
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes([opcode.opmap['POP_TOP'], 0] * 1000 + [opcode.opmap['RETURN_VALUE'], 0]))
f()
# ---- a jump out of the code
# any
import opcode
def f(): pass
f.__code__ = f.__code__.replace(co_code=bytes([opcode.opmap['JUMP_FORWARD'], 255] * 4))
f()
# ---- an exception table of noise
# none | ZeroDivisionError: division by zero | line 2
def f():
    try: 1 / 0
    except ZeroDivisionError: pass
f.__code__ = f.__code__.replace(co_exceptiontable=bytes(range(255, 200, -1)))
f()
# ---- noise as code
# any
import random
def f(a=1, b=2): pass
for i in range(1000):
    f.__code__ = f.__code__.replace(co_code=random.Random(i).randbytes(64))
    try: f()
    except Exception: pass
# ---- marshalled noise
# any
import marshal
good = marshal.dumps(compile('x = [1, 2, 3]\nfor y in x: print(y)', 'x', 'exec'))
for i in range(len(good)):
    try: exec(marshal.loads(good[:i] + bytes([good[i] ^ 0x55]) + good[i + 1:]), {})
    except BaseException: pass
# ---- types cleared by the collector
# none | - | survived\n
import gc
for o in gc.get_objects():
    try: o.clear()
    except Exception: pass
print('survived')
# ---- everything reachable from a type, cleared
# none | -
import gc
seen = set()
def walk(o, depth):
    if id(o) in seen or depth > 6: return
    seen.add(id(o))
    for r in gc.get_referents(o): walk(r, depth + 1)
    if isinstance(o, (dict, list)) and o is not seen:
        try: o.clear()
        except Exception: pass
walk(Exception, 0)
# ---- ctypes
# none | OSError: ctypes is unavailable on wasm32-wasi | line 2
import ctypes
ctypes.string_at(0)
# ---- _ctypes
# none | ModuleNotFoundError: No module named '_ctypes' | line 1
import _ctypes
# ---- _testcapi
# none | ModuleNotFoundError: No module named '_testcapi' | line 1
import _testcapi
# ---- an exit
# none | SystemExit: 3 | before\n
import os
print('before', flush=True)
os._exit(3)
# ---- an exit with success
# none | - | before\n
import os
print('before', flush=True)
os._exit(0)
# ---- an exit that looks like an abort
# crash | SystemError: the interpreter crashed (proc_exit)
import os
os._exit(134)
# ---- an exit with a negative status
# none | SystemExit: -1
import os
os._exit(-1)
# ---- a clean exit with a message
# none | SystemExit: bye | line 2
import sys
sys.exit('bye')
# ---- an exit from inside
# none | SystemExit: 7 | line 2
class A:
    def __repr__(self): raise SystemExit(7)
A()
