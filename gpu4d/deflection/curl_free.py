"""The part of a measured field that a potential can have, and its divergence."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import ArrayT
from gpu4d.deflection.integrate_gradient import SpectralGradient, fill_and_solve, mirrored
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_array, real_number

ROUNDS = 25  # of filling positions without a value; the misfit there changes by less than 1 % from the tenth on


def curl_free(field: ArrayT) -> ArrayT:
    """Return the part of a field that has no curl: the gradient of its least-squares potential.

    The momentum that a thin object gives is a gradient, for electric fields (curl E = 0) and for magnetic ones (div B = 0). What is
    measured has a curl because of noise. White noise has half of its variance in the curl, so this part has √½ of the noise, at every
    position, and the signal is the same. It is no smoothing: all spatial frequencies of a gradient pass as they are.

    Parameters
    ----------
    field : (Rx, Ry, 2) real
        Components along x and y. Positions with NaN take the values of the solution while it is found.

    Returns
    -------
    (Rx, Ry, 2) float64
        In the unit of `field`; the mean is kept. NaN where the field was.

    Raises
    ------
    InputError
        The shape is another one.

    Notes
    -----
    Helmholtz decomposition on the field's even extension (free edges).

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(*2 * [np.linspace(-4, 4, 32)], indexing="ij")
    >>> vortex = np.stack([-y, x], -1) * np.exp(-x**2 - y**2)[..., None]         # curl, and no divergence
    >>> bool(np.abs(curl_free(vortex)).max() < 1e-5)
    True
    """
    whole = _field(field)
    xp = arrays.namespace(whole)
    box = box_of(arrays.to_numpy(xp.isfinite(whole[..., 0]) & xp.isfinite(whole[..., 1])))
    values = whole[box[0], box[1], :]
    known = xp.isfinite(values[..., 0]) & xp.isfinite(values[..., 1])
    mean = arrays.nanmean(values, axis=(0, 1))
    zero = xp.zeros_like(values[..., 0])
    gx, gy = (xp.where(known, values[..., i] - mean[i], zero) for i in (0, 1))
    parts = _gradient_part(gx, gy, known)
    found = xp.stack([xp.where(known, part + mean[i], xp.full_like(part, float("nan"))) for i, part in enumerate(parts)], axis=-1)
    return _within(found, box, whole)


def box_of(known: np.ndarray) -> tuple[slice, slice]:
    """Return the smallest box of positions that holds all known ones; the whole scan if there is none."""
    if not known.any():
        return slice(0, known.shape[0]), slice(0, known.shape[1])
    rows, columns = np.nonzero(known)
    return slice(int(rows.min()), int(rows.max()) + 1), slice(int(columns.min()), int(columns.max()) + 1)


def divergence(field: ArrayT, step: float = 1.0) -> ArrayT:
    """Compute the divergence of a field over the scan: the contrast that is called dDPC.

    For the field 2π ⟨k⟩ of a thin object it is the Laplacian of the phase, averaged over the probe. An electrostatic phase has ∇²φ =
    −σ ρ / ε₀ with the projected charge density ρ, so atoms are seen as their charges. Noise grows with k.

    Parameters
    ----------
    field : (Rx, Ry, 2) real
        At least two positions along each axis.
    step : float
        Distance of scan positions.

    Returns
    -------
    (Rx, Ry) float64
        Units of the field over those of the step. Differences of both neighbours, one-sided at the edges: a wave of k cycles per
        position is damped by sin(2πk) / 2πk. NaN where the field is NaN at a neighbour that is needed, or at the position itself.

    Raises
    ------
    InputError
        The shape is another one.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = np.meshgrid(np.arange(4.0), np.arange(5.0), indexing="ij")
    >>> divergence(np.stack([x + y, 3 * y], -1), step=2.0)[0].tolist()
    [2.0, 2.0, 2.0, 2.0, 2.0]
    """
    values = _field(field)
    step = float(real_number(step, "step"))
    if not step > 0 or min(values.shape[:2]) < 2:
        raise InputError(f"step={step}, field {tuple(values.shape)}: need a positive distance, and two positions along each axis")
    xp = arrays.namespace(values)
    along_x = _differences(values[..., 0])
    along_y = xp.matrix_transpose(_differences(xp.matrix_transpose(values[..., 1])))
    found = (along_x + along_y) / step
    return xp.where(xp.isfinite(values[..., 0]) & xp.isfinite(values[..., 1]), found, xp.full_like(found, float("nan")))


def _within(part: Any, box: tuple[slice, slice], whole: Any) -> Any:
    """Put the values of a box into a field of NaN."""
    xp = arrays.namespace(whole)
    for axis in (0, 1):
        ends = []
        for count in (box[axis].start, whole.shape[axis] - box[axis].stop):
            shape = list(part.shape)
            shape[axis] = count
            ends.append(xp.full(tuple(shape), float("nan"), dtype=part.dtype, device=arrays.device(part)))
        part = xp.concat([ends[0], part, ends[1]], axis=axis)
    return part


def _differences(v: Any) -> Any:
    """Return the derivative along the first axis, in units of the sample distance."""
    xp = arrays.namespace(v)
    inner = (v[2:, ...] - v[:-2, ...]) / 2
    return xp.concat([v[1:2, ...] - v[0:1, ...], inner, v[-1:, ...] - v[-2:-1, ...]], axis=0)


def _field(field: Any) -> Any:
    values = arrays.as_float64(real_array(field, "field", "a field (Rx, Ry, 2)"))
    if len(values.shape) != 3 or values.shape[-1] != 2 or 0 in values.shape:
        raise InputError(f"field has shape {tuple(values.shape)}: need (Rx, Ry, 2), the components along x and y last")
    return values


def _gradient_part(gx: Any, gy: Any, known: Any) -> tuple[Any, Any]:
    """Return the gradient of the potential that fits a field best where it is known."""
    xp = arrays.namespace(gx)
    ex, ey, inside = mirrored(gx, (-1, 1)), mirrored(gy, (1, -1)), mirrored(xp.astype(known, gx.dtype), (1, 1))
    grid = SpectralGradient(ex, 0.0, 0.0)
    v = grid.solve(ex, ey)
    if not bool(xp.all(known)):
        v, _ = fill_and_solve(grid, ex, ey, inside, v, ROUNDS)
    vx, vy = grid.gradient(v)
    nx, ny = gx.shape
    return vx[:nx, :ny], vy[:nx, :ny]
