"""Read the files in which Linux describes a machine. What is missing, or may not be read, is None: other systems have none of them.

Functions take the root of the file system, so that tests can give them the files of another machine.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/")


def text(root: Path, path: str) -> str | None:
    """Return the contents of a file without the white space at its ends."""
    try:
        return (root / path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(root: Path, path: str) -> float | None:
    """Return the number that a file begins with."""
    words = (text(root, path) or "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def whole(root: Path, path: str) -> int | None:
    """Return the whole number that a file begins with."""
    found = number(root, path)
    return None if found is None else int(found)


def table(root: Path, path: str, separator: str | None = None) -> dict[str, str]:
    """Return the lines "name value" of a file by name. Of lines with the same name the first counts."""
    found: dict[str, str] = {}
    for line in (text(root, path) or "").splitlines():
        name, *rest = line.split(separator, 1)
        found.setdefault(name.strip(), rest[0].strip() if rest else "")
    return found


def matching(root: Path, pattern: str) -> list[str]:
    """Return the paths below the root that match, in order."""
    try:
        return sorted(str(path.relative_to(root)) for path in root.glob(pattern))
    except OSError:
        return []


def listed(ranges: str | None) -> list[int]:
    """Return the numbers of a list as the kernel writes it.

    Examples
    --------
    >>> listed("0-2,8")
    [0, 1, 2, 8]
    """
    found: list[int] = []
    for part in (ranges or "").split(","):
        first, _, last = part.strip().partition("-")
        if first.isdecimal():
            found += range(int(first), int(last if last.isdecimal() else first) + 1)
    return found


def size_in_bytes(written: str | None) -> int | None:
    """Return the bytes of "32768K" or "32M", as the kernel writes the size of a cache.

    Examples
    --------
    >>> size_in_bytes("512K")
    524288
    """
    if not written:
        return None
    digits, unit = written.rstrip("KMG"), written[-1]
    return int(digits) << {"K": 10, "M": 20, "G": 30}.get(unit, 0) if digits.isdecimal() else None
