"""Recipes for a purpose and for a scenario are run, on scans of that kind whose truth is known."""

import numpy as np
import pytest
from blank_pictures import not_rendered
from recipes_in_tests import recipe

import gpu4d
from gpu4d.workflow import Recipe, analyse
from gpu4d.workflow.advising import look_at, purpose_recipe

OPTICS = {"calibration__energy": 200e3, "calibration__semiangle": 3.0, "calibration__r_pixel": 20.0, "calibration__rotation_degrees": 0.0}
OF_ATOMS = {"calibration__energy": 80e3, "calibration__semiangle": 32.0, "calibration__r_pixel": 0.5}
GOLD, GLASS = {"orientation__structures": ["Au"]}, {"rdf__composition": "Cu50Zr50"}
KINDS = {  # purpose: kind of scan, what is known of it, technique of the run, results and gates that it must have
    "strain": ("crystal", OPTICS, "bragg", {"strain"}, {"Strain magnitude", "Sharpness of the lattice"}),
    "auto": ("crystal", OPTICS, "bragg", {"strain"}, {"Strain magnitude"}),
    "orientation": ("crystal", OPTICS | {"calibration__q_pixel": 0.027} | GOLD, "bragg", {"orientation_distance"}, set()),
    "dpc": ("atoms", OF_ATOMS, "dpc", {"dpc_phase"}, {"Boundary of the phase"}),
    "ssb": ("atoms", OF_ATOMS, "ssb", {"ssb_phase"}, {"Boundary of the phase"}),
    "magnetic": ("atoms", OF_ATOMS, "magnetic", {"induction"}, set()),
    "amorphous": ("glass", OPTICS | {"calibration__q_pixel": 0.0145} | GLASS, "amorphous", {"amorphous_strain", "rdf"}, set()),
}  # fmt: skip
PARTS = ("exx", "eyy", "exy", "theta")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Files of a crystal, atoms and a glass."""
    folder = tmp_path_factory.mktemp("kinds")
    made = {
        "crystal": gpu4d.simulate.bragg_scan((8, 8), (80, 80), spacing=18.0, radius=4.5, dose=60.0, strain_size=0.01, seed=2),
        "atoms": gpu4d.simulate.phase_object_scan((10, 12), (32, 32), r_pixel=0.5, semiangle=32.0, dose=1e5, seed=3),
        "glass": gpu4d.simulate.amorphous_scan((8, 8), (96, 96), q_pixel=0.0145, seed=1),
    }
    for name, one in made.items():
        np.save(folder / f"{name}.npy", one.cube.source.array)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("purpose", KINDS)
def test_the_recipe_of_a_purpose_runs(scans, purpose):
    kind, known, technique, results, gates = KINDS[purpose]
    if "orientation__structures" in known:
        pytest.importorskip("gemmi")
    path = scans / f"{kind}.npy"
    text = purpose_recipe(purpose, look_at(path, recipe(**known)), recipe(**known))
    assert "By itself, a run would decide otherwise" not in text
    state = analyse(gpu4d.DataCube(np.load(path)), Recipe.from_toml(text))
    assert state["technique"] == technique and results <= set(state.results) | set(state.products), (
        state.record.warnings,
        sorted(state.products),
    )
    found = {gate.name: gate for gate in state.record.gates}
    assert gates <= set(found) and all(found[name].passed for name in gates), [(g.name, g.measured) for g in found.values() if not g.passed]


def error(state, truth):
    """Rms error of the strain against the truth, relative to the median of both."""
    off = [np.asarray(getattr(state["strain"], name).data) - truth[name] for name in PARTS]
    return float(np.sqrt(np.nanmean([(one - np.nanmedian(one)) ** 2 for one in off])))


def with_and_without(made, scenario, probe=None, **settings):
    settings = {**OPTICS, "analysis__technique": "bragg", **settings}
    cube = made.cube.source.array
    return [analyse(gpu4d.DataCube(cube), recipe(**settings, **more), probe=probe) for more in ({"analysis__scenario": [scenario]}, {})]


def binned(truth):
    return {name: truth[name].reshape(truth[name].shape[0] // 2, 2, -1, 2).mean((1, 3)) for name in PARTS}


@pytest.mark.slow
def test_noisy_sums_positions_and_strain_is_nearer_to_the_truth():
    """A few counts a disk: with the scenario the errors are about half as large, at half the resolution."""
    made = gpu4d.simulate.bragg_scan((12, 12), (72, 72), spacing=17.0, radius=4.0, dose=1.5, strain_size=0.01, descan=0.3, seed=7)
    scenario, plain = with_and_without(made, "noisy")
    assert scenario["strain"].exx.data.shape == (6, 6)
    assert error(scenario, binned(made.truth)) < 0.75 * error(plain, made.truth)


@pytest.mark.slow
@pytest.mark.parametrize("fit", ["disks", "auto"])
def test_overlapping_is_not_worse(fit):
    """37 disks of a pattern overlap. A limit of 20, as the guide has it, made the errors of a fit to single disks 2.3 times as large."""
    made = gpu4d.simulate.bragg_scan(
        (4, 4), (96, 96), spacing=13.0, radius=7.5, dose=100.0, strain_size=0.01, descan=0.3, reach=3.3, seed=7
    )
    scenario, plain = with_and_without(made, "overlapping", made.probe, lattice__fit=fit)
    assert scenario["strain"].mask.all() and error(scenario, made.truth) < 1.1 * error(plain, made.truth)


@pytest.mark.slow
def test_large_fields_have_a_curved_path_of_the_beam():
    """The path of the beam is a quadratic of 3 px. A run finds that by itself, so that the scenario is as good, and not better."""
    made = gpu4d.simulate.bragg_scan((10, 10), (80, 80), spacing=18.0, radius=4.5, dose=60.0, strain_size=0.005, descan=0.0, seed=7)
    rows = np.linspace(-1, 1, 10)
    counts, moved = made.cube.source.array.copy(), np.rint(3 * rows**2).astype(int)
    for rx in range(10):
        counts[rx] = np.roll(counts[rx], moved[rx], axis=1)
    of = {}
    for name, more in {"scenario": {"analysis__scenario": ["large-fov"]}, "plain": {}, "plane": {"origin__fit": "plane"}}.items():
        of[name] = analyse(gpu4d.DataCube(counts), recipe(**OPTICS, analysis__technique="bragg", **more))
    path = made.truth["origin"][..., 0] + moved[:, None]
    off = {name: float(np.abs(state["origin"].fitted[..., 0] - path).max()) for name, state in of.items()}
    assert off["scenario"] < 1.05 * off["plain"] and off["scenario"] < 0.7 * off["plane"]
    assert error(of["scenario"], made.truth) < 1.05 * error(of["plain"], made.truth)


@pytest.mark.slow
def test_unknown_takes_the_quiet_part_as_unstrained():
    """Less than half of the scan is unstrained: the median is not, and the largest quiet region is."""

    def layers(x, y):
        F = np.broadcast_to(np.eye(2), (*np.shape(x), 2, 2)).copy()
        F[:, 5:, 0, 0] += 0.02 + 0.002 * np.arange(F.shape[1] - 5)
        return F

    made = gpu4d.simulate.bragg_scan((8, 12), (80, 80), spacing=18.0, radius=4.5, dose=60.0, strain=layers, descan=0.3, seed=7)
    scenario, plain = with_and_without(made, "unknown")
    off = [np.abs(np.median(np.asarray(s["strain"].exx.data)[:, :5])) for s in (scenario, plain)]
    assert off[0] < 3e-4 and off[1] > 0.01


@pytest.mark.slow
def test_thick_changes_no_number(scans):
    states = [analyse(gpu4d.DataCube(np.load(scans / "atoms.npy")), recipe(**OF_ATOMS, analysis__technique="dpc", **more))
              for more in ({"analysis__scenario": ["thick"]}, {})]  # fmt: skip
    np.testing.assert_array_equal(*(np.asarray(s["dpc_phase"].data) for s in states))
    assert any("do not read the phase of DPC as a potential" in line for line in states[0].record.warnings)


@pytest.mark.slow
def test_mixed_keeps_crystals_out_of_the_strain_of_a_glass():
    """Spots of crystallites in a third of the scan: the strain of the glass elsewhere is as near to the truth as without the scenario."""
    made = gpu4d.simulate.amorphous_scan((9, 9), (96, 96), q_pixel=0.0145, seed=1)
    counts = made.cube.source.array.copy()
    middle = made.truth["origin"]
    spots = np.random.default_rng(0)
    for rx, ry in np.ndindex(3, 9):
        angle = spots.uniform(0, np.pi)
        for sign in (1, -1):
            x, y = np.rint(middle[rx, ry] + sign * 28 * np.array([np.cos(angle), np.sin(angle)])).astype(int)
            counts[rx, ry, x - 1 : x + 2, y - 1 : y + 2] += 60
    known = OPTICS | {"calibration__q_pixel": 0.0145, "analysis__technique": "amorphous"}
    off = []
    for more in ({"analysis__scenario": ["mixed"]}, {}):
        state = analyse(gpu4d.DataCube(counts), recipe(**known, **more))
        strain, at = state["amorphous_strain"], np.s_[3:]
        one = [np.asarray(getattr(strain, name).data)[at] - made.truth[name][at] for name in ("exx", "eyy", "exy")]
        off.append(float(np.sqrt(np.nanmean([(e - np.nanmedian(e)) ** 2 for e in one]))))
        assert np.isfinite(one[0]).mean() > 0.9
    assert off[0] < 1.1 * off[1]


@pytest.fixture(autouse=True, scope="module")
def blank():
    with not_rendered():
        yield
