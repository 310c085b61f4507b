"""Show complex arrays to compiled code as rows of real numbers: real and imaginary parts in turn.

LLVM vectorises loops over such a row. Loops over arrays with more axes, it does not.
"""

from gpu4d.compiled import contiguous


def read_pairs(array, dtype=None):
    """Return a complex array (…, n) as real numbers (…, 2 n), for compiled code that only reads them."""
    array = contiguous(array, dtype)
    return array.view(array.real.dtype)


def new_pairs(array):
    """Return a new complex array (…, n) as real numbers (…, 2 n) that can be written."""
    return array.view(array.real.dtype)
