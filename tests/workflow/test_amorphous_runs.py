"""Amorphous scans in a run: recognised, and measured against what they were made of; and the amorphous part of a mixed scan."""

import re

import h5py
import numpy as np
import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import DataCube
from gpu4d.errors import InputError
from gpu4d.workflow import analyse
from gpu4d.workflow.pipeline import found
from gpu4d.workflow.run_state import RunState
from gpu4d.workflow.stages import known_stages
from gpu4d.workflow.stages.radial import ring_reductions


@pytest.fixture(scope="module")
def glass():
    return gpu4d.simulate.amorphous_scan((12, 11), (64, 64), radius=18.0, dose=6e4, strain_size=0.03, unstrained_rows=4, seed=2)


@pytest.fixture(scope="module")
def state(glass):
    glass.cube.calibration.set(rotation=0.0)
    return analyse(glass.cube, recipe(amorphous_strain__reference=[0, 4, 0, 11]))


def shared(folder, name, dataset):
    """A scan of the shared data, with its calibration."""
    with h5py.File(folder / f"{name}.h5") as file:
        at = file.attrs
        known = gpu4d.Calibration(energy=at["energy_eV"], q_pixel=at["detector_pixel_1_per_A"], semiangle=at["semiangle_mrad"])
        known.set(rotation=0.0)
        return DataCube(file[dataset][()], known), {key: file["truth"][key][()] for key in file["truth"]}


def figures(state):
    return {what: value for what, value, _ in state.record.figures}


def test_a_glass_is_recognised_and_its_strain_is_right(glass, state):
    assert state["technique"] == "amorphous" and re.search("looks amorphous .a diffuse ring at 1[78] px", found(state))
    strain = state["amorphous_strain"]
    for name in ("exx", "eyy", "exy"):
        error = np.asarray(getattr(strain, name)) - glass.truth[name]
        one = np.asarray(strain.uncertainty)[("exx", "eyy", "exy").index(name)]
        assert np.nanstd(error) < 1.3 * np.nanmedian(one), "as exact as the errors say"
        seen = np.isfinite(error)
        assert seen.mean() > 0.97, "a strained ring is no crystallite"
        spread = glass.truth[name].std()
        expected = spread / np.hypot(spread, np.nanmedian(one))  # of the truth with noise of this size
        assert np.corrcoef(np.asarray(getattr(strain, name))[seen], glass.truth[name][seen])[0, 1] > 0.97 * expected
    assert {"amorphous_strain", "amorphous_strain_uncertainty", "fem", "radial_profile"} <= set(state.products)
    assert {"Strain of the glass", "Uncertainty of strain", "Variance at the first ring"} <= set(figures(state))
    assert "strain varies by" in found(state)


def test_one_pass_has_images_and_ring_statistics(state):
    (shared_pass,) = [s.name for s in state.record.stages if s.name.startswith("pass") and "radial profile" in s.name]
    assert "virtual images" in shared_pass
    assert state["glass"].rings.sums.shape[:2] == (12, 11) and not state["glass"].mixed


def test_the_picture_of_fluctuations_shows_what_the_recipe_asks_for_first(state):
    for asked, first in (("mean", "variance of the annular mean"), ("median", "annular mean, by medians")):
        state.recipe.set("fem.statistics", asked, origin="test")
        (stage,) = [s for s in known_stages() if s.name == "fem"]
        drawn = {picture.name: made for picture, made in stage.pictures(state)}
        texts = [text.get_text() for text in drawn["fem"].get_legend().get_texts()]
        assert texts[0] == first and {"annular mean, by medians", "variance of the annular mean"} <= set(texts)


def test_crystallites_have_no_strain_of_a_glass(glass):
    counts = glass.cube.source.array.copy()
    for sign in (-1, 1):  # two disks on the ring, opposite each other
        x, y = np.rint(glass.truth["origin"][8, 5] + sign * np.array([11, 14])).astype(int)
        counts[8, 5, x - 1 : x + 2, y - 1 : y + 2] += 150
    strain = analyse(DataCube(counts, gpu4d.Calibration(rotation=0.0)), recipe())["amorphous_strain"]
    missing = ~np.asarray(strain.mask)
    assert missing[8, 5] and missing.mean() < 0.03


def test_what_is_not_known_is_said(state):
    assert "the composition is not known" in state.reasons["rdf"].why
    assert "crystallites" in state and not any(d.what == "No search for crystallites" for d in state.record.decisions)


def test_asked_for_without_a_ring_there_are_images():
    crystal = gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=15.0, radius=4.0, seed=1)
    state = analyse(crystal.cube, recipe(analysis__technique="amorphous"))
    assert state["technique"] == "images" and any("no even ring" in line for line in state.record.warnings)


def test_methods_are_switched_off(glass):
    state = analyse(glass.cube, recipe(fem__measure=False, amorphous_strain__measure=False))
    assert "fem" not in state and "amorphous_strain" not in state and "radial_profile" in state
    assert "switched off" in state.reasons["fem"].why and "switched off" in state.reasons["amorphous_strain"].why


@pytest.mark.parametrize("given", [False, True])
def test_little_memory_stops_no_run(glass, given):
    """A default that is too small for the crystallites is raised; a limit of the user leaves them out, and says so."""
    asked = recipe(amorphous_strain__measure=False, **({"compute__memory": "14 MB"} if given else {}))
    asked.compute.memory = "14 MB"
    state = analyse(glass.cube, asked)
    left_out = [d.why for d in state.record.decisions if d.what == "No search for crystallites"]
    assert "fem" in state and ("crystallites" in state) != given
    assert [("14 MB" in why and "raise memory" in why) for why in left_out] == [True] * given


def test_ring_statistics_keep_a_limit_of_the_user(glass):
    for memory, kept in (("450 kB", True), ("300 kB", False)):  # 12 × 11 positions of 32 rings are 135 kB
        state = RunState(glass.cube, recipe(compute__memory=memory))
        assert ("ring_profiles" in ring_reductions(state, (32.0, 32.0), np.ones((12, 11), bool), True)) == kept


def test_fractions_of_counts_have_no_likelihood(state):
    other = RunState(DataCube(np.zeros((2, 3, 8, 8), np.float32)), recipe())
    other.keep("glass", state["glass"])
    for stage in known_stages():
        if stage.name in ("fem", "amorphous_strain"):
            assert not stage.wanted(other).wanted and "no counts" in stage.wanted(other).why


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"rdf__composition": "Xx50"}, "Xx"),
        ({"rdf__fit_from": 1.5, "rdf__fit_to": 1.2}, "must be larger"),
        ({"rdf__band_low": 0.5, "rdf__band_high": 0.4}, "must be larger"),
    ],
)
def test_wrong_settings_are_refused_before_the_work(glass, settings, says):
    with pytest.raises(InputError, match=says):
        analyse(glass.cube, recipe(**settings))


def test_the_guide_has_ranges_for_them():
    lines = recipe(rdf__fit_to=2.4, rdf__band_low=0.4).advice()
    assert any("rdf.fit_to" in line and "1.2 – 1.6" in line for line in lines) and any("rdf.band_low" in line for line in lines)


def test_distances_of_atoms_of_a_metallic_glass(shared_data):
    pytest.importorskip("gemmi")
    cube, truth = shared(shared_data, "rdf_glass", "poisson_1e5")
    state = analyse(cube, recipe(rdf__composition="Cu50Zr50", amorphous_strain__measure=False))
    result = state["rdf"]
    assert float(result.peak) == pytest.approx(2.79, abs=0.03), "as the truth's structure factor gives through the same transform"
    assert float(result.density) == pytest.approx(0.0575, rel=0.05)
    seen = (result.k > 0.25) & (result.k < 2.3)
    expected = np.interp(result.k, truth["k_1_per_A"], truth["S_k"])
    assert np.corrcoef(result.structure_factor[seen], expected[seen])[0, 1] > 0.99
    assert {"structure_factor", "pair_distribution"} <= set(state.products)
    assert any("that of the disk, 0.0254 1/Å" in line for line in result.decisions), "the width of the bright-field disk is taken out"
    assert {"Scale of the structure factor", "Density of atoms"} <= {gate.name for gate in state.record.gates}


def test_crystallites_are_left_out(shared_data):
    cube, truth = shared(shared_data, "amorphous_fem", "poisson_1e5")
    state = analyse(cube, recipe(amorphous_strain__measure=False))
    crystallites = state["crystallites"]
    assert len(crystallites) >= 9, "six on a zone axis, and three of four others"
    assert truth["crystal_coverage"][crystallites.mask].mean() > 5 * truth["crystal_coverage"][~crystallites.mask].mean()
    assert any(d.what.startswith("Crystallites: ") for d in state.record.decisions)
    fem = state["fem"]
    ring = int(np.nanargmax(np.where(fem.radius > 20, fem.annular_mean.value, 0)))
    assert fem.median_annular_mean.value[ring] < 0.5 * fem.annular_mean.value[ring], "medians suppress crystallites"


@pytest.mark.slow
def test_the_amorphous_part_of_a_mixed_scan(shared_data):
    """Classes come first; then rings are measured where the specimen is amorphous, and strain of the lattice elsewhere."""
    pytest.importorskip("sklearn")
    cube, truth = shared(shared_data, "two_phase", "poisson_3000")
    state = analyse(cube)
    assert state["technique"] == "bragg" and state["glass"].mixed
    where, amorphous = state["glass"].where, truth["fractions"][..., 3]
    assert amorphous[where].mean() > 0.8 and amorphous[~where].mean() < 0.1
    assert {"strain", "radial_profile", "fem"} <= set(state.products)
