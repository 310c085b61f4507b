"""One example of every class of results in gpu4d, with parts at random: for tests, and to try what other readers make of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gpu4d.amorphous import AmorphousStrain
from gpu4d.crystal import Strain
from gpu4d.data import (
    BadPixelCorrection,
    Calibration,
    Corrections,
    DataCube,
    Events,
    EventSource,
    FrameCorrection,
    Hits,
    RealSlice,
    Streaks,
)
from gpu4d.data.storable import Storable
from gpu4d.orientation import OrientationLibrary, Orientations
from gpu4d.planning import Acquisition, plan_experiment
from gpu4d.preprocess import Background, ChargeModel, CountedScan, ScanShape, ScanShapes
from gpu4d.probe import FineImage, Template
from gpu4d.structures import STANDARDS, Site, Structure
from gpu4d.testing.results import filled

_EDGE = np.zeros((6, 5), bool)
_EDGE[0] = True
_DARK = np.arange(30.0).reshape(6, 5)
_PLANE = RealSlice(np.arange(12.0).reshape(3, 4), "e", "1", 2.0, "Å")
_STRAIN: dict[str, Any] = {**dict.fromkeys(("exx", "eyy", "exy"), _PLANE), "mask": np.asarray(_PLANE) > 3}
_SITES = (Site("Cu", (0.0, 0.0, 0.0)), Site("Zr", (0.5, 0.5, 0.5), 0.5))


def _structure() -> Structure:
    return Structure("CuZr", (3.32,) * 3 + (90.0,) * 3, "P m -3 m", _SITES, source="a paper")


def _acquisition() -> Acquisition:
    return Acquisition(scan_shape=(5, 6), detector_shape=(64, 64), energy=200e3, semiangle=2.0, electrons=1e4, spacings=(2.0,))


def _counted() -> DataCube:
    offsets, pixels = np.array([0, 2, 3, 3, 7, 8, 9]), np.array([5, 2, 7, 0, 1, 1, 3, 11, 4])
    return DataCube(EventSource(offsets, pixels, (2, 3), (3, 4)), Calibration(r_pixel=3.0), name="counted")


CHECKED: Mapping[str, Callable[[], Storable]] = {  # classes that do not take any value
    "Acquisition": _acquisition,
    "AmorphousStrain": lambda: filled(AmorphousStrain, **_STRAIN),
    "Background": lambda: Background(_DARK, bad_pixels=_EDGE, said=(("dark", "given"),), noise=2.5, edge=_EDGE),
    "BadPixelCorrection": lambda: BadPixelCorrection(_EDGE),
    "ChargeModel": lambda: ChargeModel(0.4, 0.03),
    "Corrections": lambda: Corrections((BadPixelCorrection(_EDGE), FrameCorrection(_DARK))),
    "CountedScan": lambda: filled(CountedScan, cube=_counted()),
    "Events": lambda: Events(np.array([0, 2, 3]), np.array([1, 1, 2]), None, (2, 2)),
    "ExperimentPlan": lambda: plan_experiment(_acquisition()),
    "FineImage": lambda: FineImage(np.outer(np.hanning(41), np.hanning(41)), 0.25),
    "FrameCorrection": lambda: FrameCorrection(_DARK, gain=_DARK + 1, streaks=Streaks(_EDGE, share=0.5), hits=Hits(0.0, _DARK, 200.0)),
    "Hits": lambda: Hits(0.0, _DARK, 200.0),
    "OrientationLibrary": lambda: filled(OrientationLibrary, structure=_structure()),
    "Orientations": lambda: filled(Orientations, structures=(_structure(),)),
    "ScanShape": lambda: ScanShape((5, 6), 2, "end", (0, 1), 0.9, 12.0),
    "ScanShapes": lambda: ScanShapes(30, (ScanShape((5, 6), 0, "start", (0, 0), 0.9, 12.0),), True, "rows agree"),
    "Standard": lambda: STANDARDS["Au"],
    "Strain": lambda: filled(Strain, **_STRAIN, theta=_PLANE, rotation=_PLANE),
    "Streaks": lambda: Streaks(_EDGE, "rows", share=np.linspace(0, 1, 6), clip=9.0),
    "Structure": _structure,
    "Template": lambda: Template(_DARK, (0.1, -0.2), 3.0, probe=_DARK, fine=FineImage(np.eye(5), 0.25)),
}


WITH_STRUCTURES = ("Orientations", "OrientationLibrary", "Structure")  # examples that need gemmi


def classes() -> dict[str, type[Storable]]:
    """Return the classes of results that are public names of gpu4d, by name.

    Examples
    --------
    >>> {"Strain", "Disk", "RealSlice", "SSB"} <= set(classes())
    True
    """
    import gpu4d

    found: dict[str, type[Storable]] = {}
    for name in dir(gpu4d):
        thing = getattr(gpu4d, name)
        rooms = [thing] if not inspect.ismodule(thing) else [getattr(thing, n) for n in getattr(thing, "__all__", ())]
        found |= {c.__name__: c for c in rooms if inspect.isclass(c) and issubclass(c, Storable) and c is not Storable}
    return found


def example(name: str) -> Storable:
    """Return an example of the class of a name.

    Examples
    --------
    >>> example("ScanShape").scan_shape
    (5, 6)
    """
    return CHECKED[name]() if name in CHECKED else filled(classes()[name])
