# ---- poly_roots
import numpy as np
print(np.sort(np.round(np.roots([1, -10, 35, -50, 24]).real, 6)))
# ---- polyfit_eval
import numpy as np
c = np.polyfit([0, 1, 2, 3], [1, 2, 9, 28], 3)
print(np.round(c, 6), np.polyval([2, -3, 1], 5), np.polymul([1, 2], [1, -3]), np.polyadd([1, 0], [3, 4, 5]))
# ---- polynomial_class
import numpy as np
from numpy.polynomial import Polynomial
p = Polynomial([6, -5, 1])
print(p, np.round(p.roots(), 8), p.deriv(), (p*p).coef, p(4))
# ---- poly1d
import numpy as np
p = np.poly1d([1, -6, 11, -6])
print(p)
print(p(5), p.deriv(), p.order)
# ---- fft
import numpy as np
x = np.array([1.0, 2.0, 3.0, 4.0])
X = np.fft.fft(x)
print(X, np.round(np.fft.ifft(X).real, 10), np.fft.fftfreq(4))
# ---- convolution_dice
import numpy as np
d = np.ones(6, dtype=int)
r = np.array([1])
for _ in range(4):
    r = np.convolve(r, d)
print(r, r.sum(), r[14 - 4])
# ---- statistics
import numpy as np
a = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5])
print(a.mean(), np.median(a), round(a.std(), 8), a.var(ddof=1), np.percentile(a, [25, 50, 75]), np.bincount(a))
# ---- correlation
import numpy as np
x = np.arange(10)
print(np.round(np.corrcoef(x, x**2), 8), np.round(np.cov(x, x**2), 6))
# ---- cumulative
import numpy as np
a = np.arange(1, 11)
print(np.cumsum(a), np.cumprod(a)[-1], np.diff(a**2), a[::-1], a[a % 3 == 0])
# ---- sieve
import numpy as np
n = 10000
s = np.ones(n + 1, dtype=bool)
s[:2] = False
for i in range(2, int(n**0.5) + 1):
    if s[i]:
        s[i*i::i] = False
print(s.sum(), np.nonzero(s)[0][-5:])
# ---- broadcasting_table
import numpy as np
r = np.arange(1, 6)
print(r[:, None]*r, (r[:, None] + r) % 3, np.unique((r[:, None]*r).ravel(), return_counts=True))
# ---- gcd_lcm
import numpy as np
print(np.gcd.reduce([84, 126, 210]), np.lcm.reduce(np.arange(1, 21)), np.gcd(12, [8, 9, 10]))
# ---- integer_overflow
import numpy as np
a = np.array([2**62, 2**62], dtype=np.int64)
print(a.sum(), np.int64(2)**62, np.array([200, 100], dtype=np.uint8) + np.uint8(100))
# ---- digits_array
import numpy as np
n = np.arange(100, 1000)
h, t, o = n//100, n//10 % 10, n % 10
print(n[h**3 + t**3 + o**3 == n], np.count_nonzero((h < t) & (t < o)))
# ---- random_seeded
import numpy as np
rng = np.random.default_rng(42)
print(rng.integers(0, 100, 5), rng.permutation(6), np.round(rng.random(2), 12))
# ---- random_legacy
import numpy as np
np.random.seed(0)
print(np.random.randint(0, 10, 8), np.round(np.random.rand(2), 10), np.random.choice([1, 2, 3], 4))
# ---- monte_carlo_pi
import numpy as np
rng = np.random.default_rng(1)
p = rng.random((20000, 2))
print(4*np.mean((p**2).sum(axis=1) < 1))
# ---- logic_where
import numpy as np
x = np.linspace(-2, 2, 9)
print(np.where(x > 0, x, 0), np.clip(x, -1, 1), np.sign(x), np.any(x > 1.9), np.argmax(x**2 - x))
# ---- sort_search
import numpy as np
a = np.array([5, 2, 8, 1, 9, 3])
print(np.sort(a), np.argsort(a), np.searchsorted(np.sort(a), 4), np.partition(a, 2)[:3].sum(), np.flip(a))
# ---- reshape_stack
import numpy as np
a = np.arange(24).reshape(2, 3, 4)
print(a.shape, a.transpose(2, 0, 1).shape, a.sum(axis=(0, 2)), np.concatenate([a[0], a[1]]).shape, np.vstack([[1, 2], [3, 4]]), np.rot90([[1, 2], [3, 4]]))
# ---- float_formats
import numpy as np
np.set_printoptions(precision=4, suppress=True)
print(np.array([1/3, 1e-9, 12345.678]), np.float64(0.1) + np.float64(0.2), np.float32(1)/3)
# ---- nan_inf
import numpy as np
print(np.array([1.0, np.nan, np.inf]), np.nansum([1, np.nan, 2]), np.isnan(np.nan), np.log(np.array([1.0, np.e])).round(12))
# ---- trapezoid
import numpy as np
x = np.linspace(0, np.pi, 1001)
print(round(float(np.trapezoid(np.sin(x), x)), 8), round(float(np.interp(2.5, [1, 2, 3], [10, 20, 40])), 6))
# ---- meshgrid_count
import numpy as np
X, Y = np.meshgrid(np.arange(-10, 11), np.arange(-10, 11))
print(np.sum(X**2 + Y**2 <= 100), np.sum(np.abs(X) + np.abs(Y) <= 10), np.sum(X*Y % 7 == 1))
# ---- scalar_repr
import numpy as np
np.arange(10).mean()
# ---- bit_tricks
import numpy as np
n = np.arange(16)
print(n & (n >> 1), n ^ (n >> 1), np.bitwise_count(n), np.unpackbits(np.uint8(37)), np.left_shift(1, n[:5]))
# ---- object_fractions
import numpy as np
from fractions import Fraction
a = np.array([Fraction(1, k) for k in range(1, 6)])
print(a.sum(), a @ a, (a*2).tolist())
# ---- random_walk
import numpy as np
rng = np.random.default_rng(7)
steps = rng.choice([-1, 1], size=(500, 20))
print(np.bincount(np.abs(steps.sum(axis=1))//2), round(float((steps.sum(axis=1)**2).mean()), 6))
