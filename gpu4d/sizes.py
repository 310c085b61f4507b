"""Write sizes in bytes for readers."""

from __future__ import annotations


def format_bytes(count: float) -> str:
    """Write a number of bytes with three digits and a decimal unit.

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
