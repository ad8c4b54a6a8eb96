# ---- factor_difference
from sympy import factor, symbols
x, y = symbols('x y')
print(factor(x**6 - y**6), factor(x**4 + 4*y**4))
# ---- factor_cyclotomic
from sympy import *
x = symbols('x')
print(factor_list(x**12 - 1), cyclotomic_poly(12, x))
# ---- poly_division
from sympy import div, rem, quo, symbols
x = symbols('x')
q, r = div(x**5 - 3*x**3 + 2*x - 7, x**2 - 2, x)
print(q, '|', r, rem(x**100, x**2 - x - 1, x))
# ---- poly_gcd
from sympy import gcd, lcm, symbols
x = symbols('x')
print(gcd(x**4 - 1, x**6 - 1), lcm(x**2 - 1, x**3 - 1))
# ---- expand_coefficient
from sympy import *
x = symbols('x')
p = Poly((1 + x + x**2)**10, x)
print(p.coeff_monomial(x**7), sum(p.all_coeffs()), p.degree())
# ---- multinomial_coefficient
from sympy import *
a, b, c = symbols('a b c')
e = expand((a + 2*b - c)**6)
print(e.coeff(a, 3).coeff(b, 2).coeff(c, 1), len(e.args))
# ---- poly_eval_horner
from sympy import Poly, symbols, horner
x = symbols('x')
p = Poly([2, -3, 0, 5, -1], x)
print(p, p.eval(3), horner(p.as_expr()), p(-2))
# ---- real_roots_count
from sympy import *
x = symbols('x')
p = Poly(x**5 - 5*x + 1, x)
print(p.count_roots(), p.count_roots(0, 2), [r.evalf(12) for r in real_roots(p)])
# ---- roots_multiplicity
from sympy import roots, symbols
x = symbols('x')
print(roots(x**5 - 7*x**4 + 19*x**3 - 25*x**2 + 16*x - 4, x))
# ---- rootof
from sympy import *
x = symbols('x')
r = CRootOf(x**5 - x - 1, 0)
print(r, r.evalf(20))
# ---- interpolation
from sympy import interpolate, symbols
x = symbols('x')
p = interpolate([(1, 2), (2, 5), (3, 10), (4, 19)], x)
print(p, p.subs(x, 10))
# ---- lagrange_manual
from fractions import Fraction
def lagrange(points, at):
    total = Fraction(0)
    for i, (xi, yi) in enumerate(points):
        term = Fraction(yi)
        for j, (xj, _) in enumerate(points):
            if i != j:
                term *= Fraction(at - xj, xi - xj)
        total += term
    return total
print(lagrange([(0, 1), (1, 1), (2, 3), (3, 13)], 7))
# ---- groebner_basis
from sympy import groebner, symbols
x, y, z = symbols('x y z')
G = groebner([x**2 + y + z - 1, x + y**2 + z - 1, x + y + z**2 - 1], x, y, z, order='lex')
print(len(G.exprs), G.exprs[-1])
# ---- symmetric_reduction
from sympy import symmetrize, symbols
x, y, z = symbols('x y z')
print(symmetrize(x**3 + y**3 + z**3, [x, y, z], formal=True))
# ---- finite_field_factor
from sympy import Poly, symbols, GF, factor_list
x = symbols('x')
print(Poly(x**4 + 1, x, modulus=5).factor_list(), factor_list(x**5 - x, modulus=5)[1])
# ---- irreducible_check
from sympy import Poly, symbols
x = symbols('x')
for k in range(1, 7):
    p = Poly(x**4 + k, x)
    print(k, p.is_irreducible)
# ---- resultant_elimination
from sympy import *
x, y = symbols('x y')
r = resultant(x**2 + y**2 - 4, x*y - 1, y)
print(factor(r), degree(r, x))
# ---- sum_of_roots_squared
from sympy import *
x = symbols('x')
p = Poly(2*x**3 - 5*x**2 + 7*x - 11, x)
c = p.all_coeffs()
s1, s2 = -Rational(c[1], c[0]), Rational(c[2], c[0])
print(s1**2 - 2*s2, p.discriminant())
# ---- chebyshev
from sympy import *
x = symbols('x')
print([chebyshevt(n, x) for n in range(5)], expand(legendre(4, x)), hermite(3, x))
# ---- extension_factor
from sympy import *
x = symbols('x')
print(factor(x**2 - 2, extension=sqrt(2)), factor(x**4 + 1, extension=I), factor(x**3 - 1, gaussian=True))
# ---- collect_terms
from sympy import *
x, a, b = symbols('x a b')
e = expand((a*x + b)**3 + (x - a)**2)
print(collect(e, x), Poly(e, x).all_coeffs())
# ---- square_free_part
from sympy import sqf_list, sqf_part, symbols, expand
x = symbols('x')
f = expand((x - 1)**3*(x + 2)**2*(x**2 + 1))
print(sqf_list(f), sqf_part(f))
# ---- complete_square
from sympy import *
x, h, k, a = symbols('x h k a')
sol = solve(Poly(3*x**2 - 12*x + 7 - (a*(x - h)**2 + k), x).coeffs(), [a, h, k], dict=True)
print(sol)
# ---- undetermined
from sympy import symbols, solve_undetermined_coeffs, Eq
x, a, b, c = symbols('x a b c')
print(solve_undetermined_coeffs(Eq(a*(x - 1)**2 + b*(x - 1) + c, x**2 + 4*x + 9), [a, b, c], x))
# ---- nroots
from sympy import Poly, symbols
x = symbols('x')
print(Poly(x**4 - x - 1, x).nroots(n=10))
# ---- poly_ring
from sympy import ring, ZZ, QQ
R, x, y = ring('x,y', ZZ)
f = (x + y)**3 - x**3
print(f, f.factor_list(), f.diff(y))
# ---- generating_function
from sympy import *
x = symbols('x')
g = 1
for c in (1, 5, 10, 25):
    g *= sum(x**(c*k) for k in range(0, 50//c + 1))
print(Poly(g, x).coeff_monomial(x**50))
# ---- decompose_compose
from sympy import decompose, compose, symbols
x = symbols('x')
print(decompose(x**4 + 2*x**3 + 3*x**2 + 2*x + 5), compose(x**2 + 1, x - 3))
