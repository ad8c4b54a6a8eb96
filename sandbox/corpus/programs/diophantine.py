# ---- linear_two
from sympy.solvers.diophantine import diophantine
from sympy import symbols
x, y = symbols('x y', integer=True)
print(diophantine(12*x + 21*y - 33))
# ---- pell
from sympy.solvers.diophantine.diophantine import diop_DN
print(diop_DN(13, 1), diop_DN(7, 2), diop_DN(61, 1))
# ---- sum_squares
from sympy.solvers.diophantine.diophantine import sum_of_squares, sum_of_three_squares, sum_of_four_squares, power_representation
print(list(sum_of_squares(325, 2)), sum_of_three_squares(194), sum_of_four_squares(310), list(power_representation(1729, 3, 2)))
# ---- hyperbola_factoring
from sympy import divisors
# 1/x + 1/y = 1/24  ->  (x-24)(y-24) = 576
sols = [(24 + d, 24 + 576//d) for d in divisors(576)]
print(len(sols), max(s[0] for s in sols), sum(1 for a, b in sols if a <= b))
# ---- bilinear
from sympy import symbols
from sympy.solvers.diophantine import diophantine
x, y = symbols('x y', integer=True)
print(sorted(diophantine(x*y - 3*x - 5*y - 7), key=str))
# ---- quadratic_form
from sympy import symbols
from sympy.solvers.diophantine import diophantine
x, y = symbols('x y', integer=True)
print(sorted(diophantine(x**2 + y**2 - 65), key=str)[:4], len(diophantine(x**2 + y**2 - 65)))
# ---- pythagorean_general
from sympy import symbols
from sympy.solvers.diophantine import diophantine
x, y, z = symbols('x y z', integer=True)
print(diophantine(x**2 + y**2 - z**2))
# ---- brute_cubes
sols = [(x, y, z) for x in range(-12, 13) for y in range(x, 13) for z in range(y, 13) if x**3 + y**3 + z**3 == 3]
print(sols)
# ---- frobenius
def representable(n, coins):
    ok = [True] + [False]*n
    for i in range(1, n + 1):
        ok[i] = any(i >= c and ok[i - c] for c in coins)
    return ok
ok = representable(500, (11, 13, 17))
print(max(i for i, v in enumerate(ok) if not v), ok.count(False))
# ---- chinese_brute
print(next(n for n in range(1, 10**6) if n % 7 == 4 and n % 11 == 6 and n % 13 == 10 and n % 17 == 3))
# ---- markov_triples
triples = {(1, 1, 1)}
frontier = [(1, 1, 1)]
while frontier:
    a, b, c = frontier.pop()
    for t in ((b, c, 3*b*c - a), (a, c, 3*a*c - b), (a, b, 3*a*b - c)):
        t = tuple(sorted(t))
        if t not in triples and t[2] < 2000:
            triples.add(t)
            frontier.append(t)
print(sorted(triples))
# ---- square_difference
print(sorted((n, m) for n in range(1, 200) for m in range(1, n) if n*n - m*m == 315))
# ---- mod_exhaustive
print([n for n in range(1, 200) if (n**3 + 100) % (n + 10) == 0])
# ---- integer_square_expression
from math import isqrt
hits = [n for n in range(1, 2000) if isqrt(n*n + 85*n + 2017)**2 == n*n + 85*n + 2017]
print(hits, sum(hits))
# ---- ternary_quadratic
from sympy import symbols
from sympy.solvers.diophantine.diophantine import diop_ternary_quadratic
x, y, z = symbols('x y z', integer=True)
print(diop_ternary_quadratic(x**2 + 3*y**2 - z**2), diop_ternary_quadratic(x**2 - 3*y**2 - z**2))
