"""Write a recipe for one purpose: the settings that matter for it, each with what it does, how to tune it, and what the scan suggests."""

from __future__ import annotations

import textwrap
from typing import NamedTuple

from gpu4d._version import __version__
from gpu4d.errors import InputError
from gpu4d.io.toml import literal
from gpu4d.workflow.advising.collect import suggestions
from gpu4d.workflow.advising.from_beam import scan_in_words
from gpu4d.workflow.advising.look import Look
from gpu4d.workflow.advising.suggestion import Suggestion
from gpu4d.workflow.guide.scenarios import BY_NAME, TABLE, adjustments_of
from gpu4d.workflow.recipe import Recipe, default
from gpu4d.workflow.recipe.text import describe, example
from gpu4d.workflow.settings import Rule, SettingValue

WIDTH = 108  # characters of a comment
OPTICS = ("calibration.energy", "calibration.semiangle", "calibration.q_pixel", "calibration.r_pixel")
TURNED = (*OPTICS, "calibration.rotation_degrees")
DISKS = (
    "probe.file", "probe.template", "bragg.power", "bragg.refine", "bragg.min_significance", "bragg.min_relative_intensity",
    "bragg.min_spacing", "bragg.max_peaks", "origin.fit", "origin.method",
)  # fmt: skip
FIELD = ("dpc.descan", "dpc.field_free")


class Purpose(NamedTuple):
    """What a recipe is for.

    Attributes
    ----------
    title : str
    technique : str
        Of `analysis.technique`.
    settings : tuple of str
        Those that matter, "section.key".
    suits : tuple of str
        Decisions of a run that this purpose agrees with, besides `technique`.
    """

    title: str
    technique: str
    settings: tuple[str, ...]
    suits: tuple[str, ...] = ()


PURPOSES = {
    "strain": Purpose(
        "strain from Bragg disks", "bragg",
        ("input.bad_pixels", "input.bin_detector", *TURNED, *DISKS, "ellipse.given", "lattice.fit", "lattice.weights", "strain.method",
         "strain.reference", "strain.axis", "strain.max_strain"),
    ),
    "dpc": Purpose(
        "phase and fields from the centre of mass", "dpc",
        (*TURNED, *FIELD, "dpc.thickness", "dpc.bragg_angle", "dpc.lambda1", "dpc.lambda2", "dpc.boundary", "shadow.images"),
    ),
    "ssb": Purpose(
        "phase by side bands", "ssb",
        (*TURNED, "phase.aberrations", "phase.defocus", "phase.mode", "phase.epsilon", *FIELD, "drift.second"),
        ("dpc",),
    ),
    "amorphous": Purpose(
        "glasses: fluctuations, distances of atoms, strain", "amorphous",
        (*OPTICS, "ellipse.measure", "ellipse.inner", "ellipse.outer", "fem.statistics", "fem.crystallites", "rdf.composition",
         "rdf.fit_to", "rdf.band_low", "rdf.band_high", "amorphous_strain.reference", "amorphous_strain.max_strain"),
    ),
    "magnetic": Purpose(
        "magnetic induction", "magnetic", (*TURNED, "magnetic.second", "magnetic.relation", "magnetic.descan", "magnetic.field_free"),
        ("dpc",),
    ),
    "orientation": Purpose(
        "orientations and phases", "bragg",
        ("input.bad_pixels", *TURNED, "ellipse.given", *DISKS, "orientation.structures", "orientation.thickness",
         "orientation.intensity_error", "orientation.min_disks"),
    ),
}  # fmt: skip
OF_TECHNIQUE = {
    "bragg": ("strain",),
    "dpc": ("dpc", "ssb"),
    "amorphous": ("amorphous",),
    "images": (),
}  # what a run decides -> what is written
GENERAL = ("input.bad_pixels", "input.bin_detector", *TURNED, "images.bf_radius", "images.adf_inner")


def purpose_recipe(purpose: str, look: Look | None = None, recipe: Recipe | None = None, schema: bool = False) -> str:
    """Write a recipe for one purpose as TOML with comments.

    Parameters
    ----------
    purpose : str
        One of `PURPOSES`, or "auto": the settings of what a run decides for the scan.
    look : Look, optional
        The scan. Without it, nothing is said of the data; "auto" needs it.
    recipe : Recipe, optional
        Settings that were given, such as scenarios and values of the calibration. They are written, too.
    schema : bool
        Begin with the line that names the JSON Schema for editors.

    Returns
    -------
    str
        Reading it gives a valid recipe.

    Raises
    ------
    InputError
        No such purpose, or "auto" without a scan.
    """
    given = Recipe() if recipe is None else recipe
    if purpose != "auto" and purpose not in PURPOSES:
        raise InputError(f"--for {purpose}: need one of {', '.join(PURPOSES)}, auto")
    if purpose == "auto" and look is None:
        raise InputError("--for auto needs the scan, which decides: `gpu4d recipe new --for auto SCAN.h5`")
    names = _names(purpose, look, given)
    found = {} if look is None else suggestions(look, names)
    values = {name: _value(name, purpose, given, found.get(name)) for name in names}
    written, sections = Recipe(), []
    for section in written.sections:
        blocks = []
        for key, rule in written.rules(section):
            name = f"{section}.{key}"
            if name not in values:
                continue
            if values[name] is not None:
                written.set(name, values[name], origin="suggested")
            blocks.append(_block(key, rule, values[name], _remarks(name, rule, found.get(name), given)))
        if blocks:
            sections.append(f"[{section}]\n" + "\n".join(blocks))
    written.check()
    return "\n".join([_head(purpose, look, given, schema), *sections])


def _names(purpose: str, look: Look | None, given: Recipe) -> tuple[str, ...]:
    """Return the settings that are written."""
    if purpose == "auto":
        assert look is not None
        kinds = OF_TECHNIQUE.get(look.state["technique"], ())
        names = tuple(dict.fromkeys(name for kind in kinds for name in PURPOSES[kind].settings)) or GENERAL
    else:
        names = PURPOSES[purpose].settings
    return tuple(dict.fromkeys(("analysis.technique", *given.given, *names)))


def _value(name: str, purpose: str, given: Recipe, suggested: Suggestion | None) -> SettingValue:
    """Return the value of a setting: given, of the purpose, suggested, or the default. None for one that stays automatic."""
    section, _, key = name.partition(".")
    if name in given.given:
        return getattr(given[section], key)
    if name == "analysis.technique":
        return None if purpose == "auto" else PURPOSES[purpose].technique
    if suggested is not None and suggested.value is not None:
        return suggested.value
    return default(name)


def _remarks(name: str, rule: Rule, suggested: Suggestion | None, given: Recipe) -> list[str]:
    """Return the sentences about a setting: what it does, how to tune it, why it was set, what the scan suggests."""
    said = [describe(rule)]
    if rule.tune:
        said.append(f"How to tune: {rule.tune}")
    for scenario, one in adjustments_of(given.analysis.scenario):
        if one.setting == name and given.given.get(name, "").startswith("scenario"):
            said.append(f"Scenario {scenario.name}: {one.advice}; {one.why}.")
    if suggested is not None:
        said.append(f"Your scan: {suggested.why}.")
    return said


def _block(key: str, rule: Rule, value: SettingValue, remarks: list[str]) -> str:
    """Write one setting with its comments. One that is not set stands in a comment."""
    lines = [line for remark in remarks for line in textwrap.wrap(remark, WIDTH, initial_indent="# ", subsequent_indent="#   ")]
    lines.append(f"# {key} = {example(rule)}" if value is None else f"{key} = {literal(value)}")
    return "\n".join(lines) + "\n"


def _head(purpose: str, look: Look | None, given: Recipe, schema: bool) -> str:
    """Write what the recipe is for, and of which scan it speaks."""
    title = "what a run decides for the scan" if purpose == "auto" else PURPOSES[purpose].title
    said = [f"A recipe of gpu4d {__version__} for {title}: `gpu4d run SCAN --recipe THIS`. Flags on the command line override it."]
    said.append("It has the settings that matter for this. All others have their defaults (`gpu4d recipe explain`). A setting in a line "
    "that "
                "starts with \"#\" is decided automatically.")  # fmt: skip
    if look is not None:
        said.append(f"Your scan, {look.path.name}: {scan_in_words(look)}.")
        said += [f"Look at this: {line}." for line in look.state.record.warnings]
        if purpose != "auto" and look.state["technique"] not in (PURPOSES[purpose].technique, *PURPOSES[purpose].suits):
            said.append(f"By itself, a run would decide otherwise: {'; '.join(part for part in look.decision if part)}.")
    for name in given.analysis.scenario or ():
        scenario = BY_NAME[name]
        said.append(f"Scenario {name}: {scenario.title} (the guide's table {TABLE}).")
        said += [f"Not a setting: {one.advice}. {one.why[0].upper()}{one.why[1:]}." for one in scenario.adjustments if not one.setting]
    lines = [line for one in said for line in textwrap.wrap(one, WIDTH, initial_indent="# ", subsequent_indent="#   ")]
    return "\n".join([*(["#:schema ./gpu4d-recipe.schema.json"] if schema else []), *lines, ""])
