"""Check the options of a reconstruction."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gpu4d.errors import InputError
from gpu4d.ptychography.iterative.likelihood import LIKELIHOODS
from gpu4d.ptychography.iterative.probes import MOST_MODES
from gpu4d.ptychography.iterative.sweeps import Settings
from gpu4d.real_arrays import real_number

OBJECTS = ("complex", "phase")
PRECISIONS = {"single": ("complex64", "float32"), "double": ("complex128", "float64")}
BATCHES = 8  # of a sweep: few are slow, many are noisy
LEAST_BATCH, MOST_BATCH = 32, 1024  # positions
MOMENTUM = {"single": 0.5, "several": 0.9}  # differences between slices are found slowly, so that steps add up for longer
WHOLE = {"sweeps": 0, "slices": 1, "probe_from": 0, "positions_from": 0, "seed": 0}  # least values


@dataclass(frozen=True)
class Options:
    """Options of a reconstruction, as `reconstruct` explains them."""

    sweeps: int
    slices: int
    thickness: float | None
    modes: int | None
    source: float | None
    correct_positions: bool | float
    likelihood: str
    background: float | None
    object_kind: str
    depth_filter: float
    size: int | None
    batch: int | None
    step: float
    probe_step: float
    momentum: float | None
    damping: float
    probe_from: int
    positions_from: int
    seed: int
    precision: str

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            if real_number(getattr(self, name), name, whole=True) < least:
                raise InputError(f"{name}={getattr(self, name)!r}: need a whole number from {least} up")
        for name, least in (("modes", 1), ("size", 4), ("batch", 1)):
            value = getattr(self, name)
            if value is not None and real_number(value, name, whole=True) < least:
                raise InputError(f"{name}={value!r}: need a whole number from {least} up, or None")
        if self.modes is not None and self.modes > MOST_MODES:
            raise InputError(f"modes={self.modes}: need at most {MOST_MODES}")
        for name, accepted in (("likelihood", LIKELIHOODS), ("object_kind", OBJECTS), ("precision", tuple(PRECISIONS))):
            if getattr(self, name) not in accepted:
                raise InputError(f"{name}={getattr(self, name)!r}: need one of {', '.join(map(repr, accepted))}")
        if self.background is not None:
            _within("background", self.background, 0, math.inf)
        _within("depth_filter", self.depth_filter, 0, math.inf)
        _within("step", self.step, 0, 2)
        _within("probe_step", self.probe_step, 0, 2)
        _within("damping", self.damping, 0, 1)
        if self.momentum is not None:
            _within("momentum", self.momentum, 0, 0.99)
        if self.source is not None:
            _within("source", self.source, 0, math.inf)
        if self.likelihood == "poisson" and self.background == 0:
            raise InputError("background=0: a count on a dark pixel would outweigh all others; give None, or likelihood='amplitude'")
        if self.slices > 1 and (self.thickness is None or not 0 < real_number(self.thickness, "thickness") < math.inf):
            raise InputError(f"thickness={self.thickness!r} with {self.slices} slices: need the thickness of the whole object, Å")
        if self.slices == 1 and self.thickness is not None:
            raise InputError(
                f"thickness={self.thickness!r} with one slice has no effect: give slices from 2 up, or leave the thickness out"
            )
        if not isinstance(self.correct_positions, bool):
            _within("correct_positions", self.correct_positions, 0, math.inf)

    @property
    def slice_thickness(self) -> float:
        """Å; 0 for a single slice."""
        return float(self.thickness or 0.0) / self.slices if self.slices > 1 else 0.0

    @property
    def dtypes(self) -> tuple[str, str]:
        """Names of the complex and the real dtype."""
        return PRECISIONS[self.precision]

    def settings(self, positions: int, r_pixel: float) -> Settings:
        """Return what sweeps need, with defaults for so many positions."""
        momentum = MOMENTUM["several" if self.slices > 1 else "single"] if self.momentum is None else float(self.momentum)
        error = r_pixel if isinstance(self.correct_positions, bool) else float(self.correct_positions)
        return Settings(
            batch=min(positions, self.batch or min(MOST_BATCH, max(LEAST_BATCH, -(-positions // BATCHES)))),
            object_step=float(self.step),
            probe_step=float(self.probe_step),
            momentum=momentum,
            damping=float(self.damping),
            object_kind=self.object_kind,
            depth_filter=float(self.depth_filter),
            thickness=self.slice_thickness,
            probe_from=self.probe_from if self.probe_step else max(self.sweeps, 1),
            positions_from=self.positions_from if self.correct_positions else None,
            position_error=error,
            seed=self.seed,
        )

    def identity(self) -> dict[str, Any]:
        """Return all that must be the same for a checkpoint to be continued: everything but the number of sweeps."""
        found = dataclasses.asdict(self)
        del found["sweeps"]
        return found


def _within(name: str, value: Any, low: float, high: float) -> None:
    if not low <= real_number(value, name) <= high or not math.isfinite(value):
        text = f"from {low:g} to {high:g}" if high < math.inf else f"from {low:g} up"
        raise InputError(f"{name}={value!r}: need a finite number {text}")
