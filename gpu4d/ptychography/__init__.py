"""Ptychography by direct methods on the stack of bright-field pixels."""

from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.ptychography.ssb import SSB, ssb

__all__ = ["SSB", "BrightFieldStack", "ssb"]


def __dir__() -> list[str]:
    return list(__all__)
