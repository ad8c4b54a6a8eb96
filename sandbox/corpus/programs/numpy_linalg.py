# ---- solve_system
import numpy as np
A = np.array([[3.0, 2.0, -1.0], [2.0, -2.0, 4.0], [-1.0, 0.5, -1.0]])
b = np.array([1.0, -2.0, 0.0])
print(np.round(np.linalg.solve(A, b), 10))
# ---- determinant_rank
import numpy as np
A = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 10]])
print(round(np.linalg.det(A)), np.linalg.matrix_rank(A), np.trace(A))
# ---- inverse
import numpy as np
A = np.array([[4.0, 7.0], [2.0, 6.0]])
print(np.round(np.linalg.inv(A), 10), np.allclose(A @ np.linalg.inv(A), np.eye(2)))
# ---- eigenvalues
import numpy as np
w, v = np.linalg.eig(np.array([[2.0, 0.0], [0.0, 3.0]]))
print(w, v)
print(np.round(np.linalg.eigvalsh([[2, -1, 0], [-1, 2, -1], [0, -1, 2]]), 8))
# ---- symmetric_eigh
import numpy as np
A = np.array([[4, 1, 2], [1, 3, 0], [2, 0, 5]], dtype=float)
w, V = np.linalg.eigh(A)
print(np.round(w, 6), np.allclose(V @ np.diag(w) @ V.T, A))
# ---- matrix_power
import numpy as np
F = np.array([[1, 1], [1, 0]], dtype=object)
print(np.linalg.matrix_power(F, 90)[0, 1], np.linalg.matrix_power(np.array([[1, 1], [1, 0]]), 40)[0, 1])
# ---- least_squares
import numpy as np
x = np.array([0, 1, 2, 3, 4])
y = np.array([1.1, 2.9, 5.2, 7.1, 8.8])
coef, res, rank, sv = np.linalg.lstsq(np.vstack([x, np.ones_like(x)]).T, y, rcond=None)
print(np.round(coef, 6), rank)
# ---- svd
import numpy as np
s = np.linalg.svd(np.array([[3.0, 0.0], [4.0, 5.0]]), compute_uv=False)
print(np.round(s, 8), round(np.linalg.norm([3, 4]), 6), round(np.linalg.cond([[1, 2], [3, 4]]), 6))
# ---- qr
import numpy as np
Q, R = np.linalg.qr(np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
print(np.allclose(Q.T @ Q, np.eye(2)), np.round(np.abs(R), 6))
# ---- cross_dot
import numpy as np
u, v = np.array([1, 2, 3]), np.array([4, -5, 6])
print(np.cross(u, v), u @ v, np.outer(u, v), np.inner(u, v))
# ---- markov_chain
import numpy as np
P = np.array([[0.5, 0.5, 0.0], [0.25, 0.5, 0.25], [0.0, 0.5, 0.5]])
print(np.round(np.linalg.matrix_power(P, 100), 6))
# ---- kron_block
import numpy as np
print(np.kron(np.eye(2, dtype=int), [[1, 2], [3, 4]]), np.block([[np.ones((2, 2), int), np.zeros((2, 1), int)]]))
# ---- einsum
import numpy as np
a = np.arange(6).reshape(2, 3)
b = np.arange(12).reshape(3, 4)
print(np.einsum('ij,jk->ik', a, b), np.einsum('ij->', a), np.tensordot(a, b, 1).sum())
# ---- cholesky_triangular
import numpy as np
A = np.array([[25.0, 15.0, -5.0], [15.0, 18.0, 0.0], [-5.0, 0.0, 11.0]])
print(np.linalg.cholesky(A), np.tril(A)[2], np.triu(A, 1)[0])
# ---- singular_error
import numpy as np
np.linalg.inv(np.array([[1.0, 2.0], [2.0, 4.0]]))
# ---- array_repr
import numpy as np
np.array([[1.5, 2], [3, 4]]) @ np.array([2, 1])
