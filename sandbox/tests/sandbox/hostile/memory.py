# ---- a string
# memory | MemoryError | line 1
x = 'a' * (1 << 30)
# ---- bytes
# memory | MemoryError | line 1
x = bytearray(400 << 20)
# ---- a list
# memory | MemoryError | line 1
[0] * 10**9
# ---- a list of a range
# memory | MemoryError | line 1
list(range(10**9))
# ---- a list that doubles
# memory | MemoryError | line ?
x = [[]]
while True: x *= 2
# ---- a list that grows
# memory | MemoryError | line ?
x = []
while True: x.append(bytes(1 << 20))
# ---- a dict that grows
# memory | MemoryError | line ?
d = {}
while True: d[len(d)] = bytes(10000)
# ---- a shift
# memory | MemoryError | line 1
1 << (8 << 28)
# ---- a shift that is too much to ask
# memory | MemoryError | line 1
1 << (8 << 30)
# ---- a format's width
# memory | MemoryError | line 1
'%1000000000d' % 1
# ---- an f-string's width
# memory | MemoryError | line 1
f'{1:1000000000}'
# ---- justification
# memory | MemoryError | line 1
'a'.ljust(10**9)
# ---- tabs
# memory | MemoryError | line 1
'\t'.expandtabs(10**9)
# ---- hex
# memory | MemoryError | line 1
bytes(10**8).hex()
# ---- an array
# memory | MemoryError | line ?
import array
array.array('Q', bytes(800)) * 10**7
# ---- a file in memory
# memory | MemoryError | line ?
import io
b = io.BytesIO()
while True: b.write(bytes(1 << 20))
# ---- text in memory
# memory | MemoryError | line ?
import io
x = io.StringIO()
while True: x.write('a' * 100000)
# ---- formatting that doubles
# memory | MemoryError | line ?
x = 'x'
while True: x = f'[{x}' + x
# ---- generators held
# memory | MemoryError | line ?
held = []
def g():
    a = bytearray(100000)
    yield
while True:
    held.append(g())
    next(held[-1])
# ---- generators nested
# memory | MemoryError | line ?
import sys
sys.setrecursionlimit(10**9)
def g():
    a = bytearray(100000)
    yield from g()
next(g())
# ---- groups nested
# memory | MemoryError | line ?
e = ValueError(bytes(100000))
while True: e = ExceptionGroup('x', [e, ValueError(bytes(100000))])
# ---- contexts chained
# memory | MemoryError | line ?
e = None
while True:
    x = ValueError(bytes(100000))
    x.__context__, e = e, x
# ---- exceptions nested
# memory | MemoryError | line ?
import sys
sys.setrecursionlimit(10**9)
def f(n):
    try: raise ValueError(bytes(100000))
    except ValueError: f(n + 1)
f(0)
# ---- closures nested
# memory | MemoryError | line ?
import sys
sys.setrecursionlimit(10**9)
def f():
    x = bytearray(10**6)
    def g(): return x
    f()
f()
# ---- coroutines
# memory | MemoryError | line ?
held = []
async def f(): a = bytearray(100000)
while True:
    held.append((f(), bytes(100000)))
# ---- numpy
# memory | numpy._core._exceptions._ArrayMemoryError: Unable to allocate 763. MiB for an array with shape (100000000,) and data type float64 | line ?
import numpy as np
np.ones(10**8)
# ---- numpy, bit by bit
# memory | numpy._core._exceptions._ArrayMemoryError: Unable to allocate 781. KiB for an array with shape (100000,) and data type float64 | line ?
import numpy as np
x = []
while True: x.append(np.ones(100000))
# ---- numpy, beyond all bounds
# none | ValueError: array is too big; `arr.size * arr.dtype.itemsize` is larger than the maximum possible size. | line 2
import numpy as np
np.zeros(10**9)
# ---- a database
# memory | MemoryError | line ?
import sqlite3
c = sqlite3.connect(':memory:')
c.execute('create table t (x)')
while True: c.execute('insert into t values (zeroblob(10000000))')
# ---- the parser, which has no room for so many brackets
# none | MemoryError: Parser stack overflowed - Python source too complex to parse | line 1
eval('[' * 1000 + ']' * 1000)
# ---- mmap
# none | OSError: mmap is unavailable on wasm32-wasi | line 2
import mmap
mmap.mmap(-1, 1 << 30)
# ---- a MemoryError of the program's own
# none | MemoryError: mine | line 1
raise MemoryError('mine')
# ---- a class of that name
# none | MemoryError: not it | line 2
class MemoryError(Exception): pass
raise MemoryError('not it')
# ---- an error after memory ran out and was let go
# none | ValueError: after | line 5
x = []
try:
    while True: x.append(bytes(1 << 16))
except MemoryError: x.clear()
raise ValueError('after')
# ---- an error after memory ran out and was kept
# none | ValueError: after | line 5
x = []
try:
    while True: x.append(bytes(1 << 16))
except MemoryError: pass
raise ValueError('after')
# ---- a value after memory ran out and was kept
# none | - | True
x = []
try:
    while True: x.append(bytes(1 << 16))
except MemoryError: pass
len(x) > 1000
# ---- caught
# none | - | fine\n
try: x = bytes(1 << 30)
except MemoryError: print('fine')
