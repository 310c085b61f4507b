"""Make the vacuum image of a probe with a patterned aperture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpu4d.arrays import ArrayLike
from gpu4d.data.arguments import two_sizes
from gpu4d.errors import InputError
from gpu4d.on_host import on_host
from gpu4d.probe import apertures
from gpu4d.probe.apertures import Aperture
from gpu4d.real_arrays import floats, real_number

PATTERNS: dict[str, Callable[[float], Aperture]] = {"bullseye": apertures.bullseye, "cross": apertures.cross, "round": apertures.disk}


@on_host("image")
def patterned(
    shape: tuple[int, int],
    radius: float,
    pattern: str | ArrayLike | Aperture = "bullseye",
    center: tuple[float, float] | None = None,
    edge: float = 1.0,
) -> np.ndarray:
    """Make the image of a probe in vacuum whose aperture has a pattern. It is 1 where the aperture is open.

    Every edge is the sigmoid of `synthetic`: 1 / (1 + exp(−4 d / w)) at a distance d inside the edge.

    Parameters
    ----------
    shape : (Qx, Qy)
    radius : float
        Outer radius, detector pixels.
    pattern : {"bullseye", "cross", "round"}, (n, m) array, or Aperture
        A name, a map of the intensity (0 … 1) over the square about the disk, or an aperture of `gpu4d.probe.apertures`, which is scaled
        to the radius. Its phase does not show.
    center : (float, float), optional
        Pixels. Default: (Qx // 2, Qy // 2).
    edge : float
        w, width of the edges, pixels.

    Returns
    -------
    (Qx, Qy) float64

    Raises
    ------
    InputError
        The pattern is not known, or a size is not positive.

    Examples
    --------
    >>> probe = patterned((64, 64), 13.0)
    >>> probe[32, [32, 35, 45, 46]].round(2).tolist()  # bright middle, dark ring, rim, outside
    [1.0, 0.06, 0.5, 0.02]
    """
    shape = two_sizes(shape, "shape")
    if not (real_number(radius, "radius") > 0 and real_number(edge, "edge") > 0):
        raise InputError(f"patterned(radius={radius}, edge={edge}): need positive numbers of detector pixels")
    aperture = _aperture(pattern)
    cx, cy = floats(center, 2, "center") if center is not None else (shape[0] // 2, shape[1] // 2)
    unit = aperture.semiangle / radius  # of an angle, for a pixel
    x, y = np.broadcast_arrays((np.arange(shape[0])[:, None] - cx) * unit, (np.arange(shape[1])[None, :] - cy) * unit)

    def step(inside: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * inside / (unit * edge), -60.0, 60.0)))

    return np.abs(aperture.transmission(x, y, step)).astype(np.float64)


def _aperture(pattern: str | ArrayLike | Aperture) -> Aperture:
    """Return the aperture of a name or a map."""
    if isinstance(pattern, Aperture):
        return pattern
    if isinstance(pattern, str):
        if pattern not in PATTERNS:
            raise InputError(f"pattern={pattern!r}: need one of {', '.join(map(repr, PATTERNS))}, a map (n, m), or an Aperture")
        return PATTERNS[pattern](1.0)
    return apertures.mask(1.0, pattern)
