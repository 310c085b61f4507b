"""Mark functions that compute on the host by design, with the reason. Arrays of a device are copied for them.

All other public functions keep the data where they are. Tests run each of them on a device that counts what is copied to the host, and the
table of `gpu4d.capabilities` is made from these marks.

Some arguments are tables that are kept on the host for every function: masks of pixels or positions, origins, templates, probes, windows,
weights. They have at most a few numbers for each pixel of the detector, or for each position of the scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Marked = TypeVar("Marked", bound=Callable[..., object])

# Reasons, with what is copied.
REASONS = {
    "image": "measures one image or pattern: 8 B a pixel",
    "map": "looks at maps of the scan as a whole: 8 B a position and component",
    "curve": "works on curves, profiles or a few numbers: less than 1 MB",
    "lists": "searches lists of points, or fits few numbers to all of them: 24 B a point",
    "raw": "measures a detector from raw or dark frames, before a scan is analysed: the frames that it is given",
    "rotations": "works on rotations or directions of a crystal: 72 B for each",
}
# The same for functions that compute where the data are, and take something smaller to the host.
REASONS_IN_PART = {
    "judged": "maps of the result are judged on the host: up to 64 B a position",
    "sample": "a sample of patterns is examined on the host, so that what it finds does not depend on the device: at most 32 MiB",
    "fits": "few numbers are fitted on the host to sums over the scan: the sums",
    "statistics": "sums over patterns become statistics on the host: the sums",
    "shown": "what a page shows is kept on the host: the scan, binned where it is large",
}


def on_host(reason: str) -> Callable[[Marked], Marked]:
    """Mark a function or a reduction as computing on the host.

    Parameters
    ----------
    reason : str
        A key of `REASONS`, or of `REASONS_IN_PART`.

    Examples
    --------
    >>> @on_host("curve")
    ... def area(curve): return sum(curve)
    >>> why_on_host(area)
    'works on curves, profiles or a few numbers: less than 1 MB'
    """

    def marked(function: Marked) -> Marked:
        function.__on_host__ = (REASONS | REASONS_IN_PART)[reason]  # type: ignore[attr-defined]
        return function

    return marked


def why_on_host(function: object) -> str | None:
    """Return why a function or class computes on the host, or None if it is not marked. Marks of base classes do not count."""
    return vars(function).get("__on_host__") if hasattr(function, "__dict__") else None


def in_part(why: str | None) -> bool:
    """Return True if a reason of `why_on_host` says that the data stay where they are, and something smaller is copied."""
    return why in REASONS_IN_PART.values()
