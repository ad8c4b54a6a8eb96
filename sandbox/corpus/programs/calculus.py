# ---- definite_integral_poly
from sympy import *
x = symbols('x')
print(integrate(x**3 - 4*x + 1, (x, -1, 3)))
# ---- indefinite_rational
from sympy import integrate, symbols, diff, simplify
x = symbols('x')
F = integrate((2*x + 3)/(x**2 + 3*x + 10), x)
print(F, simplify(diff(F, x) - (2*x + 3)/(x**2 + 3*x + 10)))
# ---- gaussian_integral
from sympy import *
x = symbols('x', real=True)
print(integrate(exp(-x**2), (x, -oo, oo)), integrate(x**2*exp(-x**2/2), (x, -oo, oo)))
# ---- trig_integral
from sympy import *
x = symbols('x')
print(integrate(sin(x)**2*cos(x)**3, (x, 0, pi/2)), integrate(sin(x)**3, x))
# ---- integral_by_parts
from sympy import *
x = symbols('x')
print(integrate(x**2*log(x), x), integrate(x*exp(-3*x), (x, 0, oo)))
# ---- integral_sqrt
from sympy import *
x = symbols('x')
print(integrate(sqrt(1 - x**2), (x, -1, 1)), integrate(1/sqrt(4 - x**2), (x, 0, 1)))
# ---- double_integral
from sympy import symbols, integrate
x, y = symbols('x y')
print(integrate(x*y**2, (y, 0, 1 - x), (x, 0, 1)))
# ---- limit_sin
from sympy import *
x = symbols('x')
print(limit((1 - cos(x))/x**2, x, 0), limit((1 + 1/x)**x, x, oo), limit(x*log(x), x, 0, '+'))
# ---- limit_sequence
from sympy import *
n = symbols('n', positive=True)
print(limit(sqrt(n**2 + 3*n) - n, n, oo), limit((2*n**2 + 1)/(5*n**2 - n), n, oo))
# ---- limit_one_sided
from sympy import *
x = symbols('x')
print(limit(1/x, x, 0, dir='+'), limit(1/x, x, 0, dir='-'), limit(Abs(x)/x, x, 0, '-'))
# ---- taylor_series
from sympy import *
x = symbols('x')
s = series(exp(x)*sin(x), x, 0, 7)
print(s)
print(s.removeO().coeff(x, 5))
# ---- series_log
from sympy import *
x = symbols('x')
print(series(log(1 + x)/(1 - x), x, 0, 5), series(tan(x), x, 0, 8))
# ---- derivative_chain
from sympy import *
x = symbols('x')
f = exp(sin(x**2))
print(diff(f, x), diff(f, x, 2).subs(x, 0))
# ---- critical_points
from sympy import *
x = symbols('x', real=True)
f = x**4 - 8*x**2 + 3
crit = solve(diff(f, x), x)
print(crit, [f.subs(x, c) for c in crit], [diff(f, x, 2).subs(x, c) > 0 for c in crit])
# ---- maximize_area
from sympy import *
w = symbols('w', positive=True)
A = w*(40 - 2*w)
best = solve(diff(A, w), w)[0]
print(best, A.subs(w, best))
# ---- lagrange_multipliers
from sympy import *
x, y, l = symbols('x y lambda', real=True)
f, g = x*y, x**2 + 4*y**2 - 8
sols = solve([diff(f, x) - l*diff(g, x), diff(f, y) - l*diff(g, y), g], [x, y, l], dict=True)
print(max(f.subs(s) for s in sols), len(sols))
# ---- implicit_derivative
from sympy import *
x, y = symbols('x y')
print(idiff(x**2 + x*y + y**2 - 7, y, x), idiff(x**3 + y**3 - 6*x*y, y, x).subs({x: 3, y: 3}))
# ---- ode_first_order
from sympy import *
x = symbols('x')
f = Function('f')
print(dsolve(Eq(f(x).diff(x), 2*f(x)), f(x)))
print(dsolve(f(x).diff(x) - f(x) - x, f(x), ics={f(0): 1}))
# ---- ode_second_order
from sympy import Function, dsolve, symbols, Eq
t = symbols('t')
y = Function('y')
print(dsolve(y(t).diff(t, 2) + 3*y(t).diff(t) + 2*y(t), y(t)))
# ---- infinite_sums
from sympy import *
k = symbols('k', integer=True, positive=True)
print(summation(1/k**2, (k, 1, oo)), summation(1/2**k, (k, 0, oo)), Sum(k/3**k, (k, 1, oo)).doit())
# ---- finite_sum_formula
from sympy import *
n, k = symbols('n k', integer=True, positive=True)
print(factor(summation(k**3, (k, 1, n))), summation(k*(k + 1), (k, 1, 20)), factor(summation(k**4, (k, 1, n))))
# ---- product_formula
from sympy import *
n, k = symbols('n k', integer=True, positive=True)
print(product(k, (k, 1, 6)), simplify(product((k + 1)/k, (k, 1, n))), Product(1 - 1/k**2, (k, 2, 50)).doit())
# ---- arc_length
from sympy import *
x = symbols('x', positive=True)
f = x**Rational(3, 2)
print(integrate(sqrt(1 + diff(f, x)**2), (x, 0, 4)))
# ---- volume_revolution
from sympy import *
x = symbols('x')
print(pi*integrate((sqrt(x))**2 - (x**2)**2, (x, 0, 1)))
# ---- tangent_line
from sympy import *
x = symbols('x')
f = x**3 - 2*x
a = 2
print(expand(f.subs(x, a) + diff(f, x).subs(x, a)*(x - a)))
# ---- gradient_hessian
from sympy import *
x, y = symbols('x y')
f = x**3 + y**3 - 3*x*y
H = hessian(f, (x, y))
pts = solve([diff(f, x), diff(f, y)], [x, y], dict=True)
print(H, [(p, H.subs(p).det()) for p in pts if all(v.is_real for v in p.values())])
# ---- numeric_quadrature
from sympy import *
x = symbols('x')
print(Integral(sin(x)/x, (x, 1, 2)).evalf(15), N(Integral(exp(-x**2), (x, 0, 1)), 12))
# ---- special_functions
from sympy import *
print(gamma(Rational(1, 2)), gamma(6), zeta(4), beta(2, 3).rewrite(gamma).doit(), erf(oo))
# ---- fourier_coefficients
from sympy import *
x = symbols('x')
n = symbols('n', integer=True, positive=True)
bn = integrate(x*sin(n*x), (x, -pi, pi))/pi
print(simplify(bn), fourier_series(x, (x, -pi, pi)).truncate(3))
# ---- laplace
from sympy import *
t, s = symbols('t s', positive=True)
print(laplace_transform(t**2*exp(-2*t), t, s, noconds=True))
# ---- riemann_sum
def f(x):
    return x * x
n = 1000
left = sum(f(i / n) for i in range(n)) / n
print(f"{left:.6f}", abs(left - 1/3) < 1e-3)
# ---- newton_method
def newton(f, df, x, steps=20):
    for _ in range(steps):
        x = x - f(x)/df(x)
    return x
print(f"{newton(lambda x: x**3 - 2, lambda x: 3*x*x, 1.0):.12f}")
