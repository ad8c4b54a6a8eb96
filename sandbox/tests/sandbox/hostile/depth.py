# ---- a call
# none | RecursionError: maximum recursion depth exceeded | line 1
def f(): return f()
f()
# ---- a call, whatever the limit
# crash | RecursionError: the interpreter's stack overflowed
import sys
sys.setrecursionlimit(10**9)
def f(n): return f(n + 1) + 1
f(0)
# ---- a call that raises the limit as it goes
# crash | RecursionError: the interpreter's stack overflowed
import sys
def f():
    try: f()
    except RecursionError:
        sys.setrecursionlimit(sys.getrecursionlimit() + 1000)
        f()
f()
# ---- a call in every finally
# fuel
def f():
    try: f()
    finally: f()
f()
# ---- a repr
# none | RecursionError: Stack overflow (used 112 kB) while calling a Python object | line 4
import sys
sys.setrecursionlimit(10**9)
class A:
    def __repr__(self): return repr(self)
A()
# ---- a nested list's repr
# none | RecursionError: Stack overflow (used 112 kB) while getting the repr of an object | line 5
import sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**5): x = [x]
repr(x)
# ---- an attribute
# none | RecursionError: Stack overflow (used 112 kB) | line 4
import sys
sys.setrecursionlimit(10**9)
class A:
    def __getattr__(self, name): return getattr(self, name)
A().x
# ---- a missing key
# none | RecursionError: Stack overflow (used 112 kB) | line 4
import sys
sys.setrecursionlimit(10**9)
class D(dict):
    def __missing__(self, key): return self[key]
D()[1]
# ---- a constructor
# none | RecursionError: Stack overflow (used 112 kB) while calling a Python object | line 4
import sys
sys.setrecursionlimit(10**9)
class A:
    def __init__(self): A()
A()
# ---- a comparison
# none | RecursionError: Stack overflow (used 112 kB) in comparison | line 4
x, y = [0], [0]
x.append(y)
y.append(x)
x == y
# ---- a nested comparison
# none | RecursionError: Stack overflow (used 112 kB) in comparison | line 3
a = b = 0
for _ in range(10**5): a, b = {1: a}, {1: b}
a == b
# ---- pickle
# none | RecursionError: Stack overflow (used 112 kB) while pickling an object | line 5
import pickle, sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**5): x = [x]
pickle.dumps(x)
# ---- json, writing
# none | RecursionError: Stack overflow (used 112 kB) while encoding a JSON object | line 5
import json, sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(10**5): x = [x]
json.dumps(x)
# ---- json, reading
# none | RecursionError: Stack overflow (used 112 kB) while decoding a JSON array from a unicode string | line 3
import json, sys
sys.setrecursionlimit(10**9)
json.loads('[' * 10**6)
# ---- a deep copy
# none | - | 1\n
import copy, sys
sys.setrecursionlimit(10**9)
x = []
for _ in range(5000): x = [x]
print(len(copy.deepcopy(x)))
# ---- marshal
# none | ValueError: object too deeply nested to marshal | line 4
import marshal
x = ()
for _ in range(10**5): x = (x,)
marshal.dumps(x)
# ---- a regular expression's groups
# none | - | 5000
import re, sys
sys.setrecursionlimit(10**9)
re.compile('(' * 5000 + ')' * 5000).groups
# ---- the parser
# none | MemoryError: Parser stack overflowed - Python source too complex to parse | line 1
eval('(' * 10000 + ')' * 10000)
# ---- the parser, of signs
# none | MemoryError: Parser stack overflowed - Python source too complex to parse | line 1
eval('-' * 100000 + '1')
# ---- the compiler
# none | RecursionError: Stack overflow (used 112 kB) during compilation | line 3
import sys
sys.setrecursionlimit(10**9)
eval('+'.join(['1'] * 50000))
# ---- a tree made by hand
# none | RecursionError: Stack overflow (used 112 kB) while traversing 'expr' node | line 4
import ast
t = ast.Constant(1)
for _ in range(20000): t = ast.UnaryOp(ast.USub(), t, lineno=1, col_offset=0)
compile(ast.Expression(t), 'x', 'eval')
# ---- blocks
# none | RecursionError: Stack overflow (used 113 kB) during compilation | line 1
compile(''.join(' ' * i + 'if 1:\n' for i in range(99)) + ' ' * 99 + '1', 'x', 'exec')
# ---- a literal_eval
# none | MemoryError: Parser stack overflowed - Python source too complex to parse | line 2
import ast
ast.literal_eval('[' * 150 + ']' * 150) == []
# ---- iterators over iterators
# crash | RecursionError: the interpreter crashed (_Py_CheckRecursiveCall: Unrecoverable stack overflow (used 128 kB) while calling a Python object)
import sys
sys.setrecursionlimit(10**9)
x = iter([1])
for _ in range(10**5): x = map(abs, x)
next(x)
# ---- iterators over iterators, dropped
# crash | RecursionError: the interpreter's stack overflowed
import itertools
x = iter([1])
for _ in range(10**5): x = itertools.chain(x)
del x
'dropped'
# ---- generators in generators
# none | - | 125250
import sys
sys.setrecursionlimit(10**9)
def g(n):
    if n: yield from g(n - 1)
    yield n
sum(g(500))
# ---- lists in lists, dropped
# none | - | 'dropped'
x = []
for _ in range(10**5): x = [x]
del x
'dropped'
# ---- partials in partials
# none | - | 1
import functools
f = abs
for _ in range(10**5): f = functools.partial(f)
f(-1)
# ---- causes
# none | ValueError: 99999 | line 5
e = None
for i in range(10**5):
    x = ValueError(i)
    x.__context__, e = e, x
raise e
# ---- groups
# none | ExceptionGroup: g (1 sub-exception) | line 3
e = ValueError('inner')
for i in range(10**4): e = ExceptionGroup('g', [e])
raise e
# ---- groups, split
# none | RecursionError: Stack overflow (used 112 kB) in exceptiongroup_split_recursive | line 5
import sys
sys.setrecursionlimit(10**9)
e = ValueError('inner')
for i in range(10**4): e = ExceptionGroup('g', [e])
e.split(ValueError)
# ---- classes
# none | - | 302
import sys
sys.setrecursionlimit(10**9)
class A: pass
for _ in range(300):
    class A(A): pass
len(A.__mro__)
# ---- a metaclass
# none | RecursionError: Stack overflow (used 112 kB) | line 4
import sys
sys.setrecursionlimit(10**9)
class M(type):
    def __call__(cls): return cls()
class A(metaclass=M): pass
A()
# ---- isinstance in a nested tuple
# none | - | False
x = int
for _ in range(10**5): x = (x,)
isinstance('', x)
# ---- unions
# none | - | 'made'
import typing
x = int
for i in range(100): x = x | list[x]
'made'
# ---- sympy
# none | - | 751
from sympy import *
x = symbols('x')
e = x
for _ in range(150): e = sin(e)
len(str(e))
# ---- a __del__ chain
# none | - | 'dropped'
class A:
    def __init__(self, next): self.next = next
a = None
for _ in range(10**5): a = A(a)
del a
'dropped'
# ---- tracebacks
# none | ValueError: deep | line 4
import sys
sys.setrecursionlimit(10**9)
def f(n):
    if n == 0: raise ValueError('deep')
    f(n - 1)
f(10**5)
