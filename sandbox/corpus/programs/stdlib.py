# ---- fraction_sums
from fractions import Fraction
H = sum(Fraction(1, k) for k in range(1, 21))
print(H, float(H))
# ---- fraction_limit
from fractions import Fraction
import math
print(Fraction(math.pi).limit_denominator(1000), Fraction('0.375'), Fraction(7, -21), divmod(Fraction(7, 2), Fraction(2, 3)))
# ---- decimal_precision
from decimal import Decimal, getcontext, ROUND_HALF_UP
getcontext().prec = 50
print(Decimal(2).sqrt(), Decimal('2.675').quantize(Decimal('0.01'), ROUND_HALF_UP), Decimal(1)/Decimal(7))
# ---- decimal_period
from decimal import Decimal, getcontext
def period(n):
    seen, r, i = {}, 1, 0
    while r and r not in seen:
        seen[r] = i
        r, i = r*10 % n, i + 1
    return i - seen[r] if r else 0
print(max(range(2, 200), key=period), period(97))
# ---- math_functions
import math
print(math.gcd(84, 126, 210), math.lcm(4, 6, 10), math.isqrt(10**20 + 1), math.perm(10, 3), math.comb(30, 15), math.prod(range(1, 11)))
# ---- math_floats
import math
print(f"{math.sqrt(2):.12f} {math.log(10):.12f} {math.hypot(3, 4)} {math.atan2(1, 1):.12f} {math.exp(1):.10f} {math.log2(1024)}")
# ---- integer_division
print(7 // 2, -7 // 2, 7 % -3, divmod(-17, 5), 2**-2, 10 / 4, 1e3, int(-3.7), round(2.5), round(3.5), round(-1.235, 2))
# ---- big_integers
n = 3**500
print(n.bit_length(), len(str(n)), n % 10**12, hex(2**40 + 15), bin(37), int('zz', 36))
# ---- itertools_tools
from itertools import accumulate, groupby, chain, takewhile, count, islice, pairwise, combinations_with_replacement
print(list(accumulate(range(1, 8))), [(k, len(list(g))) for k, g in groupby('aaabbc')], list(pairwise([1, 4, 9])))
print(list(takewhile(lambda v: v < 50, (n*n for n in count(1)))), len(list(combinations_with_replacement('abc', 3))), list(islice(chain([1], [2, 3]), 2)))
# ---- counter_operations
from collections import Counter
c = Counter('mississippi')
print(c.most_common(2), c['z'], sorted(c.elements())[:4], Counter(a=3) - Counter(a=1), c.total())
# ---- defaultdict_grouping
from collections import defaultdict
d = defaultdict(list)
for n in range(1, 31):
    d[sum(map(int, str(n)))].append(n)
print({k: v for k, v in sorted(d.items()) if len(v) > 3})
# ---- deque_rotation
from collections import deque
def josephus(n, k):
    q = deque(range(1, n + 1))
    while len(q) > 1:
        q.rotate(-(k - 1))
        q.popleft()
    return q[0]
print([josephus(n, 3) for n in range(1, 15)])
# ---- heap_bisect
import heapq, bisect
h = [9, 4, 7, 1, 8]
heapq.heapify(h)
print([heapq.heappop(h) for _ in range(3)], heapq.nlargest(2, [3, 9, 5]), bisect.bisect_left([1, 3, 5, 7], 5), bisect.bisect([1, 3, 5], 3))
# ---- functools_reduce
from functools import reduce, partial
from operator import mul
print(reduce(mul, range(1, 13)), partial(pow, 2)(10), reduce(lambda a, b: a*b//__import__('math').gcd(a, b), range(1, 21)))
# ---- statistics
import statistics as st
a = [2, 4, 4, 4, 5, 5, 7, 9]
print(st.mean(a), st.median(a), st.mode(a), st.pstdev(a), st.variance(a), st.quantiles(a, n=4))
# ---- regex
import re
print(re.findall(r'(\d+)x\^(\d+)', '3x^2 + 15x^10'), re.sub(r'\s+', ' ', 'a  b \n c'), bool(re.fullmatch(r'[01]+', '10110')), re.split(r'[,;]', 'a,b;c'))
# ---- datetime_weekday
import datetime, calendar
d = datetime.date(2024, 2, 29)
print(d.strftime('%A'), d + datetime.timedelta(days=366), calendar.isleap(1900), sum(datetime.date(y, m, 13).weekday() == 4 for y in range(2000, 2011) for m in range(1, 13)))
# ---- random_seeded
import random
random.seed(2024)
print(random.randint(1, 100), [random.choice('abc') for _ in range(5)], random.sample(range(50), 4), round(random.random(), 12))
# ---- dataclass_enum
from dataclasses import dataclass, field
from enum import Enum
class Color(Enum):
    RED = 1
    BLUE = 2
@dataclass(order=True)
class P:
    x: int
    y: int = 0
    tags: list = field(default_factory=list, compare=False)
print(P(1, 2), sorted([P(3), P(1, 5)]), P(1) == P(1, 0), Color.RED, list(Color))
# ---- generators
def collatz(n):
    while n != 1:
        yield n
        n = n//2 if n % 2 == 0 else 3*n + 1
    yield 1
print(list(collatz(27))[:10], max(range(1, 1000), key=lambda n: sum(1 for _ in collatz(n))))
# ---- complex_builtin
z = complex(3, -4)
print(abs(z), z.conjugate(), z*z, (1 + 2j)**3, z.real)
# ---- json_roundtrip
import json
print(json.dumps({'a': [1, 2.5, None, True], 'b': 'é'}, sort_keys=True), json.loads('[1, {"x": 2}]'))
# ---- string_formats
for n in (7, 42, 12345):
    print(f"{n:>8}|{n:<8}|{n:^8}|{n:08b}|{n:x}|{n:,}|{n/7:.3e}")
# ---- set_algebra
a, b = set(range(0, 60, 6)), set(range(0, 60, 4))
print(sorted(a & b), len(a | b), sorted(a ^ b)[:5], a <= b, frozenset([1]) in {frozenset([1])})
# ---- sorting_keys
words = ['pear', 'fig', 'banana', 'kiwi']
print(sorted(words, key=lambda w: (-len(w), w)), max(words, key=len), list(zip(*[(1, 'a'), (2, 'b')])), list(map(str.upper, words))[0])
# ---- matching_statement
def kind(v):
    match v:
        case int() if v < 0:
            return 'negative'
        case [x, y, *rest]:
            return f'list of {2 + len(rest)}'
        case {'n': n}:
            return n
        case _:
            return 'other'
print([kind(v) for v in (-3, [1, 2, 3], {'n': 9}, 'q')])
# ---- bit_manipulation
print([n for n in range(64) if n.bit_count() == 3][:8], 0b1011 ^ 0b0110, ~5, 1 << 20, (2**10 - 1) & 0xAA)
# ---- timing_and_sys
import time, sys
t = time.time()
total = sum(i*i for i in range(1000))
print(total, time.time() >= t, sys.version_info >= (3, 10))
