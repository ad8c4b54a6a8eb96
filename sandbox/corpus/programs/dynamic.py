# ---- coin_change
def ways(amount, coins):
    w = [1] + [0]*amount
    for c in coins:
        for a in range(c, amount + 1):
            w[a] += w[a - c]
    return w[amount]
print(ways(100, [1, 5, 10, 25, 50]), ways(200, [1, 2, 5, 10, 20, 50, 100, 200]))
# ---- fibonacci_memo
from functools import lru_cache
@lru_cache(None)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
print(fib(200), fib(300) % 10**9)
# ---- tilings
def tilings(n):
    f = [1, 0, 3]
    while len(f) <= n:
        f.append(4*f[-2] - f[-4] if len(f) % 2 == 0 and len(f) >= 4 else 0)
    return f[n]
print([tilings(n) for n in (2, 4, 6, 8, 10)])
# ---- longest_increasing
from bisect import bisect_left
def lis(a):
    t = []
    for v in a:
        i = bisect_left(t, v)
        t[i:i + 1] = [v]
    return len(t)
print(lis([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]), lis([i*37 % 101 for i in range(101)]))
# ---- edit_distance
def edit(a, b):
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        prev, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            prev, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, prev + (x != y))
    return row[-1]
print(edit('kitten', 'sitting'), edit('intention', 'execution'))
# ---- knapsack
items = [(12, 4), (10, 6), (8, 5), (11, 7), (14, 3), (7, 1), (9, 6)]
best = [0]*19
for w, v in items:
    for c in range(18, w - 1, -1):
        best[c] = max(best[c], best[c - w] + v)
print(best)
# ---- walk_parity
steps = {0: 1}
for _ in range(10):
    new = {}
    for p, c in steps.items():
        for q in (p - 1, p + 1, p + 2):
            new[q] = new.get(q, 0) + c
    steps = new
print(steps[0], sum(steps.values()), max(steps, key=steps.get))
# ---- probability_dp
from fractions import Fraction as F
p = {0: F(1)}
for _ in range(8):
    q = {}
    for s, pr in p.items():
        for d in range(1, 7):
            q[s + d] = q.get(s + d, 0) + pr/6
    p = q
print(p[28], sum(v for s, v in p.items() if s % 5 == 0))
# ---- digit_dp
from functools import cache
def count(N):
    D = str(N)
    @cache
    def go(i, tight, s):
        if i == len(D):
            return s % 7 == 0
        return sum(go(i + 1, tight and d == int(D[i]), s + d) for d in range((int(D[i]) if tight else 9) + 1))
    return go(0, True, 0)
print(count(10**12), count(999))
# ---- bitmask_tsp
from functools import cache
d = [[abs(i*i - j*j) % 17 + 1 for j in range(8)] for i in range(8)]
@cache
def best(mask, at):
    if mask == 255:
        return d[at][0]
    return min(d[at][k] + best(mask | 1 << k, k) for k in range(8) if not mask >> k & 1)
print(best(1, 0))
# ---- partition_table
N = 60
p = [1] + [0]*N
for k in range(1, N + 1):
    for n in range(k, N + 1):
        p[n] += p[n - k]
print(p[:12], p[60])
# ---- pascal_rows
row = [1]
for _ in range(12):
    print(*row) if len(row) > 10 else None
    row = [a + b for a, b in zip([0] + row, row + [0])]
print(sum(v % 2 for v in row))
# ---- strings_automaton
trans = {0: {'H': 1, 'T': 0}, 1: {'H': 1, 'T': 2}, 2: {'H': 3, 'T': 0}}
n = 16
states = {0: 1}
done = 0
for _ in range(n):
    nxt = {}
    for s, c in states.items():
        for t in trans[s].values():
            nxt[t] = nxt.get(t, 0) + c
    done = done*2 + nxt.pop(3, 0)
    states = nxt
print(done, 2**n - done)
# ---- matrix_chain
from functools import cache
dims = [30, 35, 15, 5, 10, 20, 25]
@cache
def cost(i, j):
    return 0 if i == j else min(cost(i, k) + cost(k + 1, j) + dims[i]*dims[k + 1]*dims[j + 1] for k in range(i, j))
print(cost(0, 5))
# ---- ackermann_depth
import sys
sys.setrecursionlimit(5000)
def ack(m, n):
    return n + 1 if m == 0 else ack(m - 1, 1) if n == 0 else ack(m - 1, ack(m, n - 1))
print(ack(2, 5), ack(2, 9))
# ---- stern_brocot
def stern(n):
    a, b = 1, 0
    while n:
        if n & 1:
            b += a
        else:
            a += b
        n >>= 1
    return b
print([stern(n) for n in range(1, 20)], max(stern(n) for n in range(1 << 10)))
