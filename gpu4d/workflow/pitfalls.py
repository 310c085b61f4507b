"""Table of the pitfalls of the guide's section 20: what is checked, what is said, where, and the test that shows it.

`docs/reference/pitfalls.md` has this table, written by `markdown`.
"""

from __future__ import annotations

from dataclasses import dataclass

RUN, REPORT, FILE, PLAN, COMPARE = "run", "report", "file", "gpu4d plan", "gpu4d compare"
SAID = (RUN, REPORT)  # warnings, decisions and gates are printed by the run, and stand in the report
GATE = (RUN, REPORT, FILE)  # gates are in the table of the result file, too


@dataclass(frozen=True)
class Pitfall:
    """One check against a pitfall.

    Attributes
    ----------
    number : int
        Of the pitfall in the guide, 1 to 8.
    key : str
        Name of the check.
    mistake : str
        What goes wrong.
    check : str
        What is compared, and the file that does it.
    message : str
        What is said.
    said : tuple of str
        Where it is said.
    tests : tuple of str
        Tests that show it firing, and silent on data that are right.
    """

    number: int
    key: str
    mistake: str
    check: str
    message: str
    said: tuple[str, ...]
    tests: tuple[str, ...]


STAGES = "gpu4d/workflow/stages"
PITFALLS = (
    Pitfall(
        1, "sign", "g and d are confused: strain has the wrong sign",
        f"strain is compared with the cell of 1/g: `gpu4d/crystal/dilation.py`, `{STAGES}/lattice_checks.py`",
        "gate “Sign of strain”: “where the cell that 1/g gives grows by 1 %, ε_xx + ε_yy grows by 1.001 %”", GATE,
        ("test_1_strain_grows_where_the_disks_move_in", "test_1_a_strain_of_g_instead_of_d_is_named"),
    ),
    Pitfall(
        1, "spacing", "a pixel size in 1/nm, or with 2π, or d given where g belongs",
        f"spacings are compared with those of crystals: `{STAGES}/lattice_checks.py`",
        "gate “Spacings of the lattice”: “d = 1/|g| = 0.32 and 0.32 Å”, “without 2π? 1/nm are ten times as many”", GATE,
        ("test_1_spacings_that_no_crystal_has_are_named",),
    ),
    Pitfall(
        1, "reference", "a reference of lattice constants (d) where lattice vectors on the detector (g) belong",
        "the lattice of the reference must be that of the scan but for a strain: `gpu4d/workflow/strain_reference.py`",
        "“no strain: …”, with both lattices and what is accepted; gate “Reference of the strain”", GATE,
        ("test_1_a_reference_in_real_space_is_refused",),
    ),
    Pitfall(
        1, "sign of another map", "two maps of strain have opposite signs, or exchanged axes",
        "correlations with a truth or another result: `gpu4d/workflow/compare.py`",
        "“the signs are opposite (correlation −0.98): was g taken for d, or is an axis mirrored?”", (COMPARE,),
        ("test_g_taken_for_d_is_named", "test_axes_of_a_truth_whose_x_is_the_column"),
    ),
    Pitfall(
        2, "unmeasured", "calibrations are nominal", f"how each value was found: `{STAGES}/lattice_checks.py`",
        "decision “Calibration not measured: ellipse not known, rotation not known, pixel size as given”", SAID,
        ("test_2_values_that_were_not_measured_are_listed",),
    ),
    Pitfall(
        2, "nominal pixel", "a nominal pixel size", f"with energy and semi-angle, the radius of the disk: `{STAGES}/calibration.py`",
        "“q_pixel is 0.2 1/Å, but energy, semi-angle and the disk's radius give 0.1 1/Å: one of them is wrong”", SAID,
        ("test_a_wrong_pixel_size_is_noticed",),
    ),
    Pitfall(
        2, "pixel and structure", "the same, with a structure", f"the distances of its reflections: `{STAGES}/orientation.py`",
        "gate “Pixel size and structures”: “the reflections of Au give 0.0200 Å⁻¹, −6.5 %”", GATE,
        ("test_a_wrong_structure_or_pixel_size_shows_in_the_gates",),
    ),
    Pitfall(
        2, "ellipse of a lattice", "an elliptical distortion",
        f"a lattice that is square or hexagonal but for a stretch: `{STAGES}/lattice.py`",
        "“an ellipse is visible: the lattice is square but for a stretch of 3.0 ± 0.1 % along 25°”", SAID,
        ("test_without_a_calibration_it_is_named_with_its_size",),
    ),
    Pitfall(
        2, "ellipse of rings", "an elliptical distortion of rings", f"the rings of the scan itself: `{STAGES}/ellipse.py`",
        "gates “Significance of the ellipse”, “Rings on their ellipse”", GATE,
        ("test_rings_of_a_known_crystal_give_ellipse_and_pixel_size", "test_the_halo_of_a_glass"),
    ),
    Pitfall(
        2, "origin", "an origin that moves or jumps", f"residual of the surface, steps and jumps: `{STAGES}/origin.py`",
        "gate “Origin on its surface”, “origin: step at scan row 15”", GATE, ("test_steps_are_found_with_their_size",),
    ),
    Pitfall(
        3, "thick", "DPC of a thick specimen is taken for its potential",
        f"thickness, step, Bragg angle, share of scattered electrons: `gpu4d/deflection/validity.py`, `{STAGES}/dpc.py`",
        "the result is named “pseudo-DPC” on picture, file and report: “thickness 19.9 nm against a depth of field of 58.1 Å (1.7 λ/α²)”",
        GATE, ("test_the_report_of_a_thick_specimen_says_pseudo_dpc", "test_conditions_of_a_potential"),
    ),
    Pitfall(
        4, "axes", "axes of strain that are not named, or not those of the scan",
        "axes are drawn on every map, and a missing rotation is said: `gpu4d/crystal/strain.py`, `gpu4d/plot/maps.py`",
        "“the rotation between scan and detector is not calibrated: components are along the detector's axes”", SAID,
        ("test_4_axes_are_drawn_and_a_missing_rotation_is_named", "test_without_a_rotation_the_strain_says_so"),
    ),
    Pitfall(
        4, "wrong rotation", "a rotation that is calibrated, and wrong",
        "a continuous crystal has no curl of F⁻¹ in the axes of the scan: `gpu4d/crystal/strain_checks.py`",
        "gate “Compatibility of strain”: “0.42 of the gradients of the deformation have a curl”", GATE,
        ("test_a_wrong_rotation_makes_a_curl", "test_a_continuous_crystal_is_compatible"),
    ),
    Pitfall(
        4, "mirror", "a mirrored detector",
        "`transpose` of the calibration is applied once: `gpu4d/orientation/peaks.py`, `gpu4d/crystal/strain.py`", "–", (),
        ("test_a_transposed_scan_with_its_calibration_gives_the_same_orientations",),
    ),
    Pitfall(
        5, "dose", "more dose than is needed", f"errors of fields and induction from the counts: `{STAGES}/dpc.py`, `{STAGES}/magnetic.py`",
        "key figures “Error of the field”, “Magnetic induction B t … ± 1.2 T nm”", SAID,
        ("test_a_map_of_the_induction_from_two_scans",),
    ),
    Pitfall(
        5, "electrons", "a dose so low that patterns are single electrons", f"counts of a pattern: `{STAGES}/acquisition_checks.py`",
        "gate “Electrons per pattern”: “52 counts (median of 4,096 patterns)”", GATE,
        ("test_5_few_electrons_fine_pixels_and_fading_counts_are_named",),
    ),
    Pitfall(
        5, "pixels", "a detector that is larger than the disks need", f"radius of the disk in pixels: `{STAGES}/acquisition_checks.py`",
        "decision “More detector pixels than the disks need: a radius of 30.0 px”, “--bin 2 leaves 15.0 px”", SAID,
        ("test_5_few_electrons_fine_pixels_and_fading_counts_are_named",),
    ),
    Pitfall(
        5, "fading", "damage, contamination or drift of the beam while the scan is recorded",
        f"counts of the first rows and of the last: `{STAGES}/acquisition_checks.py`",
        "gate “Steadiness of the scan”: “counts change by −35 % from the first to the last rows, steadily”", GATE,
        ("test_5_few_electrons_fine_pixels_and_fading_counts_are_named",),
    ),
    Pitfall(
        5, "drift of the pattern", "a beam or a specimen that tilts while the scan is recorded",
        f"where the direct beam is in the first rows and in the last, beyond descan and noise: `gpu4d/beam/row_drift.py`, "
        f"`{STAGES}/acquisition_checks.py`",
        "gate “Steadiness of the pattern”: “the direct beam moves by 27.98 ± 0.28 px from the first rows to the last; the descan along "
        "a row explains 1.34 px”", GATE,
        ("test_5_a_beam_that_moves_with_time_is_named_and_descan_is_not",),
    ),
    Pitfall(
        5, "before the scan", "dose, time and drift are looked at too late", "before the scan: `gpu4d/planning/scan_checks.py`",
        "“time: 4.4 min”; “dose: 312 e/Å² over the square of the step; the specimen bears 100”", (PLAN,),
        ("test_the_time_of_pitfall_5", "test_the_dose_is_judged_where_a_limit_is_given", "test_drift_rate_and_range"),
    ),
    Pitfall(
        6, "phase correlation", "phase correlation for sharper peaks",
        f"powers below 0.5 are compared with 0.85 at the trial positions: `{STAGES}/disks.py`",
        "“bragg.power = 0 is near phase correlation, … it finds 18.5 disks per pattern, 0.85 finds 12.7”", SAID,
        ("test_6_phase_correlation_is_compared_with_the_usual_power", "test_6_the_usual_power_says_nothing"),
    ),
    Pitfall(
        7, "classes", "classes are taken for phases",
        f"the caveat comes with every result, mean patterns with every map: `{STAGES}/classification.py`",
        "decision “Classes are no phases before you have looked at them”", SAID,
        ("test_two_grains_are_two_classes_and_the_guide_is_quoted",),
    ),
    Pitfall(
        7, "orientations", "one phase in two orientations, or brighter and fainter, makes two classes",
        "reflections of the classes, turned against each other: `gpu4d/classification/look_alikes.py`",
        "“classes 0 and 1 show the same reflections, turned by 32.0°: they may be one phase in two orientations”", SAID,
        ("test_7_one_phase_in_two_orientations_is_named", "test_phases_of_other_spacings_are_not"),
    ),
    Pitfall(
        7, "split", "one phase split into several classes by noise",
        "bending, thickness and noise are allowed before parts are classes: `gpu4d/classification/distinct.py`",
        "“one phase may have been split”", SAID,
        ("test_one_crystal_is_one_class_without_a_map", "test_a_number_of_classes_is_taken_and_its_cost_is_said"),
    ),
    Pitfall(
        8, "raw data", "results are kept, and the raw scan is not",
        "where the result's scan is: `gpu4d/workflow/pipeline.py`, `gpu4d/workflow/raw_data.py`",
        "decision “Raw data: a link in result.h5, and not the scan itself”, “keep it, and move both together”; "
        "“the raw scan is lost: the result links to …”",
        (RUN, REPORT, COMPARE), ("test_8_a_result_says_where_its_raw_scan_is_and_when_it_is_lost",),
    ),
)  # fmt: skip


def markdown() -> str:
    """Return the table of docs/reference/pitfalls.md."""
    lines = ["| pitfall of the guide | the check, and where it is | the message | said in | test |", "| --- " * 5 + "|"]
    for one in PITFALLS:
        tests = ", ".join(f"`{name}`" for name in one.tests)
        message = one.message.replace("|", "\\|")
        lines.append(f"| {one.number}. {one.mistake} | {one.check} | {message} | {', '.join(one.said) or '–'} | {tests} |")
    return "\n".join(lines)
