"""What a result shows in a notebook: one line of its shape, units and figures, and never arrays."""

import dataclasses
import importlib
import inspect
import re

import numpy as np
import pytest

import gpu4d
from gpu4d.bragg import explain_disks
from gpu4d.data import BadPixelCorrection, Events
from gpu4d.preprocess import BadPixels, Electrons
from gpu4d.probe import FineImage

ROOMS = (
    "data io interop device streaming simulate imaging probe preprocess calibrate rings "
    "crystal bragg classification amorphous deflection ptychography plot workflow"
)
LONGEST = 300  # characters
PASSED_ON = {"ScanInfo", "Plan"}  # no results: what a sweep tells its reductions, and what `gpu4d info --memory` words


def public_classes():
    rooms = [gpu4d, *(importlib.import_module(f"gpu4d.{room}") for room in ROOMS.split())]
    found = {getattr(room, name) for room in rooms for name in room.__all__}
    return sorted((c for c in found if inspect.isclass(c)), key=lambda c: c.__name__)


def shown_fields(kind):
    """Annotations of the fields that a generated repr shows."""
    if dataclasses.is_dataclass(kind):
        return [str(field.type) for field in dataclasses.fields(kind) if field.repr]
    fields = [value for base in kind.__mro__ for value in vars(base).get("__annotations__", {}).values() if hasattr(base, "_fields")]
    return [str(getattr(value, "__forward_arg__", value)) for value in fields]


def has_own_repr(kind):
    return "def __repr__" in inspect.getsource(kind)


@pytest.mark.parametrize("kind", public_classes(), ids=lambda c: c.__name__)
def test_a_class_that_holds_arrays_says_how_it_is_shown(kind):
    holds = re.compile(r"ndarray|Array\b|Slice|dict\[str, Result\]|ArrayLike")
    if any(holds.search(field) for field in shown_fields(kind)) and kind.__name__ not in PASSED_ON:
        assert has_own_repr(kind), f"{kind.__name__} shows its arrays: give it a __repr__ of one line"


@pytest.fixture(scope="module")
def phase_scan():
    return gpu4d.simulate.phase_object_scan((20, 24), (24, 24), r_pixel=0.5, rotation=0.4)


def one_line(thing, *words):
    text = repr(thing)
    assert len(text) <= LONGEST and "\n" not in text and "array(" not in text, text
    assert all(word in text for word in words), text


def test_templates():
    probe = gpu4d.probe.synthetic((64, 48), 6.0)
    one_line(gpu4d.probe.template(probe), "Template(sigmoid, 64×48 px", "radius 6.0", "edge 1.0", "offset (")
    fine = FineImage(np.ones((41, 41)), 0.25)
    one_line(fine, "41×41 samples, 0.25 px apart")
    one_line(dataclasses.replace(gpu4d.probe.template(probe), fine=fine), "shape measured from a scan")


def test_phases(phase_scan):
    found = gpu4d.dpc(phase_scan.cube)
    phase = np.asarray(found.phase)
    one_line(found, "20×24 positions", f"phase {phase.min():.3g} … {phase.max():.3g} rad", "22.9° (found)", "transpose False")
    one_line(found.curl, "Rotation(", "22.9")
    one_line(gpu4d.dpc(phase_scan.cube, rotation=0.4, transpose=False), "(given)")
    bands = gpu4d.ssb(phase_scan.cube, rotation=0.4, transpose=False)
    one_line(bands, "SSB(20×24 positions", f"{bands.pixels} bright-field pixels", "rad", bands.mode, "22.9°")
    one_line(phase_scan, "Simulated(DataCube", "20×24×24×24", "truth: ")


def test_a_phase_without_pixel_sizes_says_so(phase_scan):
    com = np.moveaxis(np.asarray(gpu4d.sweep(phase_scan.cube, gpu4d.CenterOfMass())), 0, -1)
    one_line(gpu4d.dpc(com, rotation=0.0), "relative", "1 warning")


def test_pixels_and_electrons():
    bad = np.zeros((8, 9), bool)
    bad[2, 3] = True
    one_line(BadPixels(bad, ~bad), "1 hot and 71 dead of 8×9 pixels")
    one_line(BadPixelCorrection(bad), "1 bad pixel replaced", "8×9")
    one_line(Events(np.array([2, 4, 5]), np.arange(9), None, (3, 3)), "2 patterns of 3×3 pixels, 3 events")
    one_line(Electrons(np.array([0, 2, 3]), np.ones(3, "u2"), np.ones(3, "u2"), np.ones(3, "f4")), "3 electrons in 2 frames")


def test_strain_of_a_glass():
    scan = gpu4d.simulate.amorphous_scan((2, 3), (40, 40), radius=12.0, width=2.0, strain=None)
    found = gpu4d.amorphous_strain(scan.cube, origin=scan.truth["origin"], ellipse=(1, 1, 0))
    one_line(found, "2×3 positions", "mean of all positions", "detector axes")
    one_line(found.reference, "ring at", "a/b 1.0000", "fitted from")


def test_profiles_of_a_scan(phase_scan):
    found = gpu4d.sweep(phase_scan.cube, gpu4d.rings.RadialVariance((12.0, 12.0)))
    one_line(found, "12 rings up to 12 px, 480 positions")


def test_candidates_of_a_pattern():
    probe = gpu4d.probe.synthetic((64, 64), 5.0)
    pattern = np.random.default_rng(0).poisson(200 * np.roll(probe, (9, -7), (0, 1)))
    found = explain_disks(pattern, gpu4d.probe.template(probe))
    one_line(found, f"{len(found.qx)} maxima", "1 accepted")


def test_a_run():
    scan = gpu4d.simulate.bragg_scan((6, 6), (96, 96), dose=300, seed=1)
    state = gpu4d.workflow.analyse(scan.cube)
    one_line(state.record, "gates passed", "decisions")
    assert "array(" not in repr(state) and "\n" not in repr(state) and "strain" in repr(state)
    one_line(state.strain.reference, "g1=(", "px")
    one_line(state.strain.axes, "detector axes")
