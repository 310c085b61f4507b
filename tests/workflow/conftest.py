"""Scans that are run once for several tests."""

import h5py
import pytest
from blank_pictures import not_rendered
from recipes_in_tests import recipe

import gpu4d
from gpu4d.workflow import run


@pytest.fixture(scope="module")
def crystal():
    return gpu4d.simulate.bragg_scan((14, 12), (96, 80), spacing=18.0, radius=5.0, dose=60.0, strain_size=0.01, seed=2)


@pytest.fixture(scope="module")
def thin():
    return gpu4d.simulate.phase_object_scan((20, 24), (32, 32), r_pixel=0.4, dose=1e5, rotation=0.3, seed=1)


@pytest.fixture(scope="module")
def results(tmp_path_factory, crystal):
    """A crystal's file, run with a title that must be escaped."""
    root = tmp_path_factory.mktemp("results")
    path = root / "a <b> & c.h5"
    with h5py.File(path, "w") as file:
        file["scan"] = crystal.cube.source.array
    settings = recipe(calibration__energy=200e3, calibration__semiangle=3.0, calibration__r_pixel=20.0, bragg__max_peaks=99)
    return run(path, root / "out", recipe=settings, command="gpu4d run <script>")


@pytest.fixture(scope="module")
def only_blank_pictures():
    """No run of this module renders its pictures: no test of it looks at them."""
    with not_rendered():
        yield
