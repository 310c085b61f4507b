"""Errors and text that come from files and other libraries: which errors mean damage, and how they are put into one printable line."""

from __future__ import annotations

# What h5py, NumPy and Python raise for bytes that are not what they should be.
FOREIGN = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError)


def reason(error: BaseException) -> str:
    """Return the informative part of an error of another library: the innermost parentheses, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return shown(error.strerror)
    text = str(error).strip("'\"")
    inner = text[text.rfind("(") + 1 :].rstrip(")") if text.endswith(")") else text
    return shown((inner or type(error).__name__).splitlines()[0])


def shown(text: str) -> str:
    r"""Return a name from a file as it may be printed: line ends, escapes and bytes that are no text appear as \x…

    Examples
    --------
    >>> print(shown("scan\nall is well\x1b[31m"))
    scan\nall is well\x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] if not "\udc80" <= c <= "\udcff" else f"\\x{ord(c) - 0xDC00:02x}" for c in text)
