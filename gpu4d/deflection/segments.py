"""The centre of mass from a segmented detector: quadrants, or rings of segments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike
from gpu4d.data.arguments import host_image
from gpu4d.errors import InputError
from gpu4d.imaging.detectors import DetectorLike, as_detector
from gpu4d.on_host import on_host
from gpu4d.real_arrays import real_array

LEAST_SHARE = 1e-6  # of the counts: segments with less tell nothing, and their variance would be zero


@on_host("image")
def segment_response(pattern: ArrayLike, segments: Sequence[DetectorLike], origin: tuple[float, float] | None = None) -> np.ndarray:
    """Compute what a shift of the beam does to the counts of every segment.

    The pattern is shifted as a whole: d S_j / d k = −Σ_q w_j(q) ∇P(q), with derivatives from one pixel shifts to both sides.

    Parameters
    ----------
    pattern : (Qx, Qy) real
        The disk without a specimen, or the mean pattern of the scan.
    segments : sequence of Detector or (Qx, Qy) arrays
        From `gpu4d.detectors.segmented`, or masks. At least 3, which must lie around the centre.
    origin : (qx, qy), optional
        Centre of the segments, pixels. By default the middle of the detector, as that of detectors without an origin.

    Returns
    -------
    (n, 3) float64
        Share of the counts in each segment, and its change for a shift of one pixel along qx and along qy.

    Raises
    ------
    InputError
        Too few segments, a pattern without counts, or segments that do not see a shift.

    Examples
    --------
    >>> import gpu4d
    >>> disk = gpu4d.probe.synthetic((32, 32), 8.0)
    >>> quadrants = gpu4d.detectors.segmented(0.0, 16.0, 4, rotation=0.7854)
    >>> found = segment_response(disk, quadrants)
    >>> found.shape, bool(found[0, 2] > 0)      # the first lies towards +qy
    ((4, 3), True)
    """
    return _response(*_tables(pattern, segments, origin))


def segmented_center_of_mass(
    images: Array, pattern: ArrayLike, segments: Sequence[DetectorLike], origin: tuple[float, float] | None = None
) -> tuple[Array, Array]:
    """Compute the shift of the beam from the counts of a segmented detector: DPC as microscopes with such detectors do it.

    The shares of the segments are a linear function of small shifts (`segment_response`). The shift is the weighted least-squares
    solution, with the variance of a segment proportional to its counts. It stands for the centre of mass in `gpu4d.dpc` (iDPC) and
    `gpu4d.deflection.divergence` (dDPC).

    Parameters
    ----------
    images : (n, Rx, Ry) real
        Counts of every segment, as `gpu4d.virtual_image(cube, segments)` gives them.
    pattern, segments, origin
        See `segment_response`.

    Returns
    -------
    shift : (Rx, Ry, 2) float64
        Detector pixels, relative to the pattern. NaN where an image is NaN or no electron came.
    variance : (3, Rx, Ry) float64
        From the counts: planes xx, xy, yy, pixels².

    Raises
    ------
    InputError
        As `segment_response`, or images of another number of segments.

    Notes
    -----
    Lazić, Bosch, Lazar, Ultramicroscopy 160 (2016) 265. A disk that is redistributed inside is seen differently than by the centre of
    mass: coarse segments have another transfer of high spatial frequencies.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> disk = 100 * gpu4d.probe.synthetic((32, 32), 8.0, center=(16.0, 16.0))
    >>> moved = 100 * gpu4d.probe.synthetic((32, 32), 8.0, center=(16.2, 15.9))
    >>> quadrants = gpu4d.detectors.segmented(0.0, 16.0, 4)
    >>> images = gpu4d.virtual_image(gpu4d.DataCube(moved[None, None]), quadrants, origin=(16.0, 16.0))
    >>> segmented_center_of_mass(images, disk, quadrants, origin=(16.0, 16.0))[0].round(2).tolist()
    [[[0.2, -0.1]]]
    """
    stack = arrays.as_float64(real_array(images, "images", "(n, Rx, Ry), one image for each segment"))
    if len(stack.shape) != 3 or stack.shape[0] != len(segments):
        raise InputError(f"images has shape {tuple(stack.shape)}, there are {len(segments)} segments: need (n, Rx, Ry)")
    table = _response(*_tables(pattern, segments, origin))
    share, slope = table[:, 0], table[:, 1:]
    weight = np.where(share > LEAST_SHARE, 1 / np.maximum(share, LEAST_SHARE), 0.0)
    inverse = np.linalg.inv(np.einsum("ji,j,jk->ik", slope, weight, slope))
    solve = inverse @ (slope * weight[:, None]).T  # (2, n)
    xp = arrays.namespace(stack)
    total = xp.sum(stack, axis=0)
    total = xp.where(total > 0, total, xp.full_like(total, float("nan"))) / float(share.sum())
    parts = [stack[j, :, :] / total for j in range(len(share))]
    shift = [sum(float(solve[i, j]) * (part - float(share[j])) for j, part in enumerate(parts)) for i in (0, 1)]
    pairs = ((0, 0), (0, 1), (1, 1))
    variance = [sum(float(solve[a, j] * solve[b, j]) * part for j, part in enumerate(parts)) / total for a, b in pairs]
    return xp.stack(shift, axis=-1), xp.stack(variance)


def _tables(pattern: ArrayLike, segments: Sequence[DetectorLike], origin: tuple[float, float] | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the pattern as shares of its counts, and the segments as weights (n, Qx, Qy)."""
    image = np.nan_to_num(host_image(pattern, "pattern").astype(np.float64))
    if not image.sum() > 0 or min(image.shape) < 2:
        raise InputError(f"pattern {image.shape} has no counts, or too few pixels: need the disk without a specimen, or the mean pattern")
    if isinstance(segments, str) or not isinstance(segments, Sequence | np.ndarray) or len(segments) < 3:
        raise InputError("segments: need a sequence of at least 3 detectors or masks around the centre")
    masks = np.stack([np.asarray(as_detector(s).mask(image.shape, origin), dtype=np.float64) for s in segments])
    return image / image.sum(), masks


def _response(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    share = np.einsum("jxy,xy->j", masks, image)
    slopes = [-np.einsum("jxy,xy->j", masks, np.gradient(image, axis=axis)) for axis in (0, 1)]
    found = np.stack([share, *slopes], axis=-1)
    if np.linalg.matrix_rank(found[:, 1:], tol=1e-9) < 2:
        raise InputError("the segments do not see shifts along both axes: need at least 3 around the centre that cut the rim of the disk")
    return found
