"""The verdict of a report: counted from gates, warnings and calibration, on records that are made by hand."""

import pytest

from gpu4d import Calibration
from gpu4d.workflow.record import Gate, Record
from gpu4d.workflow.report.verdict import verdict, was_measured


def record(passed=2, look=0, failed=0, warnings=()):
    made = Record()
    for number in range(passed):
        made.gates.append(Gate(f"good {number}", True, "1 px", "below 2 px", "nothing"))
    for number in range(look):
        made.gates.append(Gate(f"doubtful {number}", False, "3 px", "below 2 px", "measure it again"))
    made.gates += [Gate(f"bad {number}", False, "9 px", "below 2 px", "do not use it", failed=True) for number in range(failed)]
    for line in warnings:
        made.warn(line)
    return made


def judged(made, calibration=None, rests_on=None, preview=False, measured=True):
    return verdict(made, calibration or Calibration(), rests_on or {}, preview=preview, measured=measured)


def test_yes_needs_gates_that_were_passed_and_nothing_else():
    found = judged(record())
    assert (found.answer, found.reasons) == ("yes", ())
    assert "2 of 2 checks passed, 0 to look at, 0 failed; 0 warnings" in found.counted


def test_without_any_check_the_answer_is_not_yes():
    found = judged(Record())
    assert found.answer == "with care" and "no check was made" in found.counted and "not checked" in found.reasons[0].text


@pytest.mark.parametrize(
    ("made", "answer", "words"),
    [
        (record(look=1), "with care", ("doubtful 0", "3 px", "below 2 px", "Measure it again.")),
        (record(failed=1), "no", ("bad 0", "9 px", "Do not use it.")),
        (record(warnings=["few disks"]), "with care", ("Few disks.",)),
    ],
)
def test_a_gate_or_a_warning_is_a_reason_in_words(made, answer, words):
    found = judged(made)
    assert found.answer == answer and len(found.reasons) == 1
    for word in words:
        assert word in found.reasons[0].text, found.reasons[0].text


def test_a_preview_and_a_run_without_a_result_are_not_trusted():
    preview = judged(record(warnings=["PREVIEW, not the result: …"]), preview=True)
    assert preview.answer == "no" and len(preview.reasons) == 1, "the warning that says the same is not repeated"
    assert judged(record(), measured=False).answer == "no"


def test_the_heaviest_reasons_come_first_and_are_counted():
    found = judged(record(look=2, failed=1, warnings=["few disks"]))
    assert [r.weight for r in found.reasons] == ["no", "with care", "with care", "with care"]
    assert found.sentence == "No, for 1 reason." and "2 of 5 checks passed, 2 to look at, 1 failed; 1 warning;" in found.counted


def test_only_values_that_results_rest_on_count():
    known = Calibration(energy=200e3, semiangle=3.0, rotation=0.2)
    assert judged(record(), known).answer == "yes", "nothing rests on them"
    found = judged(record(), known, {"rotation": ["strain"], "q_pixel": ["lattice and local fits"]})
    first, second = (r.text for r in found.reasons)
    assert found.answer == "with care" and "2 values of the calibration" in found.counted
    assert "rotation" in first and "was not measured" in first and "strain" in first
    assert "detector pixel is not known" in second and "lattice and local fits" in second


def test_measured_values_are_told_from_nominal_ones():
    """A value is nominal if it was given, stands in a file, or rests on the semi-angle; histories are those that gpu4d writes."""
    for how, measured in {
        "measured: rings of Au": True,
        "5 rings of Au (standard.toml)": True,
        "least curl of the centre of mass; 180° by the sign of the phase": True,
        "shadow images, 180° by Fresnel fringes": True,
        "reflections of Au": True,
        "the brightest ring of this scan": True,
        "given (--rotation)": False,
        "given (rings.toml)": False,
        "set": False,
        "semi-angle 3 mrad over a disk radius of 5.00 px": False,
        "units of the axes in the file": False,
        "tags of DigitalMicrograph": False,
        "header of the blockfile": False,
    }.items():
        calibration = Calibration()
        calibration.set(q_pixel=0.02, how=how)
        assert was_measured(calibration, "q_pixel") == measured, how
    assert not was_measured(Calibration(), "q_pixel")


def test_the_last_entry_counts():
    calibration = Calibration()
    calibration.measured(q_pixel=0.02, how="rings of Au")
    calibration.set(q_pixel=0.03, how="given (--q-pixel)")
    assert not was_measured(calibration, "q_pixel")


def test_what_failed_its_gate_and_is_not_used_does_not_condemn_the_rest():
    """An ellipse that rings cannot tell is not applied: strain and images do not rest on it. A wrong lattice is in the result."""
    made = Record()
    made.measure("ellipse_significance", 7.0, "a/b − 1 = 0.1 ± 0.9 %")
    found = judged(made)
    assert made.gates[0].status == "fail" and found.answer == "with care" and found.reasons[0].text.endswith("It is not used.")
    made.measure("lattice_share", 10.0, "10 % of the disks lie on the lattice")
    assert judged(made).answer == "no"


def test_a_rotation_that_is_not_known_is_one_reason():
    said = "the rotation between scan and detector is not calibrated: components are along the detector's axes"
    found = judged(record(warnings=[said]), Calibration(), {"rotation": ["strain"]})
    assert found.sentence == "With care, for 1 reason." and "0 warnings; 1 value" in found.counted
    assert len(judged(record(warnings=[said])).reasons) == 1, "without a value that rests on it, the warning is the reason"


def test_words_in_place_of_names_of_functions_and_minus_signs():
    made = Record()
    for line in ("fit_aberrations: the sign is not decided", "reconstruct: few sweeps", "origin: a step", "no phase: too few"):
        made.warn(line)
    assert made.warnings == ["aberrations: the sign is not decided", "ptychography: few sweeps", "origin: a step", "no phase: too few"]
    made.figure("Strain", "-2 to +2 %", "e_xx -2.02, at (-1, 3); 5-fold, 2026-12-01, 1e-3, --bin 2, 3-4")
    assert made.figures[0][1:] == ("−2 to +2 %", "e_xx −2.02, at (−1, 3); 5-fold, 2026-12-01, 1e-3, --bin 2, 3-4")
