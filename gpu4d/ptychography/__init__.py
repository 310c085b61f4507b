"""Ptychography by direct methods on the stack of bright-field pixels."""

from gpu4d.ptychography.aberration_fit import AberrationFit, fit_aberrations
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.ptychography.ssb import SSB, ssb

__all__ = ["SSB", "AberrationFit", "BrightFieldStack", "fit_aberrations", "ssb"]


def __dir__() -> list[str]:
    return list(__all__)
