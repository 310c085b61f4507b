"""A scan in memory gives what its file gives, whatever the recipe says."""

import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io import save_calibration
from gpu4d.workflow import analyse, run
from gpu4d.workflow.inputs import OPENING
from gpu4d.workflow.recipe.sections import InputSettings

KNOWN = {
    "calibration__energy": 200e3,
    "calibration__semiangle": 3.0,
    "calibration__r_pixel": 20.0,
    "calibration__rotation_degrees": 30.0,
    "ellipse__given": [1.01, 20.0],
}
OF_VIEWS = {"input__swap_detector": True, "input__crop_scan": [1, 9, 0, 8], "input__bin_scan": 2, "input__detector_mask": "mask.npy"}
OF_VIEWS |= {"input__calibration": "c.toml"}
OF_FRAMES = {"corrections__dark": "dark.npy", "corrections__streaks": "off", "gates__stop": ["sharpness"], "gates__sharpness_fail": 1e-9}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A scan on a dark level, that level, a mask, and an image of the probe."""
    folder = tmp_path_factory.mktemp("both")
    made = gpu4d.simulate.bragg_scan((9, 8), (72, 80), spacing=17.0, radius=5.0, dose=80.0, strain_size=0.01, seed=5)
    level = np.random.default_rng(0).integers(0, 9, (72, 80)).astype(np.uint16)
    np.save(folder / "scan.npy", np.asarray(made.cube.source.array) + level)
    np.save(folder / "dark.npy", np.broadcast_to(level, (4, 72, 80)))
    mask = np.ones((72, 80), np.uint8)
    mask[:, 3] = 0
    np.save(folder / "mask.npy", mask)
    np.save(folder / "probe.npy", gpu4d.probe.synthetic((72, 80), 5.0))
    save_calibration(folder / "c.toml", gpu4d.Calibration(q_pixel=0.0123, energy=200e3))
    return folder


def both(folder, monkeypatch, settings):
    """Results of the file and of the array, with one recipe."""
    monkeypatch.chdir(folder)
    of_file = run(folder / "scan.npy", folder / "out", recipe=recipe(**settings), overwrite=True).state
    return of_file, analyse(gpu4d.DataCube(np.load("scan.npy")), recipe(**settings))


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(KNOWN | {"probe__file": "probe.npy"}, id="calibration"),
        pytest.param(KNOWN | OF_VIEWS | {"probe__file": "probe.npy"}, id="views", marks=pytest.mark.slow),
        pytest.param(KNOWN | OF_FRAMES, id="corrections and gates"),
        pytest.param(KNOWN | {"input__preview": True, "analysis__technique": "dpc"}, id="preview", marks=pytest.mark.slow),
    ],
)
def test_all_maps_are_equal_to_the_bit(here, monkeypatch, settings, blank_pictures):
    of_file, of_array = both(here, monkeypatch, settings)
    assert set(of_file.products) == set(of_array.products) and len(of_file.products) > 5
    for name, one in of_file.products.items():
        other = of_array.products[name]
        for field in getattr(one, "fields", None) or ("data",):
            values = [np.asarray(x.flat(field) if hasattr(x, "flat") else getattr(x, field, x)) for x in (one, other)]
            np.testing.assert_array_equal(*values, err_msg=f"{name}.{field}")
    assert set(of_file.calibration.known()) == set(of_array.calibration.known())
    for field in of_file.calibration.known():
        np.testing.assert_array_equal(getattr(of_file.calibration, field), getattr(of_array.calibration, field), err_msg=field)
        assert of_file.calibration.how_known(field) == of_array.calibration.how_known(field), field
    gates = [[(g.name, g.passed, g.measured) for g in state.record.gates] for state in (of_file, of_array)]
    assert gates[0] == gates[1] and gates[0]
    assert (of_file.record.stopped is None) == (of_array.record.stopped is None) == ("gates__stop" not in settings)
    said = [[line.partition(" (")[0] for line in state.record.warnings] for state in (of_file, of_array)]  # a preview names its file
    assert said[0] == said[1]


def test_what_opens_a_file_is_said_to_be_left_out(here):
    cube = gpu4d.DataCube(np.load(here / "scan.npy")[:2, :2])
    state = analyse(cube, recipe(input__scan_shape=[2, 2], analysis__technique="images"))
    assert any(line.startswith("input.scan_shape: not used") for line in state.record.warnings)
    keys = {name.partition(".")[2] for name in OPENING}
    assert keys < set(InputSettings.__dataclass_fields__)


def test_an_array_of_a_probe_is_binned_as_the_scan_is():
    made = gpu4d.simulate.bragg_scan((3, 3), (96, 96), spacing=30.0, radius=9.0, dose=60.0, seed=1)
    asked = recipe(input__bin_detector=2, analysis__technique="bragg")
    state = analyse(made.cube, asked, probe=gpu4d.probe.synthetic((96, 96), 9.0))
    assert state["template"].radius == pytest.approx(4.5, abs=0.1)
    with pytest.raises(InputError, match="the probe that was given is"):
        analyse(made.cube, asked, probe=np.ones((50, 50)))
