"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from gpu4d.errors import InputError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_memory(size: int | float | str) -> int:
    """Bytes from a number of bytes or a text such as "512 MB", "1.5 GiB".

    Examples
    --------
    >>> parse_memory("512 MB"), parse_memory("1 GiB")
    (512000000, 1073741824)
    """
    if isinstance(size, int | float) and not isinstance(size, bool):
        count = float(size)
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([a-zA-Z]*)\s*", str(size))
        unit = (match.group(2).lower() or "b") if match else ""
        if match is None or unit not in _UNITS:
            raise InputError(f"memory={size!r}: need bytes or a text like '512 MB' (units {', '.join(u.upper() for u in _UNITS)})")
        count = float(match.group(1)) * _UNITS[unit]
    if not 1 <= count < float("inf"):
        raise InputError(f"memory={size!r}: need a finite number of bytes, at least one")
    return int(count)


def format_bytes(count: float) -> str:
    """A size for people: three digits and a decimal unit.

    Examples
    --------
    >>> format_bytes(536870912)
    '537 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
