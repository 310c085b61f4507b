"""The guide's tables of parameters, its stages and its scenarios, and what they are here. Names and numbers are typed from the guide."""

import pytest
from recipes_in_tests import recipe

import gpu4d
from gpu4d import cli_flags, cli_recipe
from gpu4d.workflow import Recipe, analyse
from gpu4d.workflow.guide.parameters import PARAMETERS, parameters_of
from gpu4d.workflow.guide.scenarios import BY_NAME, NAMES, SCENARIOS, adjustments_of, warnings_of
from gpu4d.workflow.guide.stages import GUIDE_STAGES, stages_by_letter, stages_text
from gpu4d.workflow.recipe import explain
from gpu4d.workflow.stages import known_stages

ROWS = {  # table: the guide's parameter -> its range, where it is one of numbers
    "17.1": {
        "background_mask_radius": (0.85, 0.95), "hot_pixel_threshold": (3, 5), "counting_lower_thresh": None, "counting_upper_thresh": None,
        "binning_factor": (2, 4),
    },
    "17.2": {
        "shift_fit_order": None, "ellipse_annulus_inner": (0.3, 0.5), "ellipse_annulus_outer": (0.7, 0.9), "rotation_method": None,
        "pixel_size_std": None,
    },
    "17.3": {
        "correlation_mode": None, "hybrid_n": (0.80, 0.95), "subpixel_upsample": (4, 8), "min_peak_intensity": (0.01, 0.05),
        "max_num_peaks": (20, 50), "probe_sigma": (1.5, 3.0),
    },
    "17.4": {"reference_region": None, "strain_fit_weight": None, "max_strain": (0.05, 0.10), "coordinate_system": None},
    "17.5": {
        "rdf_q_max": (1.2, 1.6), "rdf_bandpass_low": (0.15, 0.25), "rdf_bandpass_high": (0.7, 0.9), "fem_probe_size": None,
        "fem_statistics": None,
    },
    "17.6": {
        "dpc_lowpass_lambda1": (1e-4, 1e-2), "dpc_highpass_lambda2": (1e-8, 1e-4), "dpc_padding_factor": (2, 4),
        "dpc_max_iterations": (10, 25), "ptycho_overlap_threshold": None,
    },
}  # fmt: skip
NO_SETTING = {"counting_lower_thresh", "counting_upper_thresh", "pixel_size_std", "fem_probe_size", "ptycho_overlap_threshold"}
LETTERS = [*"1234", *"ABCDEFGHIJKLMNOPQRST", "T2", *"UVW"]


@pytest.mark.parametrize("table", ROWS)
def test_each_parameter_of_a_table_is_a_setting_with_its_range_or_says_why_not(table):
    rules = {name: rule for name, _, rule in Recipe().values()}
    listed = {one.name: one for one in PARAMETERS if one.table == table}
    assert listed.keys() == ROWS[table].keys()
    for name, span in ROWS[table].items():
        found = listed[name]
        assert bool(found.settings) == (name not in NO_SETTING) == (not found.instead), name
        assert all(setting in rules for setting in found.settings), found.settings
        if span is not None:
            assert span in [rules[setting].guide for setting in found.settings], name
        for setting in found.settings:
            if not setting.startswith("calibration."):  # a field of the calibration says how it is given, not how to tune it
                assert rules[setting].tune and (rules[setting].table in (table, "") or len(parameters_of(setting)) > 1), setting


def test_each_setting_with_a_table_is_one_of_the_guides_parameters():
    named = {setting for one in PARAMETERS for setting in one.settings} | {"analysis.scenario"}
    assert {name for name, _, rule in Recipe().values() if rule.table} <= named


def test_ranges_are_advice_for_values_that_the_user_set():
    assert recipe(ellipse__inner=0.2, ellipse__outer=0.8).advice() == ["ellipse.inner = 0.2 is outside the recommended 0.3 – 0.5"]
    assert recipe(probe__gaussian_width=4).advice() == ["probe.gaussian_width = 4 is outside the recommended 1.5 – 3"]


def test_explain_says_the_table_and_how_to_tune():
    text = " ".join(explain(Recipe(), "bragg.power").split())
    assert "Recommended: 0.8 – 0.95 (guide, table 17.3)." in text and "How to tune: 0.85 is a good start." in text
    text = " ".join(explain(Recipe(), "bragg.power", {"bragg.power": "measured so"}).split())
    assert text.endswith("Your scan: measured so.")


def test_all_letters_of_the_guide_and_all_stages_of_a_run_are_in_the_table():
    assert [one.letter for one in GUIDE_STAGES] == LETTERS
    found = stages_by_letter()
    assert {name for names in found.values() for name in names} == {stage.name for stage in known_stages()}
    assert all(found[one.letter] or one.beside for one in GUIDE_STAGES), "each has something that does its work"
    assert found["F"] == ("trial", "origin") and found["T2"] == ("magnetic",) and found["C"] == ()
    text = stages_text()
    assert all(f"\n{one.letter:<3} {one.name}" in "\n" + text for one in GUIDE_STAGES)


def test_the_command_line_has_the_same_words():
    from gpu4d.workflow.advising import PURPOSES

    assert cli_flags.SCENARIOS == NAMES == ("noisy", "overlapping", "mixed", "thick", "large-fov", "unknown")
    assert cli_recipe.PURPOSES == (*PURPOSES, "auto")


WANTED = {  # scenario: the guide's adjustments as settings, and words of those that are no setting
    "noisy": ({"bragg.power": 1.0, "input.bin_scan": 2}, ["significance", "count_scan"]),
    "overlapping": ({"bragg.power": 0.80}, ["patterned probe", "bragg.max_peaks stays"]),
    "mixed": ({"fem.statistics": "median", "fem.crystallites": True, "classification.on": True}, []),
    "thick": ({}, ["pseudo-DPC", "phase object"]),
    "large-fov": ({"origin.fit": "quadratic", "drift.jitter": True}, ["drift.second"]),
    "unknown": ({"strain.reference": "auto"}, ["X-ray", "Bragg vector map"]),
}


@pytest.mark.parametrize("name", WANTED)
def test_each_adjustment_of_a_scenario_is_a_setting_or_a_warning_of_the_run(name):
    settings, words = WANTED[name]
    made = recipe(analysis__scenario=[name])
    values = {setting: value for setting, value, _ in made.values()}
    assert {setting: values[setting] for setting in made.given if setting != "analysis.scenario"} == settings
    assert all(made.given[setting] == f"scenario {name}" for setting in settings) and made.advice() == []
    said = warnings_of([name])
    assert len(said) == len(words) and all(word in line for word, line in zip(words, said))
    assert len(BY_NAME[name].adjustments) == len(settings) + len(words)


def test_what_the_user_sets_counts_before_and_after_a_scenario():
    first = recipe(bragg__power=0.9, analysis__scenario=["noisy"])
    last = recipe(analysis__scenario=["noisy"], bragg__power=0.9)
    assert first.bragg.power == last.bragg.power == 0.9 and first.input.bin_scan == last.input.bin_scan == 2
    both = recipe(analysis__scenario=["overlapping", "noisy"])
    assert both.bragg.power == 0.80 and both.given["bragg.power"] == "scenario overlapping" and both.input.bin_scan == 2
    both.set("analysis.scenario", "large-fov")
    assert both.bragg.power == 0.85 and both.input.bin_scan == 1 and both.origin.fit == "quadratic"
    text = 'analysis.scenario = "noisy"\nbragg.power = 0.7'
    assert Recipe.from_toml(text).advice() == ["bragg.power = 0.7 is outside the recommended 0.8 – 0.95"]
    assert [one.setting for _, one in adjustments_of(["noisy", "overlapping"])].count("bragg.power") == 1


def test_a_run_says_what_a_scenario_changed_and_what_it_cannot():
    scan = gpu4d.simulate.phase_object_scan((8, 8), (32, 32), r_pixel=0.4, dose=1e4, seed=1)
    record = analyse(scan.cube, recipe(analysis__technique="images", analysis__scenario=["unknown"], strain__reference="mean")).record
    (said,) = [one for one in record.decisions if one.what.startswith("Scenario")]
    assert "no setting changed" in said.what and SCENARIOS[5].title in said.why
    assert sum(line.startswith("scenario unknown: ") for line in record.warnings) == 2
