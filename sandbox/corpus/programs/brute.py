# ---- palindromes
best = max(a*b for a in range(100, 400) for b in range(a, 400) if str(a*b) == str(a*b)[::-1])
print(best)
# ---- digit_permutations
hits = [n for n in range(1000, 10000) if sorted(str(n)) == sorted(str(9999 - n))]
print(len(hits), hits[:5])
# ---- amicable
def d(n):
    s, i = 1, 2
    while i*i <= n:
        if n % i == 0:
            s += i + (n//i if i*i != n else 0)
        i += 1
    return s
print([(a, d(a)) for a in range(2, 3000) if d(a) > a and d(d(a)) == a])
# ---- eratosthenes
N = 20000
s = bytearray([1])*(N + 1)
s[0:2] = b'\0\0'
for i in range(2, int(N**.5) + 1):
    if s[i]:
        s[i*i::i] = bytes(len(range(i*i, N + 1, i)))
print(sum(s), sum(i for i in range(N + 1) if s[i] and s[N - i]))
# ---- eight_queens
def queens(n, row=0, cols=0, d1=0, d2=0):
    if row == n:
        return 1
    total, free = 0, ~(cols | d1 | d2) & ((1 << n) - 1)
    while free:
        bit = free & -free
        free ^= bit
        total += queens(n, row + 1, cols | bit, (d1 | bit) << 1, (d2 | bit) >> 1)
    return total
print([queens(n) for n in range(1, 9)])
# ---- magic_square
from itertools import permutations
count = 0
for p in permutations(range(1, 10)):
    if p[0] + p[1] + p[2] == 15 == p[3] + p[4] + p[5] and p[0] + p[3] + p[6] == 15 == p[1] + p[4] + p[7] \
            and p[0] + p[4] + p[8] == 15 == p[2] + p[4] + p[6]:
        count += 1
print(count)
# ---- cryptarithm
import itertools
for E, N, D, R, Y in itertools.permutations([2, 3, 4, 5, 6, 7, 8], 5):
    if 9000 + 100*E + 10*N + D + 1000 + 10*R + E == 10000 + 100*N + 10*E + Y:
        print(9000 + 100*E + 10*N + D, 1000 + 10*R + E)
# ---- bfs_jugs
from collections import deque
def jugs(a, b, goal):
    q, seen = deque([((0, 0), 0)]), {(0, 0)}
    while q:
        (x, y), n = q.popleft()
        if goal in (x, y):
            return n
        t, u = min(x, b - y), min(y, a - x)
        for s in ((a, y), (x, b), (0, y), (x, 0), (x - t, y + t), (x + u, y - u)):
            if s not in seen:
                seen.add(s)
                q.append((s, n + 1))
print(jugs(5, 8, 4), jugs(7, 11, 6), jugs(4, 6, 3))
# ---- two_loops_condition
count = 0
for a in range(1, 101):
    for b in range(1, 101):
        if (a*a + b*b) % (a*b + 1) == 0:
            count += 1
print(count)
# ---- triangle_count
print(sum(1 for a in range(1, 41) for b in range(a, 41) for c in range(b, 41) if a + b > c and a + b + c == 60))
# ---- happy_numbers
def happy(n):
    while n not in (1, 4):
        n = sum(int(d)**2 for d in str(n))
    return n == 1
print(sum(happy(n) for n in range(1, 1001)), [n for n in range(1, 50) if happy(n)])
# ---- kaprekar
def steps(n):
    k = 0
    while n != 6174:
        s = f'{n:04}'
        n = int(''.join(sorted(s, reverse=True))) - int(''.join(sorted(s)))
        k += 1
    return k
print(max(steps(n) for n in range(1000, 2000) if len(set(str(n))) > 1))
# ---- sudoku_row_backtrack
def subsets(target, start=1, chosen=()):
    if target == 0:
        return [chosen]
    return [r for v in range(start, min(target, 9) + 1) for r in subsets(target - v, v + 1, chosen + (v,))]
print(len(subsets(20)), subsets(10)[:4])
# ---- floor_sum
import math
print(sum(math.floor(math.sqrt(n)) for n in range(1, 1001)), sum(n//3 + n//5 for n in range(100)))
# ---- arithmetic_progressions
S = {p for p in range(2, 200) if all(p % q for q in range(2, int(p**.5) + 1))}
print(sorted((a, d) for a in S for d in range(2, 40, 2) if all(a + k*d in S for k in range(5))))
# ---- monty_simulation
import random
random.seed(1)
wins = 0
for _ in range(5000):
    car, pick = random.randrange(3), random.randrange(3)
    wins += car != pick
print(wins)
# ---- string_rotations
n = 142857
print([n*k for k in range(1, 7)], all(sorted(str(n*k)) == sorted(str(n)) for k in range(1, 7)))
# ---- sum_digits_factorials
from math import factorial
f = [factorial(d) for d in range(10)]
print([n for n in range(3, 50000) if sum(f[int(c)] for c in str(n)) == n])
# ---- spiral_grid
n = 5
g = [[0]*n for _ in range(n)]
x = y = 0
dx, dy = 1, 0
for k in range(1, n*n + 1):
    g[y][x] = k
    if not (0 <= x + dx < n and 0 <= y + dy < n and g[y + dy][x + dx] == 0):
        dx, dy = -dy, dx
    x, y = x + dx, y + dy
for row in g:
    print(' '.join(f'{v:2}' for v in row))
# ---- game_of_nim
from functools import cache
@cache
def mex(n):
    s = {mex(n - k) for k in (1, 3, 4) if k <= n}
    return next(i for i in range(9) if i not in s)
print([n for n in range(60) if mex(n) == 0])
# ---- early_exit
import sys
for n in range(1, 10**6):
    if n % 7 == 3 and n % 9 == 5 and n % 10 == 1:
        print(n)
        sys.exit()
# ---- calendar_puzzle
n = 1
while not (n % 2 == n % 3 == n % 4 == n % 5 == n % 6 == 1 and n % 7 == 0):
    n += 1
n
