"""Table of the stages of a run. Each technique has its own file.

A new technique is a file in this folder and a line in `STAGES`. Another package adds its stages by the entry-point group
"gpu4d.stages", whose entries name Stage classes.
"""

from __future__ import annotations

import functools
import importlib
from importlib.metadata import entry_points

from gpu4d.workflow.stage import Stage

GROUP = "gpu4d.stages"  # of entry points
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
    """Return one stage of each class: gpu4d's own in the order of the table, then those of other packages by name."""
    own = [_load(f"{__name__}.{entry}") for entry in STAGES]
    others = [entry.load() for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name)]
    return tuple(kind() for kind in (*own, *others))


def _load(entry: str) -> type[Stage]:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
