"""Average values at scattered places on a regular grid. It is for pictures and maps; patterns are never resampled."""

from __future__ import annotations

import math

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import real_values
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.real_arrays import floats

WIDTH = 0.5  # steps of the grid: standard deviation of the Gaussian weights, which blur a picture by half a step
REACH = 2  # nodes on each side: a Gaussian is 3e-4 there
LEAST = 0.2  # of the weight that one place for each node gives: less leaves the node without a value


@on_host("map")
def scattered_average(
    values: ArrayLike, positions: ArrayLike, *, step: float, shape: tuple[int, int], corner: tuple[float, float] = (0.0, 0.0)
) -> tuple[np.ndarray, np.ndarray]:
    """Average values at scattered places on a regular grid, and say how well each node is covered.

    Every node is the mean of the values near it with Gaussian weights, exp(-d² / 2 w²), w = step / 2. So no value is invented, and what
    several scans say of one place is averaged. Weights of places at the distance of steps, one for each node, sum to a coverage of 1.

    Parameters
    ----------
    values : (...) or (..., n) array
        Values at the positions, NaN where there is none.
    positions : (..., 2) array
        Å, or any other unit.
    step : float
        Distance of nodes, in the unit of the positions.
    shape : (int, int)
    corner : (float, float)
        Place of the first node.

    Returns
    -------
    average : shape or (*shape, n) float64
        NaN where the coverage is less than 0.2.
    coverage : shape float64

    Raises
    ------
    InputError
        Shapes that do not fit together, a step that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> places = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0) + 0.3, indexing="ij"), -1)
    >>> average, coverage = scattered_average(places[..., 0], places, step=1.0, shape=(8, 8))
    >>> average[3:5, 4].round(2).tolist(), coverage[3, 4].round(1).item()
    ([3.0, 4.0], 1.0)
    """
    places = real_values(positions, "positions", "(..., 2)").astype(np.float64)
    given = real_values(values, "values").astype(np.float64)
    if places.ndim < 2 or places.shape[-1] != 2 or given.shape[: places.ndim - 1] != places.shape[:-1] or given.ndim > places.ndim:
        raise InputError(f"values has shape {given.shape}, positions {places.shape}: need (...) or (..., n), and (..., 2)")
    if not (step > 0 and math.isfinite(step)) or len(shape) != 2 or min(shape) < 1:
        raise InputError(f"step={step}, shape={shape}: need a positive distance of nodes, and two numbers of nodes")
    start = np.array(floats(corner, 2, "corner"))
    flat = given.reshape(math.prod(places.shape[:-1]), -1)
    at = (places.reshape(-1, 2) - start) / step
    known = np.isfinite(flat).all(-1) & np.isfinite(at).all(-1)
    flat, at = flat[known], at[known]
    nearest = np.round(at).astype(np.int64)
    size = shape[0] * shape[1]
    weight, total = np.zeros(size), np.zeros((size, flat.shape[1]))
    for dx in range(-REACH, REACH + 1):
        for dy in range(-REACH, REACH + 1):
            node = nearest + np.array([dx, dy])
            inside = ((node >= 0) & (node < shape)).all(-1)
            number = node[inside, 0] * shape[1] + node[inside, 1]
            here = np.exp(-((node[inside] - at[inside]) ** 2).sum(-1) / (2 * WIDTH**2))
            weight += np.bincount(number, here, minlength=size)
            for i in range(flat.shape[1]):
                total[:, i] += np.bincount(number, here * flat[inside, i], minlength=size)
    coverage = weight / (2 * math.pi * WIDTH**2)
    enough = coverage >= LEAST
    average = np.where(enough[:, None], total / np.where(enough, weight, 1.0)[:, None], np.nan)
    return average.reshape(*shape, *given.shape[places.ndim - 1 :]), coverage.reshape(shape)
