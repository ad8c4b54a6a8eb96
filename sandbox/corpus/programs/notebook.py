# ---- last_expression
a = 12
b = 35
(a**2 + b**2)**0.5
# ---- last_expression_string
'answer: ' + str(6*7)
# ---- last_expression_none
x = [3, 1, 2]
x.sort()
# ---- last_expression_tuple
from sympy import *
x = symbols('x')
solve(x**2 - x - 1, x), expand((x - 1)**3)
# ---- last_expression_after_print
print('value:')
6*7
# ---- last_expression_dict
from sympy import factorint
factorint(360360)
# ---- last_statement_assignment
x = 3
y = x**2
# ---- last_statement_loop
for i in range(3):
    i*i
# ---- semicolons
a = 2; b = 3; a**b
# ---- comment_at_end
sum(range(101))
# that is the sum
# ---- multiline_expression
(1 +
 2 +
 3) * [
    10,
    20][1]
# ---- conditional_expression
n = 97
'prime' if all(n % k for k in range(2, 10)) else 'composite'
# ---- lambda_value
(lambda n: n*(n + 1)//2)(100)
# ---- walrus
(n := 10) + n**2
# ---- boxed_answer
ans = 204 % 13
print(f"The answer is \\boxed{{{ans}}}")
# ---- unicode_greek
α, β = 3, 4
γ = (α**2 + β**2)**0.5
print('γ =', γ, '≈', f'{γ:.2f}', '∠ABC = 90°')
# ---- unicode_strings
s = 'naïve café ☕ 数学 🎲'
print(len(s), s.upper(), s[::-1], s.encode('utf-8')[-4:], '\u2211', ascii('√2'))
# ---- unicode_superscript
print('x² + y² = r²', '①②③', unicode := 'Ω'.lower())
# ---- print_variants
print(1, 2, 3, sep=', ', end='!\n')
print()
print('a\tb', 'c\\d', r'\n', sep='|')
print([1.0, 2.5], (1,), {1: 'x'}, {2}, None, True, ...)
# ---- repr_nested
{'list': [1, (2, 3)], 'set': {4}, 'str': "it's", 'float': 1e-07, 'big': 10**20}
# ---- float_repr
[0.1 + 0.2, 1/3, 2/3, 1e16, 1e-5, 100.0, float('inf'), float('nan'), -0.0]
# ---- class_repr
class Vec:
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __add__(self, o):
        return Vec(self.x + o.x, self.y + o.y)
    def __repr__(self):
        return f'Vec({self.x}, {self.y})'
Vec(1, 2) + Vec(3, 4)
# ---- stderr_output
import sys
print('to stderr', file=sys.stderr)
print('to stdout')
# ---- main_guard
def main():
    print('total', sum(k**2 for k in range(1, 11)))
if __name__ == '__main__':
    main()
# ---- global_state
counter = 0
def bump():
    global counter
    counter += 1
    return counter
[bump() for _ in range(3)], counter
# ---- nested_functions
def outer(n):
    total = 0
    def inner(k):
        nonlocal total
        total += k
    for k in range(n):
        inner(k)
    return total
outer(10)
# ---- doctest_style
def gcd(a: int, b: int) -> int:
    """Greatest common divisor.

    >>> gcd(12, 18)
    6
    """
    while b:
        a, b = b, a % b
    return a
import doctest
print(doctest.testmod().failed, gcd(1071, 462))
# ---- string_processing
text = "The quick brown fox jumps over the lazy dog"
words = text.split()
print(len(words), ' '.join(w[::-1] for w in words), ''.join(sorted(set(text.lower()) - {' '})) , text.title().swapcase()[:9])
# ---- caesar
msg = 'MATHEMATICS'
print(''.join(chr((ord(c) - 65 + 13) % 26 + 65) for c in msg), [ord(c) - 64 for c in msg][:4], sum(ord(c) - 64 for c in msg))
# ---- roman_numerals
def roman(n):
    out = ''
    for v, s in ((1000, 'M'), (900, 'CM'), (500, 'D'), (400, 'CD'), (100, 'C'), (90, 'XC'), (50, 'L'), (40, 'XL'), (10, 'X'), (9, 'IX'), (5, 'V'), (4, 'IV'), (1, 'I')):
        out += s*(n//v)
        n %= v
    return out
print([roman(n) for n in (4, 49, 1994, 2024)])
# ---- table_output
print('n'.rjust(4), 'n^2'.rjust(6), 'sqrt'.rjust(8))
for n in range(1, 6):
    print(f'{n:4d} {n*n:6d} {n**0.5:8.4f}')
# ---- sympy_symbols_value
from sympy import symbols, Rational, sqrt
x = symbols('x')
x**2/2 + sqrt(8)*Rational(1, 3)
# ---- help_type
type(3), type('a').__name__, isinstance(True, int), callable(len)
# ---- eval_exec
ops = {'+': lambda a, b: a + b, '*': lambda a, b: a*b}
exec('z = 5*5')
print(eval('2**5 + z'), ops['*'](6, 7))
# ---- long_output
for n in range(1, 301):
    print(n, n*n, n**3)
# ---- empty_program

# ---- only_comment
# nothing to run here
# ---- async_function
import asyncio
async def f(n):
    return n*2
asyncio.iscoroutinefunction(f) if hasattr(asyncio, 'iscoroutinefunction') else True
# ---- star_imports_shadow
from math import *
from sympy import *
print(sqrt(8), sin(pi/6), factorial(5), floor(2.7))
# ---- itertools_in_value
from itertools import permutations
len({''.join(p) for p in permutations('AABBC')})
# ---- solve_and_filter
from sympy import symbols, solve
x = symbols('x')
answer = [int(r) for r in solve(x**3 - 2*x**2 - 11*x + 12, x) if r.is_integer and r > 0]
print("Final answer:", max(answer))
