"""Example inputs of `fit_cepstrum`: lattices of soft disks, a little different from the start."""

import numpy as np
from operations.comparing import Example
from operations.patterns import with_gaps

ORDERS = np.array([(1, 0), (0, 1), (1, -1), (1, 1), (2, 0), (0, 2), (2, 1), (1, 2), (2, -1), (1, -2), (3, 0), (0, 3)])
STAGES = (4, 8, 12)
# lengths are compared with the largest of their array: the errors are those of the transform in single precision
TWIN = (3e-5, 1e-2, 3e-3, 1e-3)


def lattice_patterns(shape, n, dtype="uint16", seed=0, spacing=9.0):
    """Patterns (n, Qx, Qy) of disks on lattices that are strained by up to 2 %, and the undeformed real-space vectors, px."""
    rng = np.random.default_rng(seed)
    g = np.array([[spacing, 0.8], [-0.8, spacing]])
    x, y = np.arange(shape[0])[:, None], np.arange(shape[1])
    out = np.full((n, *shape), 0.05)
    orders = np.mgrid[-4:5, -4:5].reshape(2, -1).T
    for pattern in out:
        places = orders @ g @ (np.eye(2) + rng.uniform(-0.02, 0.02, (2, 2))) + np.array(shape) / 2 + rng.uniform(-2, 2, 2)
        for cx, cy in places:
            height = 200 * rng.uniform(0.5, 1) * np.exp(-(((cx - shape[0] / 2) ** 2 + (cy - shape[1] / 2) ** 2) / 300))
            pattern += height / (1 + np.exp(np.minimum(3 * (np.hypot(x - cx, y - cy) - 2.2), 60)))
    return rng.poisson(out).astype(dtype), np.linalg.inv(g).T * shape


def window_of(shape):
    return np.outer(*[np.sin(np.pi * (np.arange(n) + 0.5) / n) for n in shape])


def examples() -> list[Example]:
    """The first two have the same shapes and one stage: JAX compiles every step for every shape."""
    window = window_of((48, 48))
    patterns, start = lattice_patterns((48, 48), 3)
    found = [Example("uint16", (patterns, window, ORDERS, start), {"stages": (12,)}, double=1e-6, twin=TWIN)]
    patterns, start = lattice_patterns((48, 48), 3, "float32", seed=9)
    found.append(Example("float32-gaps", (with_gaps(patterns), window, ORDERS, start), {"stages": (12,)}, double=1e-6, twin=TWIN))
    for label, shape, dtype in (
        ("stages", (48, 48), "uint16"), ("odd", (45, 52), "uint16"), ("uint8", (40, 48), "uint8"), ("int32", (48, 41), "int32"),
        ("float64", (48, 44), "float64"),
    ):  # fmt: skip
        patterns, start = lattice_patterns(shape, 2, dtype, seed=len(found))
        found.append(Example(label, (patterns, window_of(shape), ORDERS, start), {"stages": STAGES}, double=1e-6, twin=TWIN))
    patterns, start = lattice_patterns((48, 48), 2, "float32", seed=10)
    mask = np.ones((48, 48), bool)
    mask[20:26, :25] = mask[5, 7] = False
    patterns[:, ~mask] = np.nan  # a masked pixel is never looked at
    options = {"stages": (12,), "offset": 0.3, "mask": mask}
    found.append(Example("mask", (patterns, window, ORDERS, start), options, double=1e-6, twin=TWIN))
    return [*found, Example("none", (np.zeros((0, 48, 48), "uint16"), window, ORDERS, start), {"stages": STAGES})]
