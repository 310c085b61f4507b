"""gpu4d: compute library for 4D-STEM, on a GPU where there is one and on the CPU where there is none, with the same answer.

Axes are (Rx, Ry, Qx, Qy); units Å, 1/Å (g = 1/d), mrad, radians, eV. The conventions are written down in docs/conventions.md.
Names are imported on first use, so that `import gpu4d` costs a fraction of a second and touches no device.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = ("calibrate", "device", "physics", "plot", "preprocess", "probe", "simulate", "streaming")

_NAMES = {
    "BraggDisks": "gpu4d.bragg.find_bragg_disks",
    "Calibration": "gpu4d.data.calibration",
    "CenterOfMass": "gpu4d.imaging.center_of_mass",
    "DataCube": "gpu4d.data.datacube",
    "DiffractionSlice": "gpu4d.data.slices",
    "MaxPattern": "gpu4d.imaging.patterns",
    "MeanPattern": "gpu4d.imaging.patterns",
    "PointList": "gpu4d.data.pointlist",
    "PointListArray": "gpu4d.data.pointlist",
    "RadialProfile": "gpu4d.amorphous.profiles",
    "RealSlice": "gpu4d.data.slices",
    "Template": "gpu4d.probe.template_kernel",
    "VirtualImage": "gpu4d.imaging.image",
    "bragg_vector_map": "gpu4d.bragg.vector_map",
    "center_of_mass": "gpu4d.imaging.center_of_mass",
    "dpc": "gpu4d.deflection.dpc",
    "find_bragg_disks": "gpu4d.bragg.find_bragg_disks",
    "find_lattice": "gpu4d.crystal.find_lattice",
    "fit_lattice": "gpu4d.crystal.fit_lattice",
    "hybrid_correlation": "gpu4d.bragg.hybrid_correlation",
    "open": "gpu4d.io.opening",
    "polar_transform": "gpu4d.amorphous.profiles",
    "radial_profile": "gpu4d.amorphous.profiles",
    "refine_template": "gpu4d.bragg.template_from_scan.refine_template",
    "save": "gpu4d.io.saving",
    "ssb": "gpu4d.ptychography.ssb",
    "strain_map": "gpu4d.crystal.strain",
    "sweep": "gpu4d.streaming.engine",
    "using": "gpu4d.operation",
    "virtual_image": "gpu4d.imaging.image",
}

__all__ = sorted([*_MODULES, *_NAMES, "detectors"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"gpu4d.{name}")
    elif name == "detectors":
        value = importlib.import_module("gpu4d.imaging.detectors")
    elif name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    else:
        raise AttributeError(f"module 'gpu4d' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
