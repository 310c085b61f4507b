"""What gpu4d raises: every message says what was given, what is accepted and what to do."""

from __future__ import annotations


class Gpu4dError(Exception):
    """Base of all errors that gpu4d raises on purpose; the command line prints them as one line."""


class InputError(Gpu4dError, ValueError):
    """An argument, a file or a combination of them cannot be used."""


class DeviceError(Gpu4dError, RuntimeError):
    """A compute device was asked for that is not there."""


class MemoryBudgetError(Gpu4dError, MemoryError):
    """A piece of work does not fit into the memory it may use.

    Attributes
    ----------
    asked, free, cap : int
        Bytes the work needs at least, bytes the machine has free, bytes the caller allows.
    """

    def __init__(self, what: str, asked: int, free: int, cap: int, because: BaseException | None = None):
        self.asked, self.free, self.cap = int(asked), int(free), int(cap)
        from gpu4d.sizes import format_bytes

        met = f"; memory ran out with: {str(because) or type(because).__name__}" if because is not None else ""
        super().__init__(
            f"{what} needs {format_bytes(asked)}; {format_bytes(free)} is free and memory= allows {format_bytes(cap)}{met}: "
            "raise memory=, crop or bin the detector, or ask for fewer results at once"
        )

    @classmethod
    def _again(cls, message: str, asked: int, free: int, cap: int) -> MemoryBudgetError:
        error = cls.__new__(cls, message)
        error.asked, error.free, error.cap = asked, free, cap
        return error

    def __reduce__(self) -> tuple:
        """From one process to another: the message as it is, for what ran out may be an error of a library the other does not have."""
        return self._again, (str(self), self.asked, self.free, self.cap)
