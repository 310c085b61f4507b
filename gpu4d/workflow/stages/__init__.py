"""Table of the stages of a run. Each technique has its own file.

A new technique is a file in this folder and a line in `STAGES`. Another package adds its stages by the entry-point group
"gpu4d.stages", whose entries name Stage classes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from typing import Any

from gpu4d.errors import InputError
from gpu4d.extensions import check_class, check_free, extensions
from gpu4d.workflow.gates import BY_KEY, RULES, GateRule
from gpu4d.workflow.stage import Stage

GROUP = "gpu4d.stages"  # of entry points
GENERAL_SECTIONS = ("input", "calibration", "gates", "compute")  # of a recipe, which belong to no stage
STAGES = (  # module: class; stages that are ready together run in this order, and the sections of a recipe have it too
    "technique:Technique",
    "survey:FirstSums",
    "bad_pixels:BadPixels",
    "survey:Sums",
    "corrections:RawFrames",
    "patterns:Patterns",
    "probe:Probe",
    "images:Images",
    "radial:RadialProfiles",
    "trial:TryDisks",
    "calibration:CalibrateDisk",
    "acquisition_checks:AcquisitionChecks",
    "ellipse:Ellipse",
    "disks:Disks",
    "shadow:Shadow",
    "drift:Drift",
    "dpc:DpcErrors",
    "dpc:Dpc",
    "magnetic:Magnetic",
    "aberrations:Aberrations",
    "parallax:ParallaxStage",
    "side_bands:Ssb",
    "side_bands:Wdd",
    "ptychography:Ptychography",
    "origin:BeamOrigin",
    "acquisition_checks:PatternChecks",
    "vector_map:VectorMap",
    "lattice:LatticeFit",
    "dark_field:DarkField",
    "strain:Strain",
    "classification:Classification",
    "glass:FindGlass",
    "fem:Fem",
    "rdf:Rdf",
    "glass_strain:GlassStrain",
    "orientation:Orientation",
    "lattice_checks:LatticeChecks",
)


@functools.cache
def known_stages() -> tuple[Stage, ...]:
    """Return one stage of each class: gpu4d's own in the order of the table, then those of other packages by name.

    A stage of another package that cannot be used is left out, with a warning.
    """
    own = [_load(f"{__name__}.{entry}")() for entry in STAGES]
    names, sections = {one.name for one in own}, {*GENERAL_SECTIONS, *(one.section for one in own if one.settings is not None)}
    made = {result for one in own for result in one.makes}
    gates = set(BY_KEY)

    def accept(entry: str, found: Any, package: str) -> Stage:
        check_class(found, Stage, "a subclass of gpu4d.workflow.Stage")
        if not all(isinstance(getattr(found, word, None), str) for word in ("name", "title")):
            raise InputError(f"{found.__name__} lacks a text: name and title")
        check_free(found.name, names, "stage")
        for result in found.makes:
            check_free(result, made, "result")
        for rule in found.gates:
            if not (isinstance(rule, GateRule) and rule.key.isidentifier()):
                raise InputError(f"{found.__name__}.gates has {rule!r}: need gpu4d.workflow.gates.GateRule, with a key that is a name")
            check_free(rule.key, gates, "gate")
        if found.settings is not None:
            if not (found.section.isidentifier() and dataclasses.is_dataclass(found.settings)):
                raise InputError(f"{found.__name__} has settings and needs both: a section that is a name, and a dataclass")
            check_free(found.section, sections, "section of the recipe")
            settings: Any = found.settings
            settings()  # each has a default
            sections.add(found.section)
        one = found()
        names.add(found.name)
        made.update(found.makes)
        gates.update(rule.key for rule in found.gates)
        return one

    return (*own, *extensions(GROUP, accept))


def known_gates() -> tuple[GateRule, ...]:
    """Return the gates of the table, then those that stages of other packages bring."""
    return (*RULES, *(rule for stage in known_stages() for rule in stage.gates))


def _load(entry: str) -> type[Stage]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
