"""Say what was found on a machine, and what to do about it: `gpu4d doctor` and `gpu4d bench doctor` share these words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

OK, NOTE, WARN, FAIL = LEVELS = ("ok", "note", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes
    ----------
    topic : str
        "python", "packages", "gpu", "link", "disk", …
    level : {"ok", "note", "warn", "fail"}
        "note": worth knowing. "warn": gpu4d works, but slower or with less, or times scatter. "fail": something is broken.
    what : str
        What is found.
    advice : str
        What to do about it; empty where there is nothing to do.
    """

    topic: str
    level: str
    what: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the finding as plain texts."""
        return asdict(self)


def as_text(findings: Iterable[Finding]) -> str:
    """Return a line for each finding, and what to do below it.

    Examples
    --------
    >>> print(as_text([Finding("disk", WARN, "2 MB free", "free some space")]))
    warn  disk  2 MB free
                → free some space
    """
    held = list(findings)
    width = max((len(one.topic) for one in held), default=0)
    lines = []
    for one in held:
        lines.append(f"{one.level:4s}  {one.topic:{width}s}  {one.what}")
        if one.advice:
            lines.append(" " * (width + 8) + f"→ {one.advice}")
    return "\n".join(lines)
