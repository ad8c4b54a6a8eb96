# ---- factorint_large
from sympy import factorint
n = 2**64 + 1
f = factorint(n)
print(f)
prod = 1
for p, e in f.items():
    prod *= p**e
print(prod == n)
# ---- divisor_functions
from sympy import divisors, divisor_count, divisor_sigma, totient
n = 720720
print(divisor_count(n), divisor_sigma(n), totient(n), len([d for d in divisors(n) if d % 4 == 2]))
# ---- prime_counting
from sympy import primerange, primepi, prime, isprime
ps = list(primerange(1, 200))
print(len(ps), primepi(10**5), prime(1000))
print([p for p in ps if isprime(p + 2)])
# ---- next_prev_prime
from sympy import nextprime, prevprime, isprime
print(nextprime(10**9), prevprime(10**9), isprime(2**89 - 1), isprime(561))
# ---- modular_inverse
from sympy import mod_inverse
print(mod_inverse(17, 3120), pow(17, -1, 3120), 17 * mod_inverse(17, 3120) % 3120)
# ---- crt_congruences
from sympy.ntheory.modular import crt, solve_congruence
print(crt([7, 11, 13], [3, 5, 9]))
print(solve_congruence((2, 3), (3, 5), (2, 7)))
# ---- order_and_primitive_root
from sympy.ntheory import n_order, primitive_root, is_primitive_root
print(n_order(10, 97), primitive_root(97), [a for a in range(2, 19) if is_primitive_root(a, 19)])
# ---- quadratic_residues
from sympy.ntheory import quadratic_residues, legendre_symbol, jacobi_symbol, sqrt_mod
print(quadratic_residues(23), legendre_symbol(5, 41), jacobi_symbol(1001, 9907), sqrt_mod(10, 13, all_roots=True))
# ---- nthroot_mod
from sympy.ntheory.residue_ntheory import nthroot_mod, discrete_log
print(nthroot_mod(11, 4, 19, True), discrete_log(587, pow(3, 123, 587), 3))
# ---- trailing_zeros
from math import factorial
from sympy import multiplicity
n = 2024
print(multiplicity(5, factorial(n)), sum(n // 5**k for k in range(1, 6)))
# ---- perfect_and_abundant
from sympy import divisor_sigma
perfect = [n for n in range(2, 1000) if divisor_sigma(n) == 2*n]
abundant = [n for n in range(2, 60) if divisor_sigma(n) > 2*n]
print(perfect, abundant)
# ---- mobius_sum
from sympy import mobius
print([mobius(n) for n in range(1, 31)], sum(mobius(n) for n in range(1, 500)))
# ---- continued_fraction
from sympy import continued_fraction, continued_fraction_convergents, sqrt, pi, Rational
from sympy.ntheory.continued_fraction import continued_fraction_iterator
import itertools
print(continued_fraction(sqrt(23)), continued_fraction(Rational(415, 93)))
print(list(itertools.islice(continued_fraction_iterator(pi), 8)))
print(list(continued_fraction_convergents([3, 7, 15, 1])))
# ---- egyptian_fraction
from sympy import Rational
from sympy.ntheory.egyptian_fraction import egyptian_fraction
print(egyptian_fraction(Rational(13, 17)))
# ---- carmichael
from sympy import reduced_totient, isprime
from math import gcd
carm = [n for n in range(3, 3000, 2) if not isprime(n) and all(pow(a, n - 1, n) == 1 for a in (2, 3, 5, 7) if gcd(a, n) == 1)]
print(carm, reduced_totient(561))
# ---- last_digits
print(pow(7, 7**77, 1000), pow(2, 2024, 10**6), 3**1000 % 100)
# ---- base_conversion
from sympy.ntheory.digits import digits, count_digits
print(digits(2024, 7), sum(digits(2024, 7)[1:]), int('5621', 7), count_digits(112233, 10))
# ---- gcd_euclid
from sympy import gcd, lcm
from sympy.core.intfunc import igcdex
print(gcd(1071, 462), lcm(48, 180), igcdex(240, 46))
# ---- squarefree_count
from sympy import factorint
count = 0
for n in range(1, 1001):
    if all(e == 1 for e in factorint(n).values()):
        count += 1
print(count)
# ---- smooth_numbers
from sympy import primefactors
smooth = [n for n in range(1, 500) if n == 1 or max(primefactors(n)) <= 5]
print(len(smooth), smooth[-5:])
# ---- sum_of_two_squares
from sympy.ntheory import factorint
def r2(n):
    r = 1
    for p, e in factorint(n).items():
        if p % 4 == 1:
            r *= e + 1
        elif p % 4 == 3 and e % 2:
            return 0
    return 4*r
print([n for n in range(1, 100) if r2(n) > 8], r2(5**3 * 13 * 17))
# ---- wilson_check
from sympy import primerange
from math import factorial
print(all((factorial(p - 1) + 1) % p == 0 for p in primerange(2, 150)))
# ---- partitions_numbers
from sympy.functions.combinatorial.numbers import partition
print([int(partition(n)) for n in range(1, 16)], int(partition(100)))
# ---- perfect_power
from sympy import perfect_power, integer_nthroot, integer_log
print(perfect_power(10077696), integer_nthroot(10**30 + 1, 3), integer_log(3**40, 3), perfect_power(15))
# ---- semiprimes
from sympy import factorint
semi = [n for n in range(2, 120) if sum(factorint(n).values()) == 2]
print(len(semi), semi)
# ---- repunit_factor
from sympy import factorint
for k in (7, 9, 11, 13):
    print(k, factorint((10**k - 1)//9))
# ---- goldbach
from sympy import isprime, primerange
def goldbach(n):
    return [(p, n - p) for p in primerange(2, n//2 + 1) if isprime(n - p)]
print(goldbach(100), max(range(4, 300, 2), key=lambda n: len(goldbach(n))))
# ---- sieve_usage
from sympy import sieve
sieve.extend(1000)
print(sieve[50], 997 in sieve, list(sieve.primerange(80, 110)), list(sieve.totientrange(1, 12)))
# ---- polynomial_congruence
from sympy.ntheory import polynomial_congruence
from sympy.abc import x
print(polynomial_congruence(x**3 + 2*x + 4, 21), polynomial_congruence(x**2 - 2, 7**2))
# ---- bell_stirling_numbers
from sympy import bell, catalan, bernoulli, harmonic, euler
print(bell(10), catalan(12), bernoulli(20), harmonic(10), euler(8))
# ---- digit_sum_brute
best = max((sum(map(int, str(2**n))), n) for n in range(1, 200))
print(best, sum(map(int, str(2**1000))))
# ---- primitive_pythagorean
from math import gcd, isqrt
trip = sorted((m*m - n*n, 2*m*n, m*m + n*n) for m in range(2, 12) for n in range(1, m)
              if gcd(m, n) == 1 and (m - n) % 2 and m*m + n*n < 100)
print(len(trip), trip[:3], sum(map(sum, trip)))
