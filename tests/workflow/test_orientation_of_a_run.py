"""Orientations in a run: when they are looked for, what is checked, and what is written."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from kinematical_peaks import ENERGY, Q_PIXEL, spots
from recipes_in_tests import recipe
from spot_scenes import disk

import gpu4d
from gpu4d import DataCube
from gpu4d.errors import InputError
from gpu4d.orientation import matrices_of
from gpu4d.structures import Structure
from gpu4d.workflow import Recipe, analyse, run

SHAPE, MIDDLE, RADIUS = (120, 120), 59.5, 3.0
TURNS = matrices_of(np.array([[0.4, 0.06, 1.0], [2.0, 0.74, 4.75]]))  # two grains
KNOWN = {"calibration__energy": ENERGY, "calibration__q_pixel": Q_PIXEL, "calibration__r_pixel": 20.0, "calibration__rotation_degrees": 0.0}


def pattern(turn, q_pixel=Q_PIXEL):
    place, intensity = spots(Structure.standard("Au"), turn, g_max=1.15, thickness=25.0, height=3000.0)
    mean = np.full(SHAPE, 0.02) + 3000 / (np.pi * RADIUS**2) * disk(SHAPE, (MIDDLE, MIDDLE), RADIUS)
    for (x, y), counts in zip(place, intensity):
        at = MIDDLE + np.array([x, y]) / q_pixel
        if (np.abs(at - MIDDLE) < MIDDLE - RADIUS - 2).all():
            mean += counts / (np.pi * RADIUS**2) * disk(SHAPE, at, RADIUS)
    return mean


@pytest.fixture(scope="module")
def gold():
    """Counts of two grains of gold, (8, 6) positions, four rows each; the beam is at the same place in all."""
    pytest.importorskip("gemmi")
    mean = np.repeat(np.stack([pattern(turn) for turn in TURNS]), 24, axis=0).reshape(8, 6, *SHAPE)
    return np.random.default_rng(0).poisson(mean).astype(np.uint16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, gold, only_blank_pictures):
    root = tmp_path_factory.mktemp("gold")
    with h5py.File(root / "gold.h5", "w") as file:
        file["scan"] = gold
    return run(root / "gold.h5", root / "out", recipe=recipe(**KNOWN, orientation__structures="Au", classification__on=False))


def truth():
    return np.repeat(TURNS, 24, axis=0).reshape(8, 6, 3, 3)


def gates(state):
    return {g.name: g for g in state.record.gates}


def test_two_grains_of_gold_are_found_and_trusted(folder):
    found = folder.state["orientations"]
    right = np.degrees(found.angle_to(truth())) < 1.0
    assert right[~found.ambiguous].all() and right.mean() > 0.9, "look-alikes are named ambiguous"
    said = gates(folder.state)
    for name in ("Indexed share", "Disks on their reflections", "Pixel size and structures", "Margin of the orientations"):
        assert name in said
    assert said["Indexed share"].passed and said["Disks on their reflections"].passed and said["Pixel size and structures"].passed
    assert "% of the positions are ambiguous" in said["Margin of the orientations"].measured
    assert any("significance of 3" in d.what for d in folder.record.decisions), "weak disks are searched for orientations"
    assert "Orientations of Au at 100 %" in folder.as_dict()["headline"]


def test_matrices_scores_pictures_and_ang_are_in_the_folder(folder):
    saved, found = gpu4d.io.read_emd(folder.folder / "result.h5"), folder.state["orientations"]
    planes = np.moveaxis(np.asarray(saved["orientation_matrices"]), 0, -1)
    np.testing.assert_allclose(planes.reshape(8, 6, 3, 3), found.matrices)
    np.testing.assert_allclose(saved["orientation_margin"], found.margin)
    np.testing.assert_array_equal(saved["orientation_phase"], found.phase)
    assert {"orientation_share", "orientation_explained", "orientation_distance", "orientation_error"} <= set(saved)
    names = {p.name for p in folder.folder.iterdir()}
    assert {"ipf_z.png", "ipf_x.png", "orientation_margin.png", "orientation_explained.png", "orientation_misfit.png"} <= names
    assert "phase.png" not in names, "one structure"
    rows = np.loadtxt(folder.folder / "orientation.ang")
    again = matrices_of(rows[:, :3]).reshape(6, 8, 3, 3).swapaxes(0, 1)
    assert np.degrees(found.angle_to(again)).max() < 0.01


def test_an_earlier_result_with_an_ang_is_replaced_and_a_strangers_is_not(folder, tmp_path):
    from gpu4d.workflow.report import output

    output.check_free(folder.folder, overwrite=True)
    (tmp_path / "mine.ang").write_text("# OPERATOR: me\n 0 0 0\n")
    with pytest.raises(InputError, match=r"did not write \(mine.ang\)"):
        output.check_free(tmp_path, overwrite=True)


def test_a_transposed_scan_with_its_calibration_gives_the_same_orientations(folder, gold):
    """A mirrored detector is undone once, by `transpose`: then R is the same, and not its mirror image."""
    known = gpu4d.Calibration(energy=ENERGY, q_pixel=Q_PIXEL, rotation=0.0, transpose=True)
    flipped = DataCube(np.ascontiguousarray(gold.swapaxes(2, 3)), known)
    state = analyse(flipped, recipe(orientation__structures=["Au"], classification__on=False, analysis__technique="bragg"))
    found, ours = state["orientations"], folder.state["orientations"]
    sure = ~(found.ambiguous | ours.ambiguous)
    assert sure.mean() > 0.9 and np.degrees(found.angle_to(ours.matrices))[sure].max() < 0.5
    assert (np.degrees(found.angle_to(truth()))[sure] < 1.0).all()


def test_without_its_transpose_the_orientations_are_others(gold):
    flipped = DataCube(np.ascontiguousarray(gold[:, :1].swapaxes(2, 3)), gpu4d.Calibration(energy=ENERGY, q_pixel=Q_PIXEL, rotation=0.0))
    state = analyse(flipped, recipe(orientation__structures=["Au"], classification__on=False, analysis__technique="bragg"))
    assert (np.degrees(state["orientations"].angle_to(truth()[:, :1])) > 1).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "pixel"), [pytest.param("Si", Q_PIXEL, id="another crystal"), pytest.param("Au", 1.07 * Q_PIXEL, id="a nominal pixel size")]
)
def test_a_wrong_structure_or_pixel_size_shows_in_the_gates(gold, name, pixel):
    cube = DataCube(gold[:, :2], gpu4d.Calibration(energy=ENERGY, q_pixel=pixel, rotation=0.0))
    options = {"orientation__thickness": 40.0, "classification__on": False, "analysis__technique": "bragg"}
    said = gates(analyse(cube, recipe(orientation__structures=[name], **options)))
    assert not said["Pixel size and structures"].passed and not said["Indexed share"].passed


def test_a_pixel_size_within_its_error_is_taken_from_the_reflections(gold):
    known = gpu4d.Calibration(energy=ENERGY, q_pixel=1.03 * Q_PIXEL, q_pixel_error=0.02 * Q_PIXEL, rotation=0.0)
    asked = recipe(orientation__structures=["Au"], classification__on=False, analysis__technique="bragg")
    state = analyse(DataCube(gold[:, :1], known), asked)
    (said,) = [d for d in state.record.decisions if d.what.startswith("Detector pixel for the orientations")]
    assert float(said.what.split(": ")[1].split(" ")[0]) == pytest.approx(Q_PIXEL, rel=2e-3)
    assert gates(state)["Pixel size and structures"].passed and state.calibration.q_pixel == 1.03 * Q_PIXEL, "only the match takes it"
    assert (np.degrees(state["orientations"].angle_to(truth()[:, :1])) < 1).all()


@pytest.mark.parametrize(("structures", "disks", "technique"), [(["Au"], 9, "bragg"), (None, 9, "images"), (["Au"], 1, "images")])
def test_grains_without_a_common_lattice_are_searched_if_structures_are_named(structures, disks, technique):
    from gpu4d.crystal import Suggestion
    from gpu4d.workflow.stages.technique import _for_orientations

    asked = recipe(**({"orientation__structures": structures} if structures else {}))
    state = SimpleNamespace(recipe=asked, get={"trial": SimpleNamespace(counts=np.full(9, disks)), "template": 1}.get)
    found = _for_orientations(state, Suggestion("images", "Images only", "no single lattice explains them"))
    assert found.technique == technique and "no single lattice" in found.why


def test_two_structures_make_a_map_of_phases(gold):
    from gpu4d.workflow.stages.orientation import Orientation

    cube = DataCube(gold[:, :2], gpu4d.Calibration(energy=ENERGY, q_pixel=Q_PIXEL, rotation=0.0))
    state = analyse(cube, recipe(orientation__structures=["Si", "Au"], classification__on=False, analysis__technique="bragg"))
    assert (state["orientations"].phase == 1).all()
    drawn = {picture.name: picture.caption for picture, _ in Orientation().pictures(state)}
    assert {"phase", "ipf_z_1", "ipf_x_1"} <= set(drawn) and "ipf_z_0" not in drawn, "a phase that is nowhere has no map"
    assert "Positions of other phases are grey too" in drawn["ipf_z_1"]


def test_it_says_why_not(gold):
    few = recipe(classification__on=False, analysis__technique="bragg")
    assert "no material is guessed" in analyse(DataCube(gold[:2, :2]), few).reasons["orientation"].why
    few.set("orientation.structures", ["Au"])
    state = analyse(DataCube(gold[:2, :2]), few)
    assert "--q-pixel and --energy" in state.reasons["orientation"].why
    assert any("no orientations: the orientation needs --q-pixel" in line for line in state.record.warnings)


def test_a_structure_that_is_not_there_is_named_before_the_work(gold):
    with pytest.raises(InputError, match=r"structure gold\.cif: there is no such standard, and no file .*; standards are Au"):
        analyse(DataCube(gold), recipe(orientation__structures=["gold.cif"]))


def test_a_cif_beside_the_recipe_is_found(tmp_path):
    (tmp_path / "r.toml").write_text('[orientation]\nstructures = ["Au", "my.cif"]\n')
    assert Recipe.load(tmp_path / "r.toml").orientation.structures == ["Au", str(tmp_path / "my.cif")]


def test_the_flag_may_be_repeated():
    from gpu4d.cli_flags import with_flags

    assert with_flags(None, {"structure": ("Au", "Si")}).orientation.structures == ["Au", "Si"]
    assert with_flags(None, {"structure": ()}).orientation.structures is None


@pytest.mark.shared
@pytest.mark.slow
def test_six_grains_of_the_shared_scan(shared_data, need):
    need("gemmi")
    with h5py.File(shared_data / "orientation.h5") as file:
        data, rotation, share, grain = file["poisson_10000"][:], *(file[f"truth/{name}"][:] for name in ("rotation", "share", "grain"))
    cube = DataCube(data, gpu4d.Calibration(energy=200e3, q_pixel=0.022, r_pixel=15.0, rotation=0.0))
    state = analyse(cube, recipe(orientation__structures=["Au"]))
    near = np.degrees(state["orientations"].angle_to(rotation)) < 1
    assert near.mean() >= 0.98 and near[share > 0.9].mean() >= 0.99
    assert state["orientations"].ambiguous[~near].all(), "what is wrong is named ambiguous"
    pure, label = share > 0.9, state["classes"].label
    own = {g: np.bincount(label[pure & (grain == g) & (label >= 0)]).argmax() for g in np.unique(grain[pure])}
    assert len(set(own.values())) == 6, "each grain is a class"
    assert np.mean([label[at] == own[grain[at]] for at in zip(*np.nonzero(pure))]) >= 0.95
    assert all(gates(state)[name].passed for name in ("Indexed share", "Pixel size and structures", "Margin of the orientations"))
