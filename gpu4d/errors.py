"""Errors that gpu4d raises. Every message says what was given, what is accepted and what to do."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["BrokenScanError", "DeviceError", "Gpu4dError", "InputError", "MemoryBudgetError"]


def __dir__() -> list[str]:
    return list(__all__)


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word nearest to a mistyped one, as the end of a sentence. Empty if none is near.

    Examples
    --------
    >>> did_you_mean("enregy", ["energy", "semiangle"]), did_you_mean("x", ["energy"])
    (" (did you mean 'energy'?)", '')
    """
    import difflib

    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


class Gpu4dError(Exception):
    """Base of all errors that gpu4d raises on purpose. The command line prints them as one line."""


class InputError(Gpu4dError, ValueError):
    """An argument, a file or a combination of them cannot be used."""


class BrokenScanError(InputError):
    """The source of a live scan failed before the scan was complete.

    Attributes
    ----------
    results : dict of str to result, or one result
        Results of the patterns that had come: NaN or empty elsewhere. In the form of `reductions`.
    arrived : int
        Number of these patterns.
    """

    def __init__(self, message: str, results: object, arrived: int):
        super().__init__(message)
        self.results, self.arrived = results, arrived

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.results, self.arrived)


class DeviceError(Gpu4dError, RuntimeError):
    """A compute device cannot be used: it is not there, or it no longer answers."""


class MemoryBudgetError(Gpu4dError, MemoryError):
    """Work does not fit into the memory it may use.

    Attributes
    ----------
    asked, free, cap : int
        Bytes that the work needs at least, that the machine has free, and that the caller allows.
    """

    def __init__(self, what: str, asked: int, free: int, cap: int, because: BaseException | str | None = None):
        self.asked, self.free, self.cap = int(asked), int(free), int(cap)
        from gpu4d.sizes import format_bytes

        text = because if because is None or isinstance(because, str) else str(because) or type(because).__name__
        self._given = what, self.asked, self.free, self.cap, text
        met = f"; memory ran out with: {text}" if text is not None else ""
        super().__init__(
            f"{what} needs {format_bytes(asked)}; {format_bytes(free)} is free and memory= allows {format_bytes(cap)}{met}: "
            "raise memory=, crop or bin the detector, or ask for fewer results at once"
        )

    def __reduce__(self) -> tuple:
        """Pickle the cause as text, because the other process may not have the library of its class."""
        return type(self), self._given
