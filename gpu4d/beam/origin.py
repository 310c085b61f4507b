"""Describe where the unscattered beam falls at every scan position."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from gpu4d.beam.steps import named
from gpu4d.beam.surface import Step, Surface
from gpu4d.data.calibration import Calibration
from gpu4d.data.storable import Storable

LARGE = 3.0  # a residual so many times the usual one is large
LINES = 0.5  # of the positions of a row must have large residuals for the row to be named
NAMED = 5  # jumps that are named one by one


@dataclass(frozen=True, eq=False)
class Origin(Storable, stored="measured fitted surface: Rx Ry xy [px]; outliers jumped: Rx Ry; residual error: [px]"):
    """The unscattered beam over the scan.

    Attributes
    ----------
    measured : (Rx, Ry, 2) float64
        Origin as measured, detector pixels. NaN where it could not be measured.
    fitted : (Rx, Ry, 2) float64
        The surface, defined at every position. At positions that jumped, the measured origin.
    residual : (2,) float64
        Rms distance of the measured positions (outliers left out) from the surface, px, along qx and qy.
    outliers : (Rx, Ry) bool
        True where the origin was measured, but left out of the surface.
    fit : str
        Description of the fitted surface.
    error : float
        Standard error of the surface along one axis, mean over the scan, px.
    steps : tuple of Step
        Sudden changes between rows or columns of the scan. The surface has them.
    jumped : (Rx, Ry) bool
        Outliers at which the whole pattern is displaced: the beam jumped. At other outliers a wrong disk was taken.
    method : str
        What it was measured from.
    surface : (Rx, Ry, 2) float64 or None
        The surface alone, also where the beam jumped.
    """

    measured: np.ndarray
    fitted: np.ndarray
    residual: np.ndarray
    outliers: np.ndarray
    fit: str
    error: float = math.nan
    steps: tuple[Step, ...] = ()
    jumped: np.ndarray | None = None
    method: str = "unscattered disk"
    surface: np.ndarray | None = None

    @classmethod
    def through(cls, measured: np.ndarray, surface: Surface, jumped: np.ndarray | None = None, method: str = "unscattered disk") -> Origin:
        """Return the origin that a surface through the measured positions gives."""
        fitted = surface.fitted if jumped is None else np.where(jumped[..., None], measured, surface.fitted)
        parts = surface.residual, surface.outliers, surface.fit, surface.error, surface.steps
        return cls(measured, fitted, *parts, jumped, method, surface.fitted)

    def __repr__(self) -> str:
        x, y = self.fitted.mean(axis=(0, 1))
        return f"Origin(mean ({x:.2f}, {y:.2f}) px, {self.fit}, rms {np.hypot(*self.residual):.3f} px)"

    @property
    def findings(self) -> tuple[str, ...]:
        """Return sentences on steps, jumps, and rows or columns that the surface does not fit. Empty if all is smooth."""
        return (*(f"{step}: {named(step)}" for step in self.steps), *self._jumps(), *self._misfits())

    def _jumps(self) -> list[str]:
        if self.jumped is None or not self.jumped.any():
            return []
        places = np.argwhere(self.jumped)
        moved = (self.measured - (self.fitted if self.surface is None else self.surface))[self.jumped]
        shown = [f"({x}, {y}) by ({dx:+.1f}, {dy:+.1f}) px" for (x, y), (dx, dy) in zip(places[:NAMED], moved[:NAMED], strict=True)]
        more = f" and {len(places) - NAMED} more" if len(places) > NAMED else ""
        return [f"the beam jumped at {len(places)} position{'s' * (len(places) > 1)}: {', '.join(shown)}{more}"]

    def _misfits(self) -> list[str]:
        """Name the rows and columns in which half of the positions lie far from the surface."""
        usual = float(np.hypot(*self.residual))
        far = np.hypot(*np.moveaxis(self.measured - self.fitted, -1, 0)) > LARGE * max(usual, 1e-6)
        said = []
        for axis, name in enumerate(("row", "column")):
            lines = np.flatnonzero(far.mean(axis=1 - axis) > LINES)
            if 0 < lines.size < far.shape[axis]:
                names = f"{name}{'s' * (lines.size > 1)} {_ranges(lines)}"
                said.append(f"the surface does not fit {names}: residuals above {LARGE * usual:.2g} px there")
        return said

    def apply(self, calibration: Calibration) -> None:
        """Write the origin and the measurement into a calibration, with a note on how they were found."""
        error = self.error if self.error > 0 else None
        how = f"{self.method}, {self.fit}"
        calibration.measured(origin=self.fitted, origin_measured=self.measured, origin_error=error, how=how)


def _ranges(lines: np.ndarray) -> str:
    """Write numbers of lines as ranges: 0–3, 7."""
    parts = np.split(lines, np.flatnonzero(np.diff(lines) > 1) + 1)
    return ", ".join(f"{p[0]}–{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
