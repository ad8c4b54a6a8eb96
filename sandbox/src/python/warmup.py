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
# ----
import calendar, numbers, pprint, secrets, sys, uuid
from dataclasses import dataclass
import sympy.abc, sympy.sets.handlers.issubset, sympy.matrices.normalforms, sympy.polys.numberfields
import numpy.polynomial, numpy.linalg, numpy.fft, numpy.random, networkx.algorithms.bipartite
print(calendar.isleap(2000), secrets.token_hex(2), f"{10**9:,} {1/3:.3e} {255:#x} {7:>5}|{7:^5}|{0.25:.0%}", [*zip("ab", (1, 2))])
class Node:
    def __init__(self, value):
        self.value = value
    def __repr__(self):
        return f"Node({self.value!r})"
match [Node(1), {"k": 2}]:
    case [Node(value=v), {"k": w}]:
        print(v + w, sorted([Node(3), Node(1)], key=lambda n: n.value), {*"abc"} & {*"bcd"}, "naïve ∑ 😀".upper(), ascii("é"))
@dataclass(order=True)
class Pair:
    a: int = 0
    b: int = 0
print(Pair(), [a + b for a in range(3) for b in range(3) if a < b], {k: v for k, v in [(1, 2)]}, sum(x * x for x in range(50)))
for bad in ("[][1]", "{}['q']", "int('x')", "None + 1", "undefined", "(1).foo", "'a' + 1", "f'{1:z}'", "1 +", "import nothing"):
    try:
        exec(bad)
    except Exception as e:
        print(type(e).__name__, e)
# ----
from sympy import *
x, y, z, a, b, c, t = symbols("x y z a b c t")
r, s = symbols("r s", real=True)
p, q = symbols("p q", positive=True)
n, k, m = symbols("n k m", integer=True)
print(solve(a*x**2 + b*x + c, x), solve(4*x**2 - 9*x - 8, x), solve(x**4 - 10*x**2 + 1, x), solve(x**3 - 2*x**2 - 5*x + 4, x))
print(solve(sqrt(r + 3) - r + 3, r), solve(Abs(r - 2) - 7, r), solve(log(p, 3) - 4, p), solve(9**r - 4*3**r + 3, r))
print(solve([x**2 + y**2 - 10, x + y - 4], [x, y], dict=True), solve([x + y + z - 9, x - y - 1, y*z - 6], [x, y, z]))
print(solve(2*sin(t) - sqrt(3), t), solve(cos(2*t) + cos(t), t), solve(r**2 - 9 < 0, r), solve(x*y - 6, x))
print(solveset(sin(x) - Rational(1, 2), x, Interval(0, 2*pi)), solveset(exp(x) - 5, x, S.Reals), solveset(x**2 + 3*x + 2, x))
print(linsolve([x + 2*y - 5, 3*x - y - 1], [x, y]), nonlinsolve([x*y - 2, x - y - 1], [x, y]), reduce_inequalities([r > 1, r**2 < 16], r))
print(solve_univariate_inequality((r - 2)/(r + 1) >= 0, r, relational=False), nsolve(x**3 + x - 5, x, 1))
print(simplify((x**2 - 4)/(x - 2)), simplify(cos(x)**2 - sin(x)**2), radsimp(1/(sqrt(5) - sqrt(2))), sqrtdenest(sqrt(7 + 4*sqrt(3))))
print(expand_trig(cos(2*x)), expand_log(log(p*q)), powsimp(x**a*x**b), logcombine(log(p) + log(q)), collect(x*y + x + y, x), nsimplify(0.125))
print(cos(pi/12), sin(pi/5), tan(pi/12), atan(1), N(sqrt(3), 30), (sqrt(2) + sqrt(3)).evalf(), simplify(sqrt(3 + 2*sqrt(2))), Rational(22, 7).round(3))
print(expand((2 + 3*I)**4), conjugate(1 + I), arg(1 + I), exp(I*pi/3).rewrite(cos), expand_complex((1 + I*sqrt(3))**5), im(3 - I))
print(Piecewise((x, x > 1), (0, True)).subs(x, 3), Max(3, 5, x).subs(x, 9), floor(Rational(7, 2)), ceiling(2.1), Mod(17, 5), sign(-3))
print(latex(sqrt(x)/2 + Integral(x, x)), pretty(x**2 + 1/x), srepr(x + 1), sympify("x**2 + 2*x"), Eq(x, 2), x > 2, lambdify(x, x**2)(3))
# ----
from sympy import *
x, y, t = symbols("x y t")
n, k = symbols("n k", integer=True, positive=True)
u = symbols("u", positive=True)
f, g = Function("f"), Function("g")
print(integrate(x**4 - 2*x, (x, 0, 2)), integrate(1/(x**2 + 4), x), integrate(x*sin(x), x), integrate(log(x), x), integrate(1/x, (x, 1, 2)))
print(integrate(sin(x)**2, (x, 0, pi)), integrate(x*exp(-x**2), (x, 0, oo)), integrate(exp(-x**2/3), (x, -oo, oo)), integrate(sqrt(9 - x**2), (x, 0, 3)))
print(integrate((x + 1)/(x**2 + 2*x + 5), x), integrate(x*y, (x, 0, y), (y, 0, 1)), integrate(1/sqrt(1 - x**2), x), integrate(tan(x), x))
print(limit((exp(x) - 1)/x, x, 0), limit((1 + 2/n)**n, n, oo), limit((3*n**2 + n)/(n**2 - 1), n, oo), limit(sqrt(u + 1) - sqrt(u), u, oo), limit(1/x, x, 0, "+"))
print(series(cos(x), x, 0, 6), series(log(1 + x), x, 0, 5), series(1/(1 - x), x, 0, 5), series(sqrt(1 + x), x, 0, 4).removeO())
print(diff(exp(x**2), x, 2), diff(x**x, x), idiff(x**2 + y**2 - 5, y, x), hessian(x**2*y, (x, y)), solve(diff(x**3 - 3*x, x), x))
print(summation(k**2, (k, 1, 30)), summation(1/(k*(k + 1)), (k, 1, n)), summation(Rational(1, 3)**k, (k, 0, oo)), summation(1/k**4, (k, 1, oo)))
print(Sum(k*2**k, (k, 1, n)).doit(), factor(summation(k**3, (k, 1, n))), product(1 + 1/k, (k, 1, n)), Sum(1/factorial(k), (k, 0, oo)).doit())
print(dsolve(f(x).diff(x) - 3*f(x), f(x)), dsolve(f(x).diff(x, 2) + f(x), f(x)), rsolve(g(n + 1) - 2*g(n) - 1, g(n), {g(0): 0}))
print(gamma(5), gamma(Rational(3, 2)), zeta(2), Integral(exp(-x), (x, 0, 1)).evalf(), laplace_transform(exp(-u), u, t, noconds=True))
# ----
from sympy import *
x, y, z, a = symbols("x y z a")
p = Poly(x**4 - 3*x**3 + 2*x - 5, x)
print(p.nroots(n=8), p.discriminant(), p.eval(2), p.factor_list(), p.count_roots(), Poly(x**2 + y, x, y).coeffs(), p.diff(), p*p, p + 1)
print(factor(x**5 - 1), factor(x**2*y - y**3), factor_list(x**6 - 1), gcd(x**2 - 1, x**3 - 1), lcm(x - 1, x + 1), div(x**3 + 1, x - 2, x), resultant(x**2 - y, x - 2, x))
print(expand((1 + x + x**2)**6).coeff(x, 5), Poly((x + 1)**8, x).coeff_monomial(x**3), real_roots(x**3 - 4*x + 1), roots(x**3 - 3*x + 2, x), RootOf(x**5 + x + 1, 0).n(5))
print(groebner([x*y - 1, x + y - 3], x, y), minimal_polynomial(sqrt(2) + sqrt(5), x), interpolate([(0, 1), (1, 3), (2, 7)], x), cyclotomic_poly(9, x))
print(factor(x**2 - 3, extension=sqrt(3)), Poly(x**3 + x + 1, x, modulus=7).factor_list(), symmetrize(x**2 + y**2, [x, y]), apart(x/(x**2 - 4)), cancel((x**2 - 1)/(x - 1)))
print(degree(x**3 + x, x), LC(3*x**2), horner(x**2 + x + 1), sqf_list(x**3 - x**2), rem(x**30, x**2 - 3*x + 1, x), solve_undetermined_coeffs(a*x - 2*x, [a], x))
M, N_ = Matrix([[2, 1, 0], [1, 3, 1], [0, 1, 2]]), Matrix([[x, 1], [1, x]])
print(M.det(), M.inv(), M.rref(), M.eigenvals(), M.charpoly(x), M**4, M.rank(), M.trace(), M.T, M.nullspace(), M.LUsolve(Matrix([1, 2, 3])))
print(N_.det(), N_.inv(), N_.eigenvects(), Matrix([[3, 1], [0, 2]]).diagonalize(), eye(2) + ones(2, 2), Matrix([1, 2, 3]).cross(Matrix([0, 1, 4])), Matrix([3, 4]).norm(), Matrix(2, 2, lambda i, j: i + j))
print(Matrix([[1, 1], [1, 0]])**30, M.adjugate(), M.is_symmetric(), M.QRdecomposition()[1], M.subs(2, 5), diag(1, 2).exp(), Matrix([[2, 4], [6, 8]]).jordan_form()[1])
# ----
from sympy import *
from sympy.geometry import *
from sympy.combinatorics import Permutation, PermutationGroup, SymmetricGroup, DihedralGroup
from sympy.ntheory import *
from sympy.ntheory.modular import crt, solve_congruence
from sympy.ntheory.residue_ntheory import *
from sympy.ntheory.continued_fraction import *
from sympy.functions.combinatorial.numbers import *
from sympy.utilities.iterables import partitions, multiset_permutations
from sympy.solvers.diophantine import diophantine
sieve.extend(20000)
T, C = Triangle(Point(0, 0), Point(6, 0), Point(2, 4)), Circle(Point(1, 2), 3)
print(T.area, T.perimeter, T.incenter, T.circumcircle, T.centroid, T.orthocenter, T.inradius, C.area, C.equation(), C.intersection(Line(Point(0, 0), Point(1, 1))))
print(Line(Point(0, 1), Point(2, 5)).intersection(Line(Point(0, 4), Point(4, 0))), Point(1, 1).midpoint(Point(3, 5)), Segment((0, 0), (3, 4)).length, C.intersection(Circle(Point(3, 2), 3)))
print(Line((0, 0), (1, 2)).distance(Point(3, 1)), Line((0, 0), (1, 2)).perpendicular_line(Point(1, 0)), RegularPolygon(Point(0, 0), 1, 6).area, Point(2, 3).reflect(Line((0, 0), (1, 1))), Point3D(1, 2, 3).distance(Point3D(0, 0, 0)))
print(Permutation([2, 0, 1]).order(), Permutation([1, 0, 3, 2]).cyclic_form, SymmetricGroup(4).order(), [g.cycles for g in DihedralGroup(4).elements][:2], PermutationGroup(Permutation([1, 2, 0])).is_abelian)
print(factorint(987654321), factorint(10**12 + 39), primefactors(5040), divisors(5040)[:9], divisor_count(360), divisor_sigma(360), totient(1001), mobius(30), primepi(1000), prime(100), prevprime(50))
print(crt([3, 5], [1, 2]), solve_congruence((1, 2), (2, 3)), n_order(3, 101), primitive_root(23), legendre_symbol(3, 11), sqrt_mod(2, 7, True), discrete_log(41, 15, 7), multiplicity(3, 81), perfect_power(64), integer_nthroot(27, 3))
print(continued_fraction(sqrt(7)), binomial(20, 6), catalan(6), fibonacci(40), lucas(9), bell(6), harmonic(9), stirling(6, 3), subfactorial(6), bernoulli(8), partition(30), nC(5, 2), factorial2(7), sum(1 for _ in partitions(9)))
print(list(multiset_permutations("aab")), digits(255, 2), igcd(12, 18), reduced_totient(21), quadratic_residues(7), is_primitive_root(3, 7), jacobi_symbol(2, 15), isprime(10**18 + 9), randprime(10, 20) > 0)
X, Y = symbols("x y", integer=True)
print(diophantine(3*X + 7*Y - 40), diophantine(X*Y - 2*X - 3*Y - 6), diophantine(X**2 - 3*Y**2 - 1), diophantine(X**2 + Y**2 - 50))
# ----
import numpy as np
A, v = np.array([[4.0, 1.0, 0.0], [1.0, 3.0, 1.0], [0.0, 1.0, 2.0]]), np.arange(10)
print(np.linalg.inv(A), np.linalg.eigvalsh(A), np.linalg.eigh(A)[0], np.linalg.svd(A)[1], np.linalg.qr(A)[1], np.linalg.cholesky(A), np.linalg.matrix_rank(A), np.linalg.matrix_power(A, 3), np.linalg.norm(A), np.linalg.lstsq(A, [1, 2, 3], rcond=None)[0])
print(v[v % 2 == 0], v.cumsum(), v.reshape(2, 5).T, np.unique(v % 3, return_counts=True), np.sort(-v), np.argsort(v), np.outer(v[:3], v[:3]), np.cross([1, 2, 3], [3, 2, 1]), np.dot(v, v), np.diff(v), np.mod(v, 4), v.std(), v.var(), np.median(v))
print(np.polyval([1, 2, 3], 2), np.poly1d([1, -3, 2]), np.convolve([1, 2], [3, 4]), np.fft.ifft(np.fft.fft(v)).real.round(3), np.gcd.reduce([12, 18]), np.bincount(v % 3), np.histogram(v, 3), np.percentile(v, 50), np.corrcoef(v, v**2), np.zeros((2, 2), int), np.allclose(A, A.T), np.full(2, 7), np.eye(2, dtype=bool), np.array([1, "a"]), np.float64(0.5), np.vstack([v, v]).shape, np.meshgrid(v, v)[0].sum(), np.isclose(0.1 + 0.2, 0.3), np.array2string(v), np.einsum("i,i", v, v), np.array([1j, 2]), np.nan, np.kron([1, 2], [1, 1]), np.interp(1.5, [1, 2], [3, 4]))
np.random.seed(1); print(np.random.rand(2), np.random.randint(0, 9, 3), np.random.default_rng(5).normal(size=2), np.random.default_rng(5).choice([1, 2], 3))
from numpy.polynomial import Polynomial
print(Polynomial([2, -3, 1]).roots(), Polynomial([1, 2]) * Polynomial([1, 1]))
import networkx as nx
G, D = nx.Graph(), nx.DiGraph([(1, 2), (2, 3), (1, 3)])
G.add_weighted_edges_from([(1, 2, 3), (2, 3, 1), (1, 3, 7), (3, 4, 2)])
print(nx.dijkstra_path(G, 1, 4), nx.minimum_spanning_tree(G).edges, [*nx.connected_components(G)], nx.diameter(G), [*nx.find_cliques(G)], [*nx.topological_sort(D)], [*nx.all_simple_paths(G, 1, 4)], nx.to_numpy_array(G), nx.is_bipartite(G), nx.greedy_color(G), nx.max_weight_matching(G), nx.complete_graph(4).number_of_edges(), nx.grid_2d_graph(2, 3).degree, [*nx.eulerian_circuit(nx.cycle_graph(4))], nx.is_isomorphic(G, G), nx.maximum_flow_value(nx.DiGraph([("s", "t", {"capacity": 3})]), "s", "t"), G)
import mpmath
from mpmath import mp
for dps in (15, 20, 25, 30, 50):
    mp.dps = dps
    print(mpmath.quad(lambda t: mpmath.exp(-t), [0, 1]), mp.pi, mp.e, mpmath.sqrt(2), mpmath.log(3), mpmath.zeta(3), mpmath.gamma(mpmath.mpf(1) / 4), mpmath.sin(1), mpmath.atan(2), mpmath.exp(1))
mp.dps = 15
print(mpmath.nsum(lambda k: 1 / k**3, [1, mpmath.inf]), mpmath.findroot(lambda t: t**2 - 2, 1), mpmath.polyroots([1, -3, 1]), mpmath.identify(1.41421356237309515), mpmath.nstr(mpmath.mpc(1, 2), 5), mpmath.matrix([[1, 2], [3, 4]]), mpmath.diff(mpmath.sin, 1), mpmath.mpf(1) / 3)
