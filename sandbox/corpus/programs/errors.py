# ---- zero_division
def average(values):
    return sum(values) / len(values)
print(average([1, 2, 3]))
print(average([]))
# ---- name_error
x = 5
print(x + y)
# ---- undefined_symbol
from sympy import solve
solve(x**2 - 4, x)
# ---- type_error_concat
n = 42
print("The answer is " + n)
# ---- type_error_call
result = [1, 2, 3]
result(0)
# ---- value_error_int
int("12.5")
# ---- index_error
a = [1, 2, 3]
for i in range(4):
    print(a[i])
# ---- key_error
d = {'a': 1}
d['b']
# ---- attribute_error_list
a = [3, 1, 2]
a.push(4)
# ---- attribute_error_sympy
from sympy import symbols
x = symbols('x')
print((x**2).factorize())
# ---- attribute_none
r = [3, 1, 2].sort()
r[0]
# ---- import_error
from sympy import solve_everything
# ---- module_not_found
import sage.all
# ---- unpack_error
a, b = [1, 2, 3]
# ---- syntax_unclosed
from math import comb
print(comb(10, 3)
# ---- syntax_missing_colon
for i in range(3)
    print(i)
# ---- syntax_latex
\frac{1}{2} + \frac{1}{3}
# ---- syntax_prose
The answer is 42.
# ---- indentation
def f(x):
return x + 1
print(f(2))
# ---- indentation_unexpected
x = 1
    y = 2
# ---- unbound_local
total = 0
def add(n):
    total += n
add(5)
# ---- recursion
def f(n):
    return f(n + 1)
f(0)
# ---- assertion
n = 17
assert n % 2 == 0, f"{n} is odd"
# ---- custom_exception
class NoSolution(Exception):
    pass
def search(limit):
    for n in range(limit):
        if n*n == 2:
            return n
    raise NoSolution(f"none below {limit}")
search(100)
# ---- chained_exception
try:
    {}['k']
except KeyError as e:
    raise ValueError('bad key') from e
# ---- caught_and_printed
for f in (lambda: 1/0, lambda: [][1], lambda: {}['q'], lambda: int('x'), lambda: None + 1):
    try:
        f()
    except Exception as e:
        print(type(e).__name__, '-', e)
# ---- stop_iteration
it = iter([1])
next(it)
next(it)
# ---- not_iterable
for d in 12345:
    print(d)
# ---- overflow_float
import math
print(math.factorial(20))
math.exp(1000)
# ---- math_domain
import math
print(math.sqrt(16))
math.log(-1)
# ---- complex_to_int
int(3 + 4j)
# ---- input_call
n = int(input("n = "))
print(n)
# ---- relational_truth
from sympy import symbols
x = symbols('x')
if x > 0:
    print('positive')
# ---- sympy_no_algorithm
from sympy import symbols, solve, sin
x = symbols('x')
solve(x + sin(x) - 1, x)
# ---- matrix_shape
from sympy import Matrix
Matrix([[1, 2]]) * Matrix([[3, 4]])
# ---- matrix_not_invertible
from sympy import Matrix
Matrix([[1, 2], [2, 4]]).inv()
# ---- numpy_shape
import numpy as np
print(np.ones(3) + np.ones(4))
# ---- numpy_index
import numpy as np
np.arange(5)[7]
# ---- missing_argument
def area(w, h):
    return w*h
area(3)
# ---- keyword_argument
sorted([3, 1], revers=True)
# ---- output_then_error
print('step 1: 3 + 4 =', 3 + 4)
print('step 2:')
undefined_function(7)
# ---- large_int_string
n = 10**5000
print(len(str(n)))
# ---- non_integer_float_range
for i in range(10/2):
    print(i)
# ---- exit_code
print('done')
exit(3)
# ---- mod_inverse_missing
pow(6, -1, 9)
# ---- string_index
s = 'abc'
s[0] = 'z'
# ---- unhashable
{[1, 2]: 3}
# ---- factorial_negative
from math import factorial
factorial(-3)
# ---- generator_length
g = (n for n in range(5))
len(g)
# ---- finally_runs
try:
    print('in')
    raise RuntimeError('boom')
finally:
    print('out')
# ---- exception_notes
try:
    raise ValueError('first')
except ValueError as e:
    e.add_note('a note')
    raise
# ---- unicode_error
'ß√'.encode('ascii')
# ---- f_string_error
name = 'x'
print(f"{name!z}")
# ---- deprecated_factor_list
from sympy import Poly, symbols
x, y = symbols('x y')
Poly(1/x, x, y, domain='ZZ')[0]
# ---- sympify_bad
from sympy import sympify
sympify('2x + ')
