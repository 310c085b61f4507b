"""Centre of mass of diffraction patterns: the mean momentum of the electrons at every probe position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gpu4d import arrays
from gpu4d.data.slices import RealSlice
from gpu4d.device import tables
from gpu4d.errors import InputError
from gpu4d.imaging.detectors import as_detector
from gpu4d.operation import operation
from gpu4d.streaming.reduction import PerPosition, ScanInfo, defined

if TYPE_CHECKING:
    from gpu4d.imaging.frame_reductions import FrameReductions

_TWIN_DTYPES = ("uint8", "uint16", "uint32", "int16", "int32", "int64", "float32", "float64")


def _twin_cannot(patterns: Any, mask: Any = None) -> str | None:
    if len(patterns.shape) < 2 or (mask is not None and tuple(mask.shape) != tuple(patterns.shape[-2:])):
        return "the shapes do not fit"
    name = str(patterns.dtype).removeprefix("torch.")
    return None if name in _TWIN_DTYPES else f"the twin takes {', '.join(_TWIN_DTYPES)}, not {name}"


def _kernel_cannot(patterns: Any, mask: Any = None) -> str | None:
    from gpu4d.kernels.pixels import moments_unsupported

    return _twin_cannot(patterns, mask) or moments_unsupported(patterns)


@operation(
    cpu="gpu4d.cpu_fallback.center_of_mass",
    cuda="gpu4d.kernels.center_of_mass",
    unsupported=_twin_cannot,
    cuda_unsupported=_kernel_cannot,
)
def first_moments(patterns: Any, /, mask: Any = None) -> Any:
    """Sum and first moments of every pattern: Σ I, Σ qx I, Σ qy I over the pixels that count.

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
    mask : (Qx, Qy) bool, optional
        True where a pixel counts; the others are not looked at, NaN or not.

    Returns
    -------
    (..., 3) int64 for integer patterns (exact), float64 for the rest
        NaN and infinite pixels make the moments of their own pattern NaN or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> first_moments(np.array([[1, 0], [0, 3]], dtype="uint8"))
    array([4, 3, 3])
    """
    xp = arrays.namespace(patterns) if mask is None else arrays.namespace(patterns, mask)
    if len(patterns.shape) < 2:
        raise InputError(f"patterns has shape {tuple(patterns.shape)}, need (..., Qx, Qy)")
    if mask is not None and tuple(mask.shape) != tuple(patterns.shape[-2:]):
        raise InputError(f"mask is {tuple(mask.shape)}, the patterns are {tuple(patterns.shape[-2:])}: need one bool per detector pixel")
    values = arrays.as_sum_dtype(patterns)
    if mask is not None:
        values = xp.where(xp.astype(mask, xp.bool), values, xp.zeros_like(values))
    rows, columns = xp.sum(values, axis=-1), xp.sum(values, axis=-2)
    qx, qy = (xp.arange(n, dtype=values.dtype, device=arrays.device(values)) for n in values.shape[-2:])
    return xp.stack([xp.sum(rows, axis=-1), xp.sum(rows * qx, axis=-1), xp.sum(columns * qy, axis=-1)], axis=-1)


@operation(
    cpu="gpu4d.cpu_fallback.center_of_mass",
    cuda="gpu4d.kernels.center_of_mass",
    unsupported=_twin_cannot,
    cuda_unsupported=_kernel_cannot,
)
def center_of_mass(patterns: Any, /, mask: Any = None) -> Any:
    """Centre of mass of every diffraction pattern, in detector pixels.

    ⟨q⟩ = Σ q I(q) / Σ I(q). For a thin object it is the mean momentum transfer, ⟨q⟩ = (∇φ ⊗ |ψ₀|²) / 2π
    (Müller-Caspary et al., Ultramicroscopy 178 (2017) 62; Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265).

    Parameters
    ----------
    patterns : (..., Qx, Qy) real
        Counts keep their integer type: their sums are exact, and there is one division.
    mask : (Qx, Qy) bool, optional
        True where a pixel counts; the others are not looked at, NaN or not.

    Returns
    -------
    (..., 2) float64
        (qx, qy), pixel centres at integers, in the namespace and on the device of `patterns`. NaN for a pattern that is
        empty, whose sum is not positive, or that holds a NaN or infinite pixel.

    Raises
    ------
    InputError
        Fewer than two dimensions, or a mask of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> center_of_mass(np.array([[[0, 0], [1, 3]], [[0, 0], [0, 0]]], dtype="uint16"))
    array([[1.  , 0.75],
           [ nan,  nan]])
    """
    return _divided(first_moments.definition(patterns, mask))


def _divided(moments: Any) -> Any:
    """Centre of mass (..., 2) from first moments (..., 3)."""
    xp = arrays.namespace(moments)
    usable = (moments[..., 0] > 0) & xp.all(xp.isfinite(moments), axis=-1)
    value = arrays.as_float64(moments)
    total = xp.where(usable, value[..., 0], xp.ones_like(value[..., 0]))
    return xp.where(usable[..., None], value[..., 1:] / total[..., None], xp.full_like(value[..., 1:], float("nan")))


class CenterOfMass:
    """Reduction: the centre of mass at every scan position, (2, Rx, Ry) in detector pixels.

    Parameters
    ----------
    detector : Detector or (Qx, Qy) bool array, optional
        Only these pixels count; a geometry of `gpu4d.detectors` sits at the mean origin. Pixels that the cube's detector
        mask leaves out never count.
    relative_to_origin : bool
        Subtract each position's calibrated origin; raw detector positions otherwise.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> cube = gpu4d.DataCube(np.ones((2, 3, 4, 6), dtype="uint16"))
    >>> com = gpu4d.sweep(cube, gpu4d.CenterOfMass())
    >>> com.labels, com["com_y"][0, 0].item()
    (('com_x', 'com_y'), 2.5)
    """

    def __init__(self, detector: Any = None, relative_to_origin: bool = False):
        self.detector = None if detector is None else as_detector(detector)
        self.relative_to_origin = bool(relative_to_origin)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        rx, ry, qx, qy = scan.shape
        per_frame = 24 * qx * qy if defined(first_moments, scan) else 0
        finish = (32 if scan.on_host else 112) + 96 * self.relative_to_origin
        return PerPosition.bytes_needed(scan, 3, n_frames) + finish * rx * ry + 2 * qx * qy + per_frame * n_frames

    def passes(self, scan: ScanInfo, budget: int) -> int:
        return 1

    def start(self, scan: ScanInfo, device: Any, pass_: int = 0) -> None:
        if self.relative_to_origin and scan.calibration.origin is None:
            raise InputError("relative_to_origin=True, but the origin is not known: set calibration.origin, or measure it first")
        masks = [] if scan.detector_mask is None else [scan.detector_mask]
        if self.detector is not None:
            masks.append(self.detector.mask(scan.shape[2:], scan.calibration.origin_mean) != 0)
        self.scan = scan
        self.mask = np.logical_and.reduce(masks) if masks else None
        self.values = PerPosition(scan, 3)  # Σ I, Σ qx I, Σ qy I: one division at the end is cheaper than one an update

    def in_tiles(self) -> bool:
        return False

    def update(self, frames: Any, positions: np.ndarray) -> None:
        moments = first_moments(frames, None if self.mask is None else tables.beside(self.mask, frames))
        self.values.put(positions, arrays.as_float64(moments))

    def joins(self) -> Any:
        from gpu4d.imaging.fused import exact, fused

        return fused if exact(self.scan) else None

    def frame_masks(self) -> list[np.ndarray]:
        return []

    def moments_mask(self) -> tuple[np.ndarray | None]:
        return (self.mask,)

    def take(self, sums: FrameReductions, positions: np.ndarray) -> list[Any]:
        self.values.put(positions, arrays.as_float64(sums.moments))
        return []

    def state(self) -> dict[str, Any]:
        return self.values.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.values.restore(state)

    def merge(self, state: dict[str, Any]) -> None:
        self.values.merge(state)

    def finish(self) -> RealSlice:
        """Stack (2, Rx, Ry) float64, planes com_x and com_y, pixels; NaN where no pattern came or it was empty."""
        moments = self.values.result()
        xp = arrays.namespace(moments)
        moments = xp.permute_dims(moments, (1, 2, 0))
        if isinstance(moments, np.ndarray):  # row by row, for the copies it makes
            com = np.empty((*moments.shape[:2], 2))
            for row, out in zip(moments, com):
                out[...] = _divided(row)
        else:
            com = _divided(moments)
        if self.relative_to_origin:
            rx, ry = self.scan.shape[:2]
            positions = np.indices((rx, ry)).reshape(2, -1).T
            origin = self.scan.calibration.origin_at(positions)
            assert origin is not None  # `start` asked for it
            com = com - arrays.from_numpy(origin.reshape(rx, ry, 2), com)
        return self._slice(xp.permute_dims(com, (2, 0, 1)), "com", "px", ("com_x", "com_y"))

    def total(self) -> RealSlice:
        """Counts (Rx, Ry) of the pixels that counted; NaN where no pattern came."""
        return self._slice(self.values.result()[0, :, :], "sum", "counts", ())

    def _slice(self, data: Any, name: str, units: str, labels: tuple[str, ...]) -> RealSlice:
        return RealSlice.calibrated(data, name, units, self.scan.calibration.r_pixel, labels)
