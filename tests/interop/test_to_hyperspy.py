"""Signals for HyperSpy. A stand-in takes what HyperSpy's constructors take; where HyperSpy is installed, its own do."""

import sys
from types import ModuleType

import numpy as np
import pytest

import gpu4d
from gpu4d import Calibration, DataCube, PointListArray, RealSlice
from gpu4d.errors import InputError
from gpu4d.testing.example_results import WITH_STRUCTURES, classes, example


class StandIn:
    """A signal that keeps what it was made from, and refuses axes that do not fit."""

    def __init__(self, data, axes=None, metadata=None, ragged=False):
        self.data, self.axes, self.told, self.ragged, self.lazy = data, axes, metadata, ragged, False
        self.metadata, self.axes_manager = self, self
        self.set = {}
        for axis, n in zip(axes or (), () if axes is None else data.shape, strict=True):
            assert axis.get("size", n) == n and len(axis.get("axis", range(n))) == n and axis["name"]
            assert set(axis) <= {"name", "units", "scale", "offset", "size", "navigate", "axis"}

    @property
    def navigation_axes(self):
        return [type("A", (), {})() for _ in self.data.shape]

    def set_item(self, key, value):
        self.set[key] = value

    def as_lazy(self):
        self.lazy = True
        return self


@pytest.fixture
def stand_in(monkeypatch):
    """HyperSpy's api, whose signals are stand-ins."""
    api, package = ModuleType("hyperspy.api"), ModuleType("hyperspy")
    names = ("Signal1D", "Signal2D", "ComplexSignal1D", "ComplexSignal2D", "BaseSignal")
    kinds = {name: type(name, (StandIn,), {}) for name in names}
    api.signals, package.api = type("signals", (), kinds), api
    monkeypatch.setitem(sys.modules, "hyperspy", package)
    monkeypatch.setitem(sys.modules, "hyperspy.api", api)
    return api.signals


def test_an_image_has_axes_units_and_metadata(stand_in):
    made = RealSlice(np.ones((2, 3)), "bf", "counts", 5.0, "Å").to_hyperspy()
    assert type(made) is stand_in.Signal2D and not made.lazy
    assert [(a["name"], a["scale"], a["units"], a["navigate"]) for a in made.axes] == [("Rx", 5.0, "Å", False), ("Ry", 5.0, "Å", False)]
    assert made.told["General"]["title"] == "bf" and made.told["Signal"]["quantity"] == "bf (counts)"
    assert made.told["gpu4d"]["class"] == "gpu4d.data.RealSlice"


def test_a_stack_is_navigated_and_complex_values_have_their_signal(stand_in):
    made = RealSlice(np.ones((2, 3, 4), complex), "t", labels=("a", "b")).to_hyperspy()
    assert type(made) is stand_in.ComplexSignal2D and [a["navigate"] for a in made.axes] == [True, False, False]
    assert made.told["gpu4d"]["labels"] == ["a", "b"] and made.axes[1]["units"] == ""


def test_a_scan_is_lazy_and_says_its_beam(stand_in, need):
    need("dask.array")
    cube = DataCube(np.ones((2, 3, 8, 8), "u2"), Calibration(r_pixel=2.0, q_pixel=0.05, energy=3e5, semiangle=1.5))
    made = cube.to_hyperspy()
    assert made.lazy and [a["navigate"] for a in made.axes] == [True, True, False, False] and made.axes[3]["scale"] == 0.05
    assert made.set == {"Acquisition_instrument.TEM.beam_energy": 300.0, "Acquisition_instrument.TEM.convergence_angle": 1.5}


def test_curves_are_spectra_over_their_own_axis(stand_in):
    k = np.array([0.1, 0.2, 0.4])
    made = gpu4d.rings.RingProfiles(k, *(np.ones((4, 5, 3)),) * 3, None, Calibration()).to_hyperspy()
    assert type(made["sums"]) is stand_in.Signal1D and [a["navigate"] for a in made["sums"].axes] == [True, True, False]
    np.testing.assert_array_equal(made["sums"].axes[2]["axis"], k)
    assert made["sums"].axes[2]["units"] == "" and "size" not in made["sums"].axes[2], "its unit is px"


def test_lists_of_points_are_ragged(stand_in):
    disks = PointListArray(np.array([0, 2, 2, 3]), {"qx": np.array([1.0, 2.0, 3.0]), "n": np.array([4, 5, 6])}, (1, 3))
    made = disks.to_hyperspy()
    assert made.ragged and made.data[0, 0].tolist() == [[1, 4], [2, 5]] and made.data[0, 1].shape == (0, 2)
    assert made.told["gpu4d"]["fields"] == ["qx", "n"]


@pytest.mark.parametrize("name", sorted(classes()))
def test_every_result_gives_signals_or_says_that_it_has_no_arrays(stand_in, name, need):
    if name in WITH_STRUCTURES:
        need("gemmi")
    try:
        made = example(name).to_hyperspy()
    except InputError as error:
        assert "has no arrays, only numbers and texts" in str(error)
    else:
        assert made


def test_hyperspy_itself(need):
    hs = need("hyperspy.api")
    rng = np.random.default_rng(0)
    cube = DataCube(rng.integers(0, 9, (3, 4, 6, 5)).astype("u2"), Calibration(r_pixel=2.0, q_pixel=0.05))
    made = cube.to_hyperspy()
    assert made.axes_manager.navigation_shape == (4, 3) and made.axes_manager.signal_shape == (5, 6)
    np.testing.assert_array_equal(made.inav[1, 2].data, np.asarray(cube)[2, 1])
    assert isinstance(RealSlice(np.ones((2, 3))).to_hyperspy(), hs.signals.Signal2D)
    assert made.axes_manager["Qy"].scale == 0.05 and made.axes_manager["Rx"].units == "Å"
