# ---- determinant
from sympy import Matrix
M = Matrix([[2, -1, 0], [-1, 2, -1], [0, -1, 2]])
print(M.det(), M.rank(), M.trace())
# ---- inverse
from sympy import Matrix
A = Matrix([[1, 2, 3], [0, 1, 4], [5, 6, 0]])
print(A.inv())
A * A.inv()
# ---- eigen_symbolic
from sympy import Matrix, symbols
A = Matrix([[4, 1], [2, 3]])
print(A.eigenvals(), A.eigenvects(), A.charpoly().as_expr())
# ---- diagonalize
from sympy import Matrix
P, D = Matrix([[1, 2], [2, 1]]).diagonalize()
print(P, D, P*D*P.inv())
# ---- matrix_power
from sympy import Matrix, eye
F = Matrix([[1, 1], [1, 0]])
print(F**50, (F**50)[0, 1])
# ---- rref_nullspace
from sympy import Matrix
A = Matrix([[1, 2, -1, 3], [2, 4, 1, 0], [3, 6, 0, 3]])
print(A.rref(), A.nullspace(), A.columnspace())
# ---- solve_linear_system
from sympy import Matrix, Rational, linsolve, symbols
A = Matrix([[3, 2, -1], [2, -2, 4], [-1, Rational(1, 2), -1]])
b = Matrix([1, -2, 0])
print(A.LUsolve(b), linsolve((A, b), *symbols('x y z')))
# ---- symbolic_determinant
from sympy import *
a, b, c = symbols('a b c')
V = Matrix([[1, a, a**2], [1, b, b**2], [1, c, c**2]])
print(factor(V.det()))
# ---- circulant
from sympy import Matrix, factor
n = 4
C = Matrix(n, n, lambda i, j: (j - i) % n + 1)
print(C, C.det())
# ---- gram_schmidt
from sympy import Matrix, GramSchmidt
vs = [Matrix([1, 1, 0]), Matrix([1, 0, 1]), Matrix([0, 1, 1])]
print(GramSchmidt(vs, True))
# ---- cross_dot
from sympy import Matrix, sqrt, acos
u, v = Matrix([1, 2, 3]), Matrix([4, -5, 6])
print(u.cross(v).T, u.dot(v), u.norm(), acos(u.dot(v)/(u.norm()*v.norm())))
# ---- rotation_matrix
from sympy import *
t = symbols('t')
R = Matrix([[cos(t), -sin(t)], [sin(t), cos(t)]])
print(simplify(R*R.T), simplify(R.det()), (R.subs(t, pi/6))**3)
# ---- jordan_form
from sympy import Matrix
P, J = Matrix([[5, 4, 2, 1], [0, 1, -1, -1], [-1, -1, 3, 0], [1, 1, -1, 2]]).jordan_form()
print(J)
# ---- lu_qr
from sympy import Matrix
A = Matrix([[4, 3], [6, 3]])
L, U, p = A.LUdecomposition()
Q, R = Matrix([[1, 1], [0, 1], [1, 0]]).QRdecomposition()
print(L, U, p, Q, R)
# ---- markov_steady
from sympy import *
P = Matrix([[Rational(1, 2), Rational(1, 2), 0], [Rational(1, 4), Rational(1, 2), Rational(1, 4)], [0, Rational(1, 3), Rational(2, 3)]])
v = (P.T - eye(3)).nullspace()[0]
print((v/sum(v)).T)
# ---- expected_time
from sympy import symbols, Eq, solve, Rational
E0, E1, E2 = symbols('E0 E1 E2')
print(solve([Eq(E0, 1 + (E0 + E1)/2), Eq(E1, 1 + (E0 + E2)/2), Eq(E2, 1 + E0/2)], [E0, E1, E2]))
# ---- block_build
from sympy import Matrix, eye, zeros, ones, diag, BlockMatrix
M = diag(1, 2, ones(2, 2))
print(M, M.shape, Matrix.hstack(eye(2), zeros(2, 1)), (3*eye(3) - ones(3, 3)).det())
# ---- matrix_exp
from sympy import Matrix, symbols, simplify
t = symbols('t')
print(simplify((Matrix([[0, 1], [-1, 0]])*t).exp()))
# ---- integer_solutions_smith
from sympy import Matrix, ZZ
from sympy.matrices.normalforms import smith_normal_form
print(smith_normal_form(Matrix([[12, 6, 4], [3, 9, 6], [2, 16, 14]]), domain=ZZ))
# ---- definite_check
from sympy import Matrix
A = Matrix([[2, -1], [-1, 2]])
print(A.is_positive_definite, A.is_symmetric(), A.cholesky())
# ---- matrix_repr
from sympy import Matrix
Matrix([[1, 2], [3, 4]])
# ---- list_matrix_power_mod
def mul(a, b, m):
    return [[sum(x*y for x, y in zip(r, c)) % m for c in zip(*b)] for r in a]
def power(a, n, m):
    r = [[int(i == j) for j in range(len(a))] for i in range(len(a))]
    while n:
        if n & 1:
            r = mul(r, a, m)
        a, n = mul(a, a, m), n >> 1
    return r
print(power([[1, 1], [1, 0]], 10**18, 10**9 + 7))
