"""Keep the results of slow functions of images, without keeping the images."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from hashlib import blake2b
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Made = TypeVar("Made")


class _Bytes:
    """A byte string compared by its digest.

    `content` is dropped after the call, so that the cache does not keep the image in memory.
    """

    __slots__ = ("content", "digest")

    def __init__(self, content: bytes):
        self.content: bytes | None = content
        self.digest = blake2b(content, digest_size=32).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Bytes) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def kept_by_content(maxsize: int) -> Callable[[Callable[Given, Made]], Callable[Given, Made]]:
    """Return a decorator like `functools.lru_cache` that keeps digests of the arguments that are bytes, not the bytes.

    Images are passed as bytes. An image of 2048² pixels has 34 MB in float64, while the results have a few kilobytes.
    Arguments are positional.

    Parameters
    ----------
    maxsize : int
        Largest number of results that are kept.

    Examples
    --------
    >>> @kept_by_content(maxsize=2)
    ... def halves(pixels, n):
    ...     return [pixels[:n], pixels[n:]]
    >>> halves(b"abcd", 2) is halves(b"abcd", 2), halves(b"abcd", 2) is halves(b"abcd", 3)
    (True, False)
    """

    def keep(function: Callable[Given, Made]) -> Callable[Given, Made]:
        @lru_cache(maxsize)
        def kept(*given: Any) -> Made:
            return function(*(g.content if isinstance(g, _Bytes) else g for g in given))  # type: ignore[arg-type, call-arg]

        @wraps(function)
        def call(*given: Any) -> Made:
            keys = [_Bytes(g) if isinstance(g, bytes) else g for g in given]
            try:
                return kept(*keys)
            finally:
                for key in keys:
                    if isinstance(key, _Bytes):
                        key.content = None

        return call  # type: ignore[return-value]

    return keep
