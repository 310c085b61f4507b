"""Scans that the tests of adapters share: nothing in them is square, whole or even, so that an exchanged axis is seen."""

import numpy as np

import gpu4d
from gpu4d import Calibration, DataCube, PointListArray


def scan(origin=None, mask=True):
    """Return a scan (3, 4, 24, 20) of counts whose calibration has everything that files know, with a mask and metadata."""
    rng = np.random.default_rng(0)
    known = Calibration(
        q_pixel=0.02, q_pixel_error=1e-5, r_pixel=5.0, energy=200e3, semiangle=1.5, rotation=0.3, transpose=True, ellipse=(1.1, 1.0, 0.2)
    )
    if origin is None:
        rx, ry = np.meshgrid(np.linspace(10.0, 11.3, 3), np.linspace(8.2, 9.1, 4), indexing="ij")
        origin = np.stack([rx, ry], -1)
    known.set(origin=origin, how="a test")
    valid = np.ones((24, 20), bool)
    valid[0] = False
    patterns = rng.poisson(4.0, (3, 4, 24, 20)).astype("uint16")
    return DataCube(patterns, known, {"sample": "a test"}, valid if mask else None, "two words")


def disks(cube, fields=("intensity", "sx")):
    """Return lists of points like disks: 0 to 3 of them at each position, with exact numbers."""
    rng = np.random.default_rng(1)
    counts = np.arange(cube.shape[0] * cube.shape[1]) % 4
    total = int(counts.sum())
    held = {"qx": rng.uniform(1, 22, total), "qy": rng.uniform(1, 18, total)} | {field: rng.uniform(0, 9, total) for field in fields}
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return PointListArray(offsets, held, cube.scan_shape, {"qx": "px", "qy": "px", "intensity": "counts/px", "sx": "px"})


def strained(seed=0):
    """Lattice vectors (rows, 1/px) of positions with small random deformations F, and the strain of gpu4d."""
    rng = np.random.default_rng(seed)
    f = np.eye(2) + rng.normal(0, 2e-3, (3, 4, 2, 2))
    basis = np.array([[8.0, 1.0], [-1.5, 7.0]])
    return f, basis, basis @ np.linalg.inv(f)


def our_strain(basis, g, **options):
    """Return the strain that gpu4d finds from disks at ±g1, ±g2 and 0."""
    orders = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]])
    points = (orders @ g).reshape(-1, 2) + 12.0
    n = g.shape[0] * g.shape[1]
    found = PointListArray(
        np.arange(n + 1) * 5, {"qx": points[:, 0].copy(), "qy": points[:, 1].copy(), "intensity": np.ones(n * 5)}, g.shape[:2]
    )
    fit = gpu4d.fit_lattice(found, basis, origin=(12.0, 12.0))
    return found, gpu4d.strain_map(fit, reference=basis, **options)
