"""Files in and out."""

from gpu4d.io.opening import open

__all__ = ["open"]
