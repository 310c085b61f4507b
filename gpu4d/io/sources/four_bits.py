"""Unpack pixels of four bits, two in a byte (numba)."""

import numpy as np

from gpu4d.compiled import entry


@entry()
def unpack_four_bits(packed, out):
    """Write two pixels for each byte, as one number of 16 bits: the lower half of the byte comes first in memory.

    Parameters
    ----------
    packed : (n,) uint8
    out : (n,) "<u2"
    """
    for i in range(packed.size):
        byte = np.uint16(packed[i])
        out[i] = (byte | byte << np.uint16(4)) & np.uint16(0x0F0F)
