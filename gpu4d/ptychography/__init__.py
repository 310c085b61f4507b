"""Ptychography: direct methods on the stack of bright-field pixels, the aberrations that these need, and iterative reconstruction."""

from gpu4d.ptychography._acbf import CorrectedBrightField, acbf
from gpu4d.ptychography._hand_over import hand_over
from gpu4d.ptychography._parallax import Parallax, parallax, tilted_dark_field
from gpu4d.ptychography._read_reconstruction import read_reconstruction
from gpu4d.ptychography._wdd import WDD, wdd
from gpu4d.ptychography.aberration_fit import AberrationFit, fit_aberrations
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.ptychography.iterative._reconstruct import reconstruct
from gpu4d.ptychography.iterative.result import Reconstruction
from gpu4d.ptychography.ssb import SSB, ssb
from gpu4d.ptychography.ssb_live import SSBLive
from gpu4d.ptychography.thin_object import ThinObject

__all__ = [
    "SSB",
    "WDD",
    "AberrationFit",
    "BrightFieldStack",
    "CorrectedBrightField",
    "Parallax",
    "Reconstruction",
    "SSBLive",
    "ThinObject",
    "acbf",
    "fit_aberrations",
    "hand_over",
    "parallax",
    "read_reconstruction",
    "reconstruct",
    "ssb",
    "tilted_dark_field",
    "wdd",
]


def __dir__() -> list[str]:
    return list(__all__)
