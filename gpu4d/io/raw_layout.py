"""Describe how patterns lie in a file of plain numbers that says nothing of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gpu4d.arrays import DType
from gpu4d.data.arguments import whole_numbers
from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.layout import ACCEPTED, is_usable

ORDERS: dict[str, Literal["<", ">"]] = {"little": "<", "big": ">"}


@dataclass(frozen=True)
class RawLayout:
    """How patterns lie in a file of plain numbers. `gpu4d.open(path, layout=...)` takes it.

    The file is `offset` bytes, then one pattern after the other, with `gap` bytes between two. There may be a last gap behind the last one.

    Parameters
    ----------
    shape : (Qx, Qy) or (Rx, Ry, Qx, Qy)
        Of a pattern, or of the whole scan.
    dtype : dtype
        Of the numbers: "uint16", ">u2", numpy.float32.
    offset : int
        Bytes before the first pattern.
    gap : int
        Bytes between two patterns: a header or a footer of each.
    order : {"little", "big"}, optional
        Which byte of a number comes first: its lowest or its highest. By default as `dtype` says, and little if it does not.

    Raises
    ------
    InputError
        A shape of another length or with a size below 1, a type that is no real number of at most 64 bits, a negative number of bytes,
        or an order that contradicts `dtype`.

    Examples
    --------
    >>> RawLayout((256, 256), "uint16", offset=1024).pattern_bytes
    131072
    """

    shape: tuple[int, ...]
    dtype: DType
    offset: int = 0
    gap: int = 0
    order: Literal["little", "big"] | None = None

    def __post_init__(self) -> None:
        length = 4 if isinstance(self.shape, tuple | list) and len(self.shape) == 4 else 2
        keep = object.__setattr__  # the fields of a frozen class, in their own types
        sizes = whole_numbers(self.shape, length, "shape of the layout")
        if min(sizes) < 1:
            raise InputError(f"shape of the layout is {self.shape!r}: need (Qx, Qy) or (Rx, Ry, Qx, Qy) of at least 1")
        keep(self, "shape", sizes)
        for name in ("offset", "gap"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
                raise InputError(f"{name} of the layout is {value!r}: need a number of bytes, 0 or more")
            keep(self, name, int(value))
        keep(self, "dtype", self._stored())

    def _stored(self) -> np.dtype:
        """Return the type of the numbers with its byte order."""
        if self.order is not None and self.order not in ORDERS:
            raise InputError(f'order of the layout is {self.order!r}: need "little" or "big", the byte of a number that comes first')
        try:
            found = np.dtype(self.dtype) if self.dtype is not None else None
        except (TypeError, ValueError, SyntaxError):
            found = None
        if found is None or not is_usable(found) or found.shape:
            raise InputError(f"dtype of the layout is {shown(str(self.dtype))}: accepted are {ACCEPTED}")
        says = ">" if found.byteorder == ">" else "<" if str(self.dtype).startswith("<") else None
        if self.order is not None and says is not None and ORDERS[self.order] != says and found.itemsize > 1:
            raise InputError(f"dtype of the layout is {self.dtype}, and its order {self.order}: they contradict each other, leave one out")
        return found.newbyteorder(ORDERS[self.order or ("big" if says == ">" else "little")])

    @property
    def detector_shape(self) -> tuple[int, int]:
        """(Qx, Qy)."""
        return self.shape[-2], self.shape[-1]

    @property
    def scan_shape(self) -> tuple[int, int] | None:
        """(Rx, Ry), if the shape is that of a scan."""
        return (self.shape[0], self.shape[1]) if len(self.shape) == 4 else None

    @property
    def pattern_bytes(self) -> int:
        """Bytes of a pattern, without the gap."""
        return math.prod(self.detector_shape) * np.dtype(self.dtype).itemsize

    @property
    def stride(self) -> int:
        """Bytes from one pattern to the next."""
        return self.pattern_bytes + self.gap

    def needed(self, patterns: int) -> int:
        """Return the bytes of a file with some patterns, without a last gap."""
        return self.offset + patterns * self.stride - (self.gap if patterns else 0)

    def patterns_in(self, size: int) -> tuple[int, int]:
        """Return how many patterns a file of some bytes has, and how many bytes remain. A last gap does not remain.

        Examples
        --------
        >>> RawLayout((2, 3), "uint8", offset=4, gap=1).patterns_in(4 + 7 + 7 + 6)
        (3, 0)
        >>> RawLayout((2, 3), "uint8", offset=4, gap=1).patterns_in(4 + 7 + 7 + 2)
        (2, 2)
        """
        whole, rest = divmod(max(0, size - self.offset), self.stride)
        if self.gap and rest == self.pattern_bytes:
            return whole + 1, 0
        return whole, rest


def layout_given(
    shape: Sequence[int] | None, dtype: str | None, offset: int | None, gap: int | None, order: Any, flags: bool = True
) -> RawLayout | None:
    """Return the layout that flags or a recipe describe; None if they describe none.

    Parameters
    ----------
    shape, dtype, offset, gap, order
        As for `RawLayout`; None where it is not given.
    flags : bool
        Errors name flags. False for names in a recipe.

    Raises
    ------
    InputError
        Shape or dtype is missing, or `RawLayout` refuses a value.

    Examples
    --------
    >>> layout_given([64, 64], "uint16", None, None, None).pattern_bytes, layout_given(None, None, None, 0, None)
    (8192, None)
    """
    said = {"shape": shape, "dtype": dtype, "offset": offset or None, "gap": gap or None, "order": order}
    named = {name: f"--{name}" if flags else f"input.raw_{name}" for name in said}
    if all(value is None for value in said.values()):
        return None
    if missing := [named[name] for name in ("shape", "dtype") if said[name] is None]:
        first = next(named[name] for name, value in said.items() if value is not None)
        raise InputError(f"{first} describes a file of plain numbers: give {' and '.join(missing)} too, or leave it out")
    assert shape is not None and dtype is not None
    return RawLayout(tuple(shape), dtype, offset or 0, gap or 0, order)
