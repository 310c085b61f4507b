"""A reduction: the strain of a glass at every position, from a reference that is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.amorphous.fit_strained_ring import PARAMETERS, TERMS, fit_strained_ring
from gpu4d.amorphous.reference_ring import HaloReference
from gpu4d.amorphous.result import AmorphousStrain, RingFit, as_strain
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import OriginLike, pixel_mask
from gpu4d.data.arguments import origins as origins_of
from gpu4d.data.calibration import Calibration
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_number
from gpu4d.streaming.reduction import ScanInfo, defined
from gpu4d.streaming.sums import PerPositionReduction

PAIRS = ((0, 0), (1, 1), (0, 1), (0, 2), (1, 2), (2, 2))  # elements of the covariance that are stored
PLANES = 3 + len(PAIRS) + 6  # strain, covariance, origin, scale, background, dispersion
DEFINITION_BYTES = 8 * (4 * PARAMETERS + 24)  # that the definition holds for a pixel: derivatives, their copies, and λ
TWIN_BYTES = 8 + 4 * 5  # that the twins hold for a pixel of one pattern
AT_ONCE = 16  # patterns that the definition takes at once: it holds all pixels of all parameters


@on_host("judged")
class RingStrain(PerPositionReduction):
    """Reduction: strain of a glass at every position, relative to a reference ring.

    Parameters
    ----------
    reference : HaloReference
        As `gpu4d.amorphous.halo_reference` measures it.
    origin : pair, (Rx, Ry, 2) array or Origin, optional
        Detector pixels; the calibrated origin by default, else the middle of the reference's ring.
    fit_origin : bool
        False takes the origin as it is given.
    terms : {0, 1, 2}
        Terms of the background beneath the ring: none, a constant, a slope too.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts. Pixels that the cube's detector mask leaves out never count.
    max_strain : float
        Larger components are kept, but a warning counts them.

    Notes
    -----
    The result is an `AmorphousStrain`. Every pattern is fitted alone, so that chunks and threads change no bit. Kept are 15 numbers a
    position.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.simulate.amorphous_scan((2, 3), (64, 64), radius=18.0, strain=None, seed=3)
    >>> reference = gpu4d.amorphous.halo_reference(scan.cube, origin=scan.truth["origin"], ellipse=(1.0, 1.0, 0.0))
    >>> found = gpu4d.sweep(scan.cube, RingStrain(reference, scan.truth["origin"]))
    >>> bool(abs(found.exx).max() < 0.02), found.residual.data.round(0).tolist()
    (True, [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    """

    planes = PLANES

    def __init__(
        self,
        reference: HaloReference,
        origin: OriginLike | None = None,
        *,
        fit_origin: bool = True,
        terms: int = TERMS,
        mask: ArrayLike | None = None,
        max_strain: float = 0.1,
    ):
        if not isinstance(reference, HaloReference):
            raise InputError(f"reference is a {type(reference).__name__}: need a HaloReference, as gpu4d.amorphous.halo_reference gives")
        self.terms = real_number(terms, "terms", whole=True)
        if self.terms not in range(TERMS + 1):
            raise InputError(f"terms={terms}: need 0 (no background), 1 (a constant) or 2 (a constant and a slope)")
        self.max_strain = real_number(max_strain, "max_strain")
        if not self.max_strain > 0:
            raise InputError(f"max_strain={max_strain}: need a positive strain, for example 0.1 for 10 %")
        self.reference, self.fit_origin, self.mask = reference, bool(fit_origin), mask
        self.origin = None if origin is None else origins_of(origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        pixels = scan.shape[2] * scan.shape[3]
        finish = 8 * 3 * PLANES * scan.shape[0] * scan.shape[1]
        if defined(fit_strained_ring, scan):
            work = DEFINITION_BYTES * pixels * min(n_frames, AT_ONCE)
        else:
            work = TWIN_BYTES * pixels + 8 * PLANES * 3 * n_frames
        return self.held_bytes(scan, n_frames) + finish + work + 2 * pixels

    def in_tiles(self) -> bool:
        return False  # each pattern is fitted alone

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        known, center = scan.calibration, self.reference.center
        if self.origin is not None:
            self.places = Calibration(origin=origins_of(self.origin, scan.shape[:2]))
        elif known.origin is not None:
            self.places = known
        elif center is not None:
            self.places = Calibration(origin=tuple(center))
        else:
            raise InputError("the origin is not known: give it, set calibration.origin, or measure the reference on this detector")
        masks = [m for m in (scan.detector_mask, pixel_mask(self.mask, scan.shape[2:], "mask")) if m is not None]
        self.valid = np.logical_and.reduce(masks) if masks else None
        self.knots, self.step = self.reference.table()
        super().start(scan, device, pass_)

    def update(self, frames: Array, positions: np.ndarray) -> None:
        xp = arrays.namespace(frames)
        mask = None if self.valid is None else tables.beside(self.valid, frames)
        knots = tables.beside(self.knots, frames)
        fixed: dict[str, Any] = {"step": self.step, "radii": self.reference.radii, "undistort": self.reference.undistort}
        origins = arrays.from_numpy(np.ascontiguousarray(self.places.origin_at(positions), dtype=np.float64), frames)
        n = len(positions)
        together = AT_ONCE if fit_strained_ring.kind_for(frames.dtype, frames, tuple(frames.shape)) == "definition" else max(n, 1)
        rows = []
        for i in range(0, n, together):
            some, at = frames[i : i + together, ...], origins[i : i + together, :]
            one = fit_strained_ring(some, at, knots, mask=mask, fit_origin=self.fit_origin, terms=self.terms, **fixed)
            pairs = xp.stack([one.covariance[:, a, b] for a, b in PAIRS], axis=-1)
            parts = one.strain, pairs, one.origin, one.scale[:, None], one.background, one.dispersion[:, None]
            rows.append(xp.concat(parts, axis=-1))
        if rows:
            self.put(positions, xp.concat(rows, axis=0))

    def finish(self) -> AmorphousStrain:
        values = self.values.result()
        xp = arrays.namespace(values)
        over = xp.where(values[14, ...] > 1, values[14, ...], xp.ones_like(values[14, ...]))  # scatter that counting does not explain
        first, second, third, fourth, fifth, sixth = (over * values[3 + i, ...] for i in range(len(PAIRS)))
        rows = [(first, third, fourth), (third, second, fifth), (fourth, fifth, sixth)]
        together = lambda first, last: xp.stack([values[i, ...] for i in range(first, last)], axis=-1)  # noqa: E731
        fit = RingFit(
            strain=together(0, 3),
            covariance=xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2),
            origin=together(9, 11),
            scale=values[11, ...],
            background=together(12, 14),
            residual=values[14, ...],
            reference=self.reference,
            calibration=self.scan.calibration,
            max_strain=self.max_strain,
        )
        return as_strain(fit)
