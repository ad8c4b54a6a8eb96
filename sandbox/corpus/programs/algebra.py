# ---- cubic_integer_roots
from sympy import symbols, solve
x = symbols('x')
roots = solve(x**3 - 9*x**2 + 26*x - 24, x)
print(roots, sum(roots))
# ---- quadratic_irrational
from sympy import *
x = symbols('x')
sols = solve(3*x**2 - 5*x - 7, x)
for s in sols:
    print(s, '=', s.evalf(10))
# ---- complex_roots
import sympy as sp
x = sp.Symbol('x')
print(sp.solve(x**4 + 4, x))
# ---- linear_three
from sympy import symbols, Eq, solve
a, b, c = symbols('a b c')
sol = solve([Eq(a + b + c, 12), Eq(a - b + 2*c, 9), Eq(2*a + 3*b - c, 14)], (a, b, c))
print(sol)
print(sol[a] * sol[b] * sol[c])
# ---- linear_2x2
from sympy import symbols, Eq, solve
x, y = symbols('x y')
solve((Eq(5*x - 3*y, 19), Eq(2*x + 7*y, 16)), (x, y))
# ---- nonlinear_pair
from sympy import *
x, y = symbols('x y', real=True)
solutions = solve([x + y - 7, x**2 + y**2 - 29], [x, y])
print(solutions)
print(sorted({a*b for a, b in solutions}))
# ---- symmetric_triple
from sympy import *
x, y, z = symbols('x y z')
sols = solve([x + y + z - 6, x*y + y*z + z*x - 11, x*y*z - 6], [x, y, z], dict=True)
print(len(sols))
print(sorted(tuple(s[v] for v in (x, y, z)) for s in sols))
# ---- radical_equation
from sympy import symbols, sqrt, solve
x = symbols('x', real=True)
print(solve(sqrt(x + 5) + sqrt(20 - x) - 7, x))
# ---- log_equation
from sympy import *
x = symbols('x', positive=True)
ans = solve(log(x, 2) + log(x, 4) - 6, x)
print([simplify(a) for a in ans])
# ---- exponential_equation
from sympy import *
x = symbols('x', real=True)
eq = Eq(4**x - 6*2**x + 8, 0)
print(solve(eq, x))
# ---- absolute_value
from sympy import *
x = symbols('x', real=True)
print(solve(Abs(2*x - 3) - 5, x))
# ---- inequality_rational
from sympy import *
x = symbols('x', real=True)
result = solve_univariate_inequality((x - 1)*(x - 4)/(x + 2) > 0, x, relational=False)
print(result)
# ---- inequality_relational
from sympy import symbols, reduce_inequalities
x = symbols('x', real=True)
print(reduce_inequalities([x**2 - 5*x + 6 <= 0, x > 2], x))
# ---- solveset_real
from sympy import *
x = symbols('x')
print(solveset(x**3 - x, x, domain=S.Reals))
print(solveset(x**2 + 1, x, S.Reals), solveset(x**2 + 1, x))
# ---- solveset_trig
from sympy import *
t = symbols('t')
sol = solveset(2*sin(t) - 1, t, Interval(0, 2*pi))
print(sol)
# ---- linsolve_parametric
from sympy import *
x, y, z = symbols('x y z')
print(linsolve([x + y - z - 2, 2*x - y + z - 4], (x, y, z)))
# ---- nonlinsolve_circle_line
from sympy import *
x, y = symbols('x y')
print(nonlinsolve([x**2 + y**2 - 5, x - y - 1], [x, y]))
# ---- simplify_nested_radical
from sympy import sqrt, sqrtdenest, simplify
e = sqrt(5 + 2*sqrt(6))
print(sqrtdenest(e), simplify(sqrtdenest(e) - sqrt(2) - sqrt(3)))
# ---- rationalize
from sympy import *
expr = 1/(sqrt(7) - sqrt(3))
print(radsimp(expr), N(expr, 15))
# ---- telescoping_fraction
from sympy import *
n = symbols('n', integer=True, positive=True)
term = apart(1/(n*(n + 2)), n)
print(term)
total = summation(1/(n*(n + 2)), (n, 1, 98))
print(total, total.p + total.q)
# ---- partial_fractions
from sympy import symbols, apart, together, factor
x = symbols('x')
f = (3*x**2 + 2*x + 5)/((x - 1)*(x**2 + 4))
g = apart(f)
print(g)
print(factor(together(g)) == factor(f))
# ---- vieta_power_sum
from sympy import *
x = symbols('x')
p = Poly(x**3 - 4*x**2 + 6*x - 9, x)
e1, e2, e3 = 4, 6, 9
s = [3, e1, e1**2 - 2*e2]
for k in range(3, 8):
    s.append(e1*s[k-1] - e2*s[k-2] + e3*s[k-3])
print(s)
check = sum(r**7 for r in p.nroots(n=30))
print(round(re(check)))
# ---- functional_values
from sympy import symbols, Function, rsolve
n = symbols('n', integer=True)
f = Function('f')
closed = rsolve(f(n + 2) - 5*f(n + 1) + 6*f(n), f(n), {f(0): 1, f(1): 4})
print(closed)
print([closed.subs(n, k) for k in range(6)])
# ---- fibonacci_closed_form
from sympy import *
n = symbols('n', integer=True, nonnegative=True)
print([fibonacci(k) for k in range(15)], lucas(20))
print(simplify(GoldenRatio**2 - GoldenRatio - 1), fibonacci(100))
# ---- trig_identity
from sympy import *
x = symbols('x')
print(trigsimp(sin(x)**4 - cos(x)**4), expand_trig(sin(3*x)), simplify(tan(x)*cos(x)))
# ---- trig_exact_values
from sympy import *
print(cos(pi/5), sin(pi/12), tan(pi/8), simplify(cos(pi/7) - cos(2*pi/7) + cos(3*pi/7)))
# ---- complex_modulus
from sympy import *
z = (3 + 4*I)**3 / (1 - I)
print(expand(z), Abs(z), simplify(arg(1 + I*sqrt(3))))
# ---- nsolve_transcendental
from sympy import *
x = symbols('x')
r = nsolve(exp(x) - 3*x**2, x, 3.5, prec=25)
print(r)
# ---- substitution_chain
from sympy import *
x, y = symbols('x y')
expr = (x**2 - y**2)/(x - y)
print(expr.subs({x: Rational(7, 3), y: Rational(1, 6)}), cancel(expr), expr.subs(x, 2*y))
# ---- lambdify_check
from sympy import symbols, lambdify, sin
import math
x = symbols('x')
f = lambdify(x, x**2 + sin(x), 'math')
print(f"{f(2.0):.9f}", f"{4 + math.sin(2):.9f}")
# ---- piecewise_floor
from sympy import *
x = symbols('x', real=True)
f = Piecewise((x**2, x < 0), (x + 1, x < 3), (7 - x, True))
print([f.subs(x, v) for v in (-2, 0, Rational(5, 2), 3, 10)])
print(floor(Rational(-7, 2)), ceiling(sqrt(50)), frac(Rational(22, 7)))
# ---- latex_output
from sympy import *
x, n = symbols('x n')
print(latex(Integral(x**n/(1 + x), (x, 0, 1))), latex(Rational(3, 7)*sqrt(2)))
# ---- pretty_print
from sympy import *
x = symbols('x')
pprint(Eq(x**2 + x/2, sqrt(3)))
print(pretty(Sum(1/x**2, (x, 1, oo)), use_unicode=False))
# ---- minimal_poly
from sympy import *
x = symbols('x')
m = minimal_polynomial(sqrt(2) + cbrt(3), x)
print(m, degree(m))
# ---- quadratic_discriminant
from sympy import symbols, discriminant, solve, resultant
x, k = symbols('x k')
d = discriminant(x**2 + k*x + (k + 3), x)
print(d, solve(d, k), resultant(x**2 - k, x**3 - 2, x))
