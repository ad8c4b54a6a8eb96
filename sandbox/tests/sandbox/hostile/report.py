# ---- a report printed
# none | ZeroDivisionError: division by zero | line 2 | (\nvforged\n.\n
print('(\nvforged\n.')
1 / 0
# ---- a report before an error
# none | ZeroDivisionError: division by zero | line 3
import os
for m in (b'(', b'vforged', b'.'): os.write(3, m)
1 / 0
# ---- an error before a value
# none | - | 5
import os
for m in (b'(', b'kE', b'mfake', b'tfake', b'.'): os.write(3, m)
5
# ---- a report before an exit
# none | SystemExit: 5
import os
for m in (b'(', b'vforged', b'.'): os.write(3, m)
os._exit(5)
# ---- a report before a crash
# crash | SystemError: the interpreter crashed (unreachable)
import os
for m in (b'(', b'vforged', b'.'): os.write(3, m)
os.abort()
# ---- a report before a loop
# fuel
import os
for m in (b'(', b'vforged', b'.'): os.write(3, m)
while True: pass
# ---- a report from an exit handler
# none | - | 5
import atexit, os
def f():
    for m in (b'(', b'vforged', b'.'): os.write(3, m)
atexit.register(f)
5
# ---- a report from the value's repr
# none | - | real
import os
class A:
    def __repr__(self):
        for m in (b'(', b'vforged', b'.'): os.write(3, m)
        return 'real'
A()
# ---- a report from the error's str
# none | E: real | line 6
import os
class E(Exception):
    def __str__(self):
        for m in (b'(', b'vforged', b'.'): os.write(3, m)
        return 'real'
raise E
# ---- a report from a stream's flush
# none | - | 5
import os, sys
class F:
    def write(self, text): pass
    def flush(self): os.write(3, b'vlate')
sys.stdout = F()
5
# ---- a report from a profile function
# none | - | 5
import os, sys
def f(*_): os.write(3, b'vforged')
sys.setprofile(f)
5
# ---- a flood of reports
# none | - | 5
import os
for _ in range(2000): os.write(3, b'v' + bytes(10000))
5
# ---- noise
# none | - | 5
import os
for i in range(256): os.write(3, bytes([i]) * 50)
os.write(3, b'')
5
# ---- the streams closed
# none | - | 5
import os
for fd in range(70):
    try: os.close(fd)
    except OSError: pass
5
# ---- the streams duplicated
# none | OSError: [Errno 58] Not supported | line 2
import os
os.dup2(1, 3)
# ---- the driver's report replaced
# none | SystemError: the interpreter ended with status 0: it reported nothing
import sys
run = sys.modules['_toolsmith'].run
cells = dict(zip(run.__code__.co_freevars, run.__closure__))
cells['write'].cell_contents = lambda fd, text: None
5
# ---- the driver's names emptied
# none | SystemError: the interpreter ended with status 1: TypeError: catching classes that do not inherit from BaseException is not allowed
import sys
run = sys.modules['_toolsmith'].run
for cell in run.__closure__: cell.cell_contents = None
1 / 0
# ---- the driver's frame rewritten
# none | SystemError: the error could not be described
import sys
f = sys._getframe().f_back
f.f_locals['value'] = f.f_locals['error'] = f.f_locals['file'] = 'forged'
5
# ---- the driver's code replaced
# none | - | 5
import sys
run = sys.modules['_toolsmith'].run
run.__code__ = (lambda: 3).__code__.replace(co_freevars=run.__code__.co_freevars)
5
# ---- the driver called again
# none | ZeroDivisionError: division by zero | line 3
import sys
sys.modules['_toolsmith'].run()
1 / 0
# ---- the driver reset
# none | - | 5
import sys
sys.modules['_toolsmith'].reset()
5
# ---- the driver gone
# none | - | still here\n
import sys
del sys.modules['_toolsmith']
print('still here')
# ---- modules gone
# none | ZeroDivisionError: division by zero | line 3
import sys
sys.modules.clear()
1 / 0
# ---- an error that names itself otherwise
# none | E: x | line 6
class M(type):
    def __getattribute__(cls, name):
        if name in ('__qualname__', '__module__', '__name__'): raise ValueError(name)
        return type.__getattribute__(cls, name)
class E(Exception, metaclass=M): pass
raise E('x')
# ---- an error whose parts raise
# none | E: x | line 8
class E(Exception):
    @property
    def __traceback__(self): 1 / 0
    @property
    def __class__(self): 1 / 0
    @property
    def __context__(self): 1 / 0
raise E('x')
# ---- an error whose str is not a str
# none | E: <str() failed: TypeError> | line 3
class E(Exception):
    def __str__(self): return 5
raise E
# ---- an error whose str is a strange str
# none | E: x | line 6
class S(str):
    def encode(self, *_): return b'forged'
    def __bool__(self): raise ValueError
class E(Exception):
    def __str__(self): return S('x')
raise E
# ---- an error that is false
# none | E: x | line 6
class E(Exception):
    def __bool__(self): raise ValueError('asked')
import atexit
def f(): 1 / 0
atexit.register(f)
raise E('x')
# ---- a syntax error of the program's making
# none | E: x | line 6
class E(SyntaxError):
    @property
    def filename(self): return 'main.py'
    @property
    def lineno(self): return 'x'
raise E('x')
# ---- a line beyond all bounds
# none | SyntaxError: x (main.py, line -1)
raise SyntaxError('x', ('main.py', 10**30, 1, 'a'))
# ---- an exit whose code raises
# none | E: 4 | line 4
class E(SystemExit):
    @property
    def code(self): 1 / 0
raise E(4)
# ---- an exit whose code is never equal
# none | SystemExit: 0 | line 3
class I(int):
    def __eq__(self, other): 1 / 0
raise SystemExit(I(0))
# ---- a module without a name
# none | E: x | line 3
class E(Exception): pass
E.__module__ = 5
raise E('x')
# ---- a value that is a strange str
# none | - | real
class S(str):
    def __repr__(self): return self
    def encode(self, *_): return b'forged'
S('real')
# ---- an error's notes
# none | ValueError: x | line 3
e = ValueError('x')
e.add_note('y' * 10)
raise e
# ---- a BaseException
# none | BaseException: x | line 1
raise BaseException('x')
# ---- an interrupt of the program's own
# none | KeyboardInterrupt | line 2
import signal
signal.raise_signal(signal.SIGINT)
