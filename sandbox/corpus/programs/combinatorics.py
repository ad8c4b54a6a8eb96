# ---- binomials
from sympy import binomial, factorial, multinomial_coefficients
print(binomial(50, 25), factorial(25), multinomial_coefficients(3, 4)[(2, 1, 1)])
# ---- permutation_group
from sympy.combinatorics import Permutation, PermutationGroup
a = Permutation([1, 2, 3, 4, 0])
b = Permutation([1, 0, 2, 3, 4])
G = PermutationGroup(a, b)
print(G.order(), G.is_abelian, a.order(), (a*b).cyclic_form, b.is_odd)
# ---- dihedral_necklaces
from sympy.combinatorics.named_groups import DihedralGroup, CyclicGroup
def colorings(G, k):
    return sum(k**g.cycles for g in G.elements)//G.order()
print(colorings(DihedralGroup(6), 3), colorings(CyclicGroup(8), 2))
# ---- derangements
from sympy import subfactorial
from itertools import permutations
print(subfactorial(7), sum(1 for p in permutations(range(7)) if all(i != v for i, v in enumerate(p))))
# ---- stirling
from sympy.functions.combinatorial.numbers import stirling, nC, nP, nT
print([stirling(6, k) for k in range(7)], stirling(5, 2, kind=1), nC(7, 3), nP(5, 2), nT(7, 3))
# ---- integer_partitions
from sympy.utilities.iterables import partitions, multiset_permutations, multiset_partitions
print(sum(1 for _ in partitions(20)), [p.copy() for p in partitions(5, m=2)])
print(len(list(multiset_permutations('MISSISSIPPI'[:7]))), len(list(multiset_partitions([1, 1, 2, 3]))))
# ---- subsets_sum
from itertools import combinations
S = range(1, 16)
print(sum(1 for r in range(1, 6) for c in combinations(S, r) if sum(c) % 7 == 0))
# ---- dice_probability
from fractions import Fraction
from itertools import product
ways = sum(1 for d in product(range(1, 7), repeat=4) if sum(d) == 14)
p = Fraction(ways, 6**4)
print(p, p.numerator + p.denominator)
# ---- card_hands
from math import comb
from fractions import Fraction
full = 13*comb(4, 3)*12*comb(4, 2)
print(full, Fraction(full, comb(52, 5)), round(full/comb(52, 5), 8))
# ---- no_adjacent
from itertools import combinations
n, k = 12, 4
count = sum(1 for c in combinations(range(n), k) if all(b - a > 1 for a, b in zip(c, c[1:])))
print(count, len([c for c in combinations(range(n), k) if all((b - a) % n not in (1, n - 1) for a, b in combinations(c, 2))]))
# ---- grid_paths
from functools import lru_cache
@lru_cache(maxsize=None)
def paths(x, y):
    if (x, y) in {(2, 2), (3, 5), (6, 4)}:
        return 0
    if x == 0 or y == 0:
        return 1
    return paths(x - 1, y) + paths(x, y - 1)
print(paths(8, 8))
# ---- binary_strings
def count(n):
    return sum('111' not in f'{m:0{n}b}' for m in range(2**n))
print([count(n) for n in range(1, 13)])
# ---- inclusion_exclusion
from itertools import combinations
from math import lcm
N, primes = 10000, [2, 3, 7, 11]
total = N
for r in range(1, len(primes) + 1):
    for c in combinations(primes, r):
        total += (-1)**r * (N // lcm(*c))
print(total, sum(all(n % p for p in primes) for n in range(1, N + 1)))
# ---- catalan_paths
from sympy import catalan
def dyck(n):
    c = [1] + [0]*n
    for _ in range(2*n):
        c = [(c[i-1] if i else 0) + (c[i+1] if i < n else 0) for i in range(n + 1)]
    return c[0]
print([dyck(n) for n in range(1, 9)] == [catalan(n) for n in range(1, 9)], dyck(8))
# ---- latin_squares
from itertools import permutations
rows = list(permutations(range(4)))
def ok(sq, r):
    return all(a != b for row in sq for a, b in zip(row, r))
def go(sq):
    return 1 if len(sq) == 4 else sum(go(sq + [r]) for r in rows if ok(sq, r))
print(go([]))
# ---- surjections
from math import comb
surj = lambda n, k: sum((-1)**j * comb(k, j) * (k - j)**n for j in range(k + 1))
print([surj(7, k) for k in range(1, 8)], surj(10, 4))
# ---- permutations_inversions
from itertools import permutations
from collections import Counter
inv = Counter(sum(p[i] > p[j] for i in range(5) for j in range(i + 1, 5)) for p in permutations(range(5)))
print(dict(sorted(inv.items())))
# ---- stars_and_bars
from math import comb
from itertools import product
print(comb(20 + 3, 3), sum(1 for a in range(21) for b in range(21 - a) for c in range(21 - a - b) if (20 - a - b - c) % 2 == 0))
# ---- gray_code
from sympy.combinatorics.graycode import GrayCode
from sympy.combinatorics import Subset
print(list(GrayCode(3).generate_gray()), Subset(['c', 'd'], ['a', 'b', 'c', 'd']).rank_binary)
# ---- cycle_types
from sympy.combinatorics.named_groups import SymmetricGroup
from collections import Counter
G = SymmetricGroup(5)
print(sorted(Counter(g.order() for g in G.elements).items()), len(G.conjugacy_classes()))
# ---- prufer_trees
from sympy.combinatorics.prufer import Prufer
t = Prufer([[0, 1], [0, 2], [0, 3], [3, 4]])
print(t.prufer_repr, t.rank, Prufer([3, 3, 0]).tree_repr)
# ---- expected_value
from fractions import Fraction as F
from itertools import permutations
perms = list(permutations(range(6)))
fixed = F(sum(sum(i == v for i, v in enumerate(p)) for p in perms), len(perms))
records = F(sum(sum(v == max(p[:i+1]) for i, v in enumerate(p)) for p in perms), len(perms))
print(fixed, records)
# ---- bracelet_polya
from sympy import *
x, y = symbols('x y')
n = 6
total = 0
for d in divisors(n):
    total += totient(d)*(x**d + y**d)**(n//d)
print(expand(total/n))
