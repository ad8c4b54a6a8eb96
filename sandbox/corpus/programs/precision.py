# ---- pi_digits
from mpmath import mp
mp.dps = 60
print(mp.pi, mp.e)
# ---- zeta_values
import mpmath as mp
mp.mp.dps = 25
print(mp.zeta(3), mp.zeta(2) - mp.pi**2/6, mp.zetazero(1))
# ---- quadrature
from mpmath import mp, quad, exp, sqrt, pi, inf
mp.dps = 30
print(quad(lambda t: exp(-t*t), [0, inf]) - sqrt(pi)/2 < mp.mpf(10)**-25, quad(lambda t: 1/(1 + t**4), [0, 1]))
# ---- findroot
import mpmath
mpmath.mp.dps = 20
print(mpmath.findroot(lambda x: mpmath.cos(x) - x, 0.7), mpmath.findroot(lambda x: x**3 - x - 1, (1, 2), solver='bisect'))
# ---- nsum
from mpmath import *
mp.dps = 20
print(nsum(lambda k: 1/k**2, [1, inf]), nsum(lambda k: (-1)**k/(2*k + 1), [0, inf]), nprod(lambda k: 1 - 1/k**2, [2, inf]))
# ---- polyroots
from mpmath import mp, polyroots, nstr
mp.dps = 15
print([nstr(r, 10) for r in polyroots([1, 0, -7, 6])], nstr(polyroots([1, 0, 1]), 8))
# ---- identify
from mpmath import mp, identify, mpf, sqrt, findpoly
mp.dps = 15
print(identify(mpf('0.7071067811865475')), identify(2 + sqrt(3)), findpoly(1 + sqrt(2), 2))
# ---- continued_precision
from mpmath import mp, mpf, sqrt, floor
mp.dps = 50
x = sqrt(mpf(2))
cf = []
for _ in range(12):
    a = int(floor(x))
    cf.append(a)
    x = 1/(x - a)
print(cf)
# ---- matrix_solve
from mpmath import matrix, lu_solve, det, mp, nstr
mp.dps = 15
A = matrix([[2, 1], [1, 3]])
print(nstr(lu_solve(A, matrix([3, 5])), 10), nstr(det(A), 10))
# ---- gamma_special
import mpmath as mp
mp.mp.dps = 18
print(mp.gamma(mp.mpf(1)/3), mp.binomial(10.5, 3), mp.besselj(0, 1), mp.erf(0.5), mp.lambertw(1))
# ---- diff_taylor
from mpmath import mp, diff, taylor, sin, exp, nstr, chop
mp.dps = 15
print(nstr(diff(lambda x: sin(x)*exp(x), 1), 10), [nstr(c, 8) for c in chop(taylor(sin, 0, 6))])
# ---- complex_numbers
from mpmath import mp, mpc, sqrt, polar, arg, nstr
mp.dps = 15
print(nstr(sqrt(mpc(-3, 4)), 12), nstr(abs(mpc(5, 12)), 12), nstr(arg(mpc(1, 1)), 12))
# ---- pslq
from mpmath import mp, pslq, log, pi, mpf, atan
mp.dps = 30
print(pslq([pi/4, atan(mpf(1)/5), atan(mpf(1)/239)]))
# ---- mpf_repr
from mpmath import mpf, mp
mp.dps = 15
mpf(1)/3
# ---- ode_and_interval
from mpmath import mp, iv, odefun, nstr
mp.dps = 15
f = odefun(lambda x, y: y, 0, 1)
print(nstr(f(1), 12), iv.mpf([1, 2])*3)
# ---- elliptic_agm
from mpmath import mp, agm, ellipk, hyp2f1, nstr
mp.dps = 20
print(agm(1, 2), ellipk(0.5), nstr(hyp2f1(1, 1, 2, 0.5), 15))
