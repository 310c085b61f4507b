"""Small scans of counts that several test files look at, and a server."""

import numpy as np
import pytest

import gpu4d
from gpu4d.view import ViewServer, view_of

SHAPE = (9, 11, 20, 24)


@pytest.fixture(scope="session")
def counts():
    """A scan whose patterns all differ: a disk that moves by itself and becomes brighter along the second axis."""
    rng = np.random.default_rng(5)
    x, y = np.arange(20)[:, None], np.arange(24)
    disk = (x - 9.5) ** 2 + (y - 12.0) ** 2 < 30
    bright = 1 + np.arange(11)[None, :, None, None] * disk
    return gpu4d.DataCube(
        rng.poisson(3.0 * bright, SHAPE).astype("uint16"), gpu4d.Calibration(energy=200e3, q_pixel=0.02, r_pixel=5.0), name="counts"
    )


@pytest.fixture(scope="session")
def descanned():
    """A crystal whose unscattered beam moves by up to 3 px from the middle of the scan, along a plane that the calibration knows."""
    made = gpu4d.simulate.bragg_scan((9, 11), (40, 44), radius=4.0, spacing=11.0, descan=3.0, dose=30.0, seed=2)
    cube = made.cube
    cube.calibration.set(origin=made.truth["origin"], how="truth")
    return cube


@pytest.fixture(scope="module")
def server(counts):
    made = ViewServer(view_of(counts, title="a <scan> & more"))
    made.start()
    yield made
    made.close()
