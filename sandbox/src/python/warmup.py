"""Programs run before the snapshot is taken, so that what programs usually need is imported, compiled and cached in it.

Each part between the lines of dashes is one program, run on its own; none may depend on another or fail.
"""
import math, cmath, itertools, functools, collections, fractions, decimal, random, statistics, re, string, json
import time, datetime, operator, heapq, bisect, copy, typing, dataclasses, enum, contextlib, io, textwrap, traceback
from fractions import Fraction
from decimal import Decimal, getcontext
from collections import Counter, defaultdict, deque
from itertools import combinations, permutations, product, count, accumulate
print(Fraction(1, 3) + Fraction(1, 6), Decimal(1) / 7, math.comb(10, 3), Counter("abca").most_common(1))
print(sum(1 for p in permutations(range(5)) if p[0] < p[1]), f"{math.pi:.6f}", 2 ** 200 % 1007, pow(3, -1, 7))
print(sorted({1: 2}.items(), key=lambda kv: -kv[1]), "%d" % 3, [*map(int, "1 2 3".split())], divmod(17, 5))
print(re.findall(r"\d+", "a1b22"), json.dumps({"a": [1, 2.5]}), datetime.date(2024, 1, 31), random.random())
@functools.cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
print(fib(90), all(17 % k for k in range(2, 5)), round(2.5), 7 // 2, -7 % 3, 1e-9, 10 ** 30)
# ----
def broken():
    return {}["missing"]
try:
    broken()
except KeyError as e:
    print(repr(e))
import traceback
try:
    1 / 0
except ZeroDivisionError as e:
    "".join(traceback.format_exception(e))
try:
    compile("x = (", "main.py", "exec")
except SyntaxError as e:
    "".join(traceback.format_exception(e))
# ----
import sympy
from sympy import *
x, y, z = symbols("x y z")
n, k = symbols("n k", integer=True, positive=True)
print(solve(x**3 - 6*x**2 + 11*x - 6, x), solve([x + y - 3, x - y - 1], [x, y]), solve(x**2 + x + 1, x))
print(factor(x**4 - 1), expand((x + 1)**5), simplify(sin(x)**2 + cos(x)**2), diff(x**3 * sin(x), x))
print(integrate(x**2 * exp(x), x), integrate(1 / (1 + x**2), (x, 0, oo)), limit(sin(x) / x, x, 0), series(exp(x), x, 0, 4))
print(factorint(2**40 - 1), isprime(2**61 - 1), primerange(2, 30), divisors(360), totient(100), gcd(48, 36), lcm(4, 6))
print(Rational(3, 4) + Rational(1, 8), sqrt(8), N(pi, 20), nsimplify(0.75), binomial(10, 4), factorial(12), floor(sqrt(10)))
print(Matrix([[1, 2], [3, 4]]).det(), Matrix([[2, 1], [1, 2]]).eigenvals(), Matrix([[1, 2], [3, 4]]).inv())
print(summation(k**2, (k, 1, n)), Sum(1 / k**2, (k, 1, oo)).doit(), product(k, (k, 1, 5)), latex(x**2 / 2))
print(solveset(x**2 - 4, x, S.Reals), solve(Eq(2**x, 8), x), solve(x**2 - 2*x - 8 > 0, x), nsolve(cos(x) - x, x, 1))
print(Poly(x**3 + 2*x + 1, x).all_coeffs(), roots(x**3 - 1, x), together(1/x + 1/y), apart(1 / (x**2 - 1), x))
from sympy.ntheory import discrete_log, n_order, primitive_root
from sympy.ntheory.modular import crt
from sympy.solvers.diophantine import diophantine
print(crt([3, 5, 7], [2, 3, 2]), mod_inverse(3, 11), n_order(2, 7), nextprime(100), prime(50), diophantine(x*2 + y*3 - 5))
print(solve([x**2 + y**2 - 25, x*y - 12], [x, y]), trigsimp(2*sin(x)*cos(x)), (x + y).subs({x: 1, y: 2}), re(1 + 2*I), Abs(3 + 4*I))
from sympy.geometry import Point, Line, Circle, Polygon
print(Point(0, 0).distance(Point(3, 4)), Polygon(Point(0, 0), Point(4, 0), Point(0, 3)).area)
# ----
import numpy as np
a = np.arange(12).reshape(3, 4)
print(a @ a.T, a.sum(axis=0), np.linalg.det(np.array([[2., 1], [1, 3]])), np.linalg.solve([[2., 1], [1, 3]], [1, 2]))
print(np.roots([1, -6, 11, -6]), np.linspace(0, 1, 5), np.random.default_rng(0).integers(0, 9, 3), np.array([1.5, 2]).mean())
print(np.fft.fft([1, 2, 3, 4]), np.linalg.eig(np.eye(2)), np.polyfit([0, 1, 2], [1, 3, 5], 1), np.where(a > 5)[0], np.prod([1, 2, 3]))
import networkx as nx
g = nx.Graph([(1, 2), (2, 3), (3, 4)])
print(nx.shortest_path(g, 1, 4), nx.is_connected(g))
import mpmath
mpmath.mp.dps = 30
print(mpmath.quad(mpmath.sin, [0, 1]), mpmath.findroot(mpmath.cos, 1))
mpmath.mp.dps = 15
