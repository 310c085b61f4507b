"""Copies of a source, each without one of its barriers: the check of the checker."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpu4d.device.backend import inlined

BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
LINE = re.compile(r'#line (\d+) "([^"]+)"')


def copies_without_one(file: str) -> Iterator[tuple[str, str]]:
    """Where the barrier was ("peaks.cuh:176"), and the text without it."""
    text = inlined(file)
    for match in BARRIER.finditer(text):
        yield place_of(text, match.start()), text[: match.start()] + "/* left out */;" + text[match.end() :]


def without(file: str, place: str) -> str:
    """The text of a source without the barrier of one place, given by the code before it in its file."""
    text = inlined(file)
    before = f"{place}__sync"
    assert text.count(before) == 1, f"{file} has {text.count(before)} barriers behind {place!r}: say again which to leave out"
    at = text.index(before) + len(place)
    return text[:at] + BARRIER.sub("/* left out */;", text[at:], count=1)


def place_of(text: str, at: int) -> str:
    """File and line, as the `#line` directives before a character say it."""
    directive = list(LINE.finditer(text, 0, at))[-1]
    return f"{directive.group(2)}:{int(directive.group(1)) + text.count(chr(10), directive.end(), at) - 1}"
