# ---- a loop
# fuel
while True: pass
# ---- a generator without end
# fuel
def f():
    while True: yield
for _ in f(): pass
# ---- a loop that catches everything
# fuel
while True:
    try:
        while True: pass
    except BaseException: pass
# ---- a comprehension
# fuel
[0 for _ in iter(int, 1)]
# ---- a sum
# fuel
import itertools
sum(itertools.count())
# ---- membership in a stream without end
# fuel
10**10 in iter(int, 1)
# ---- a queue that keeps nothing
# fuel
import itertools, collections
collections.deque(itertools.repeat(0), maxlen=0)
# ---- combinations
# fuel
import itertools
for _ in itertools.combinations(range(100), 50): pass
# ---- bytes joined without end
# fuel
b''.join(iter(bytes, 1))
# ---- a set filled with one number
# fuel
set().update(iter(int, 1))
# ---- a power
# fuel
7 ** (10 ** 8)
# ---- a product of big numbers
# fuel
int('9' * 4300) ** 300000
# ---- digits of a big number
# fuel
import sys
sys.set_int_max_str_digits(0)
str(7 ** 1000000)
# ---- a modular power
# fuel
pow(3, 10**50000, 10**50000 + 1)
# ---- a factorial
# fuel
import math
math.factorial(10**7)
# ---- a binomial coefficient
# fuel
import math
math.comb(10**7, 5 * 10**6)
# ---- many decimal places
# fuel
import decimal
decimal.getcontext().prec = 10**6
decimal.Decimal(2).sqrt()
# ---- nested quantifiers
# fuel
import re
re.match(r'(a+)+$', 'a' * 40 + 'b')
# ---- an ambiguous alternative
# fuel
import re
re.match(r'(a|aa)+$', 'a' * 60 + 'b')
# ---- replacing, again and again
# fuel
x = 'a' * 1000000
while True: x.replace('a', 'b')
# ---- searching for what is almost there
# fuel
s = ('a' * 500 + 'b') * 2000
while True: s.find('a' * 250 + 'b' + 'a' * 250 + 'a')
# ---- sorting by an order that never says no
# fuel
class E:
    def __lt__(self, other): return True
sorted([E() for _ in range(10**6)])
# ---- sorting by an order that never says
# fuel
class E:
    def __lt__(self, other):
        while True: pass
sorted([E(), E()])
# ---- a key without end
# fuel
max(iter(int, 1), key=lambda x: x)
# ---- copying, again and again
# fuel
x = bytearray(50 << 20)
while True: y = x[:]
# ---- random bytes, again and again
# fuel
import os
while True: os.urandom(1 << 20)
# ---- reading the library, again and again
# fuel
f = open('/usr/local/lib/python315.zip', 'rb', buffering=0)
b = bytearray(20 << 20)
while True: f.readinto(b); f.seek(0)
# ---- asking for too much memory, again and again
# fuel
while True:
    try: bytes(1 << 30)
    except MemoryError: pass
# ---- matrices
# fuel
import numpy as np
a = np.ones((300, 300))
while True: a @ a
# ---- sorting in numpy
# fuel
import numpy as np
a = np.zeros(10**6)
while True: a.sort()
# ---- expanding
# fuel
from sympy import *
x, y, z = symbols('x y z')
expand((x + y + z + 1) ** 200)
# ---- decompressing
# fuel
import zlib
zlib.decompress(zlib.compress(bytes(10**8)))
# ---- waiting for the clock
# fuel
import time
while time.time() < 2**40: pass
# ---- a __del__
# fuel
class A:
    def __del__(self):
        while True: pass
A()
# ---- a __del__ found by the collector
# fuel
import gc
class A:
    def __del__(self):
        while True: pass
a = A()
a.a = a
del a
gc.collect()
# ---- a callback of a weak reference
# fuel
import weakref
class A: pass
def f(*_):
    while True: pass
a = A()
r = weakref.ref(a, f)
del a
# ---- a finalizer
# fuel
import weakref
class A: pass
def f():
    while True: pass
a = A()
weakref.finalize(a, f)
del a
# ---- a finalizer at exit
# fuel
import weakref
class A: pass
def f():
    while True: pass
a = A()
weakref.finalize(a, f)
# ---- an exit handler
# fuel
import atexit
def f():
    while True: pass
atexit.register(f)
# ---- an exit handler after an error
# fuel
import atexit
def f():
    while True: pass
atexit.register(f)
1 / 0
# ---- a trace function
# fuel
import sys
def t(*_):
    while True: pass
sys.settrace(t)
def f(): pass
f()
# ---- a trace function that waits for the driver
# fuel
import sys
def t(*_):
    while True: pass
sys.settrace(t)
# ---- a profile function
# fuel
import sys
def t(*_):
    while True: pass
sys.setprofile(t)
# ---- a monitoring callback
# fuel
import sys
m = sys.monitoring
m.use_tool_id(1, 'x')
def t(*_):
    while True: pass
m.register_callback(1, m.events.PY_START, t)
m.set_events(1, m.events.PY_START)
def f(): pass
f()
# ---- a callback of the collector
# fuel
import gc
def f(*_):
    while True: pass
gc.callbacks.append(f)
gc.collect()
# ---- an audit hook
# fuel
import sys
def f(*_):
    while True: pass
sys.addaudithook(f)
compile('1', 'x', 'eval')
# ---- the repr of the value
# fuel
class A:
    def __repr__(self):
        while True: pass
A()
# ---- the str of the error
# fuel
class E(Exception):
    def __str__(self):
        while True: pass
raise E
# ---- a hash
# fuel
class A:
    def __hash__(self):
        while True: pass
{A()}
# ---- an equality
# fuel
class A:
    def __hash__(self): return 1
    def __eq__(self, other):
        while True: pass
{A(), A()}
# ---- a comparison of a generator's close
# fuel
def g():
    try: yield
    finally:
        while True: pass
x = g()
next(x)
x.close()
# ---- a generator dropped
# fuel
def g():
    try: yield
    finally:
        while True: pass
x = g()
next(x)
del x
# ---- an unraisable hook
# fuel
import sys
def f(*_):
    while True: pass
sys.unraisablehook = f
class A:
    def __del__(self): 1 / 0
A()
# ---- a stream that never finishes a flush
# fuel
import sys
class F:
    def write(self, text): pass
    def flush(self):
        while True: pass
sys.stdout = F()
# ---- a query
# fuel
import sqlite3
sqlite3.connect(':memory:').execute('with recursive n(i) as (select 1 union all select i + 1 from n) select sum(i) from n').fetchall()
# ---- a database's own function
# fuel
import sqlite3
def f(*_):
    while True: pass
c = sqlite3.connect(':memory:')
c.create_function('f', 0, f)
c.execute('select f()')
# ---- a coroutine
# fuel
async def f():
    class A:
        def __await__(self):
            while True: yield
    await A()
for _ in iter(lambda: f().send(None), 1): pass
# ---- a signal handler
# fuel
import signal
def f(*_):
    while True: pass
signal.signal(signal.SIGINT, f)
signal.raise_signal(signal.SIGINT)
# ---- a metaclass
# fuel
class M(type):
    def __instancecheck__(cls, other):
        while True: pass
class A(metaclass=M): pass
isinstance(1, A)
# ---- an import hook
# fuel
import sys
class F:
    def find_spec(self, *_):
        while True: pass
sys.meta_path.insert(0, F())
import nothing
# ---- a codec
# fuel
import codecs
def f(name):
    while True: pass
codecs.register(f)
'x'.encode('nothing')
# ---- an object left alive: nobody waits for its __del__
# none | -
class A:
    def __del__(self):
        while True: pass
a = A()
# ---- an excepthook: nobody calls it
# none | ZeroDivisionError: division by zero | line 5
import sys
def f(*_):
    while True: pass
sys.excepthook = f
1 / 0
# ---- a displayhook: nobody calls it
# none | - | 5
import sys
def f(*_):
    while True: pass
sys.displayhook = f
5
# ---- an exit handler that registers itself
# none | - | 'registered'
import atexit
def f(): atexit.register(f)
atexit.register(f)
'registered'
# ---- a long sleep takes no time
# none | - | True\n
import time
time.sleep(10**9)
print(round(time.time()) > 2 * 10**9)
