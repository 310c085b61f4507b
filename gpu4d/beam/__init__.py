"""Describe where the unscattered beam falls at every scan position. `gpu4d.calibrate.origin` measures it."""

from gpu4d.beam.origin import Origin
from gpu4d.beam.surface import Step

__all__ = ["Origin", "Step"]


def __dir__() -> list[str]:
    return list(__all__)
