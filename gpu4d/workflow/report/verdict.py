"""Say whether the results of a run can be trusted, and why: counted from its gates, its warnings and its calibration."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from gpu4d.data.calibration import Calibration
from gpu4d.data.calibration_order import MEASURED
from gpu4d.workflow.gates import BY_KEY
from gpu4d.workflow.record import Gate, Record

YES, CARE, NO = "yes", "with care", "no"
PREVIEW = "PREVIEW, not the result"  # how the warning of a preview begins
WORDS = {
    "q_pixel": "detector pixel",
    "r_pixel": "scan step",
    "rotation": "rotation between detector and scan",
    "ellipse": "ellipse of the detector",
    "energy": "beam energy",
    "semiangle": "convergence semi-angle",
}
NOT_KNOWN = {
    "q_pixel": "angles and spacings are in pixels",
    "r_pixel": "lengths on the specimen are in scan steps",
    "rotation": "directions are those of the detector, and where they lie on the specimen is not known",
    "ellipse": "lengths and angles in the diffraction plane may be wrong by 1 to 3 %",
}
NOT_MEASURED = {
    "q_pixel": "nominal values are wrong by 5 to 10 %, and so are spacings, angles and phases",
    "r_pixel": "if it is wrong, lengths on the specimen are wrong by the same factor",
    "rotation": "if it is wrong, directions are wrong by the same angle",
    "ellipse": "if it is wrong, lengths and angles in the diffraction plane are wrong too",
}
# How a warning begins that says the same as a value of the calibration that is not known.
SAID_TWICE = {"rotation": "the rotation between scan and detector is not calibrated"}
# Words in the history of values that come from data; all others were given, stand in a file, or rest on a nominal semi-angle.
FROM_DATA = ("ring", "reflections of", "Bragg disks", "lattice at", "least curl", "shadow", "Friedel", "of this scan")
NOT_FROM_DATA = ("given", "set", "semi-angle", "units of the axes")  # beginnings


@dataclass(frozen=True)
class Why:
    """One reason of a verdict.

    Attributes
    ----------
    what : str
        "check", "warning", "calibration" or "run".
    weight : str
        What it makes of the answer: "no" or "with care".
    text : str
        One or two sentences.
    """

    what: str
    weight: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """Whether the results can be trusted.

    Attributes
    ----------
    answer : str
        "yes", "with care" or "no": the heaviest weight of the reasons.
    reasons : tuple of Why
        The heaviest first. Empty for "yes".
    counted : str
        What it was counted from, in one sentence.
    """

    answer: str
    reasons: tuple[Why, ...]
    counted: str

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        heavy = sum(reason.weight == self.answer for reason in self.reasons)
        if self.answer == YES:
            return "Yes. Every check was passed, and there is no warning."
        reasons = f"{heavy} {'reason' if heavy == 1 else 'reasons'}"
        return f"No, for {reasons}." if self.answer == NO else f"With care, for {reasons}."


def verdict(record: Record, calibration: Calibration, rests_on: Mapping[str, Collection[str]], *, preview: bool, measured: bool) -> Verdict:
    """Judge a run by what it recorded.

    Parameters
    ----------
    record : Record
        Its gates and warnings count.
    calibration : Calibration
        Its values count if results rest on them: whether each is known, and whether it was measured.
    rests_on : mapping of str to collection of str
        Field of the calibration -> titles of what rests on it.
    preview : bool
        Only a part of the scan was looked at.
    measured : bool
        There is a main result.

    Returns
    -------
    Verdict
        "no" after a gate that failed, of a preview, and without a result. "with care" after a gate to look at, after one that failed
        and whose number was therefore not used, after any warning, and if a value that results rest on is not known or was not
        measured; also if nothing was checked. Else "yes".

    Examples
    --------
    >>> record = Record()
    >>> gate = record.measure("sharpness", 0.1, "0.4 px rms from the lattice, 0.1 of the radius")
    >>> verdict(record, Calibration(), {}, preview=False, measured=True).sentence
    'Yes. Every check was passed, and there is no warning.'
    """
    reasons: list[Why] = []
    if preview:
        line = next((line for line in record.warnings if line.startswith(PREVIEW)), f"{PREVIEW}: run without --preview")
        reasons.append(Why("run", NO, _sentence(line)))
    if not measured:
        reasons.append(Why("run", NO, "There is no main result. The warnings say why."))
    reasons += [_of_gate(gate) for gate in record.gates if gate.status != "pass"]
    values = _of_calibration(calibration, rests_on)
    said = [words for field, words in SAID_TWICE.items() if field in rests_on and getattr(calibration, field) is None]
    said += [PREVIEW] if preview else []
    warnings = [Why("warning", CARE, _sentence(line)) for line in record.warnings if not line.startswith(tuple(said))]
    reasons += warnings
    reasons += values
    if not record.gates:
        reasons.append(Why("run", CARE, "These results were not checked, because no quality gate belongs to them."))
    reasons.sort(key=lambda reason: reason.weight != NO)  # a stable sort: the order inside stays
    answer = YES if not reasons else NO if reasons[0].weight == NO else CARE
    return Verdict(answer, tuple(reasons), _counted(record.gates, len(warnings), len(values)))


def _of_gate(gate: Gate) -> Why:
    """Return the reason that a gate gives: what was measured, what was expected, and what to do."""
    failed, rule = gate.status == "fail", BY_KEY.get(gate.key)
    set_aside = failed and rule is not None and rule.set_aside
    text = f"{gate.name}: {gate.measured}; expected: {gate.expected}. {_sentence(gate.advice)}"
    return Why("check", NO if failed and not set_aside else CARE, f"{text} It is not used." if set_aside else text)


def _of_calibration(calibration: Calibration, rests_on: Mapping[str, Collection[str]]) -> list[Why]:
    """Return a reason for every value that results rest on and that is not known, or was not measured."""
    reasons = []
    how = {entry.field: entry.how for entry in calibration.history}
    for field, titles in rests_on.items():
        word, users = WORDS.get(field, field.replace("_", " ")), _listed(titles)
        if getattr(calibration, field) is None:
            what = NOT_KNOWN.get(field, "")
            text = f"The {word} is not known. It matters for {users}{': ' if what else ''}{what}."
        elif not was_measured(calibration, field):
            said, what = how.get(field, "given"), NOT_MEASURED.get(field, "")
            found = said if said.startswith("given") else f"taken from: {said}"
            text = f"The {word} was not measured, but {found}. It matters for {users}{': ' if what else ''}{what}."
            if field == "q_pixel" and any("lattice" in title for title in titles):
                text += " Strain within a scan does not change."
        else:
            continue
        reasons.append(Why("calibration", CARE, text))
    return reasons


def was_measured(calibration: Calibration, field: str) -> bool:
    """Say whether the value of a field was measured in data: by `gpu4d calibrate`, or in this run.

    A value that was given, that a file states, or that rests on a nominal semi-angle was not.
    """
    how = next((entry.how for entry in reversed(calibration.history) if entry.field == field), "given")
    if how.startswith(MEASURED):
        return True
    return not how.startswith(NOT_FROM_DATA) and any(word in how for word in FROM_DATA)


def _counted(gates: Sequence[Gate], warnings: int, values: int) -> str:
    """Say in one sentence what a verdict was counted from."""
    passed, failed = (sum(gate.status == word for gate in gates) for word in ("pass", "fail"))
    look = len(gates) - passed - failed
    checks = f"{passed} of {len(gates)} {_plural('check', len(gates))} passed" if gates else "no check was made"
    if gates:
        checks += f", {look} to look at, {failed} failed"
    of_values = f"{values} {_plural('value', values)} of the calibration not measured or not known"
    return f"Counted: {checks}; {warnings} {_plural('warning', warnings)}; {of_values}."


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _listed(titles: Collection[str]) -> str:
    *first, last = list(titles) or ["the results"]
    return f"{', '.join(first)} and {last}" if first else last


def _sentence(text: str) -> str:
    """Return a text as a sentence: a capital at its beginning, a full stop at its end."""
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
