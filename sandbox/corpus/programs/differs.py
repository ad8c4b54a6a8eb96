# ---- default_integer
import numpy as np
print(np.array([1, 2]).dtype, np.arange(3).dtype)
# ---- squares_overflow
import numpy as np
print((np.arange(100001)**2).sum())
# ---- product_overflows
import numpy as np
np.prod(np.arange(1, 21))
# ---- integer_too_large
import numpy as np
a = np.zeros(2, dtype=int)
a[0] = 10**10
print(a)
# ---- length_of_a_range
print(len(range(10**10)))
# ---- maxsize
import sys
print(sys.maxsize)
