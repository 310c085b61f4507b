"""What a virtual detector takes that moves with the origin of each position, by its definition in float64."""

import numpy as np


def summed_around(cube, origins, asked):
    """Return the counts under a detector around a place of its own at each position, by the definition in float64."""
    patterns, m = np.asarray(cube.source.array, np.float64), np.eye(2)
    if cube.calibration.ellipse is not None and asked["shape"] != "rectangle":
        a, b, turn = cube.calibration.ellipse
        along = np.array([np.cos(turn), np.sin(turn)])
        m = np.eye(2) - (1 - b / a) * np.outer(along, along)  # shortens what the major axis has lengthened
    found = np.full(cube.scan_shape, np.nan)
    for position in np.ndindex(*cube.scan_shape):
        cx, cy = origins[position]
        if not np.isfinite([cx, cy]).all():
            continue
        u, v = np.indices(cube.detector_shape, dtype=float)
        u, v = u - cx, v - cy
        x, y = m[0, 0] * u + m[0, 1] * v, m[1, 0] * u + m[1, 1] * v
        r2 = x * x + y * y
        if asked["shape"] == "rectangle":
            inside = (np.abs(u) < asked["height"] / 2) & (np.abs(v) < asked["width"] / 2)
        else:
            inside = (r2 < asked["outer"] ** 2) & ((asked["shape"] == "disk") | (r2 > asked.get("inner", 0) ** 2))
        if cube.detector_mask is not None:
            inside = inside & cube.detector_mask
        found[position] = patterns[position][inside].sum()
    return found


def own_origins(cube, asked):
    """Return the centre of a detector at each position, if it follows the calibrated origin."""
    origins = np.asarray(cube.calibration.origin)
    return np.asarray(asked["center"]) + (origins - np.nanmean(origins, axis=(0, 1)))
