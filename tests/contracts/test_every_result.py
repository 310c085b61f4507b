"""Every result that the front door returns comes back from a file as it was, and has names for its axes."""

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest

import gpu4d
from gpu4d.data import BadPixelCorrection, Corrections, Events, FrameCorrection, Hits, Storable, Streaks
from gpu4d.planning import Acquisition
from gpu4d.preprocess import Background, ChargeModel, ScanShape
from gpu4d.probe import FineImage, Template
from gpu4d.structures import Site, Structure
from gpu4d.testing.results import ResultTests, filled

HERE = Path(__file__)


def listed() -> tuple[str, ...]:
    """The table of results beside the table of public functions."""
    tree = ast.parse((HERE.parents[1] / "project" / "test_array_arguments.py").read_text(encoding="utf-8"))
    (names,) = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "RESULTS"]
    return ast.literal_eval(names)


def public() -> dict[str, type]:
    """Classes of the front door and of its rooms."""
    found = {}
    for name in gpu4d.__all__:
        thing = getattr(gpu4d, name)
        names = {name: thing} if inspect.isclass(thing) else {n: getattr(thing, n) for n in getattr(thing, "__all__", ())}
        found |= {n: c for n, c in names.items() if inspect.isclass(c)}
    return found


CLASSES = public()
RESULTS = [
    *listed(),
    *sorted(name for name, c in CLASSES.items() if issubclass(c, Storable) and c is not Storable and name not in listed()),
]
EDGE = np.zeros((6, 5), bool)
EDGE[0] = True
PLANE = gpu4d.RealSlice(np.arange(12.0).reshape(3, 4), "e", "1", 2.0, "Å")
COMPONENTS = dict.fromkeys(("exx", "eyy", "exy", "theta", "rotation"), PLANE) | {"mask": np.asarray(PLANE) > 3}
DARK = np.arange(30.0).reshape(6, 5)
CELL = ((3.32,) * 3 + (90.0,) * 3, "P m -3 m", (Site("Cu", (0.0, 0.0, 0.0)), Site("Zr", (0.5, 0.5, 0.5), 0.5)))
CHECKED = {  # classes that refuse values at random
    "Acquisition": lambda: Acquisition(scan_shape=(5, 6), detector_shape=(64, 64), energy=200e3, semiangle=2.0, spacings=(2.0,)),
    "Background": lambda: Background(DARK, bad_pixels=EDGE, said=(("dark", "given"),), noise=2.5, edge=EDGE),
    "BadPixelCorrection": lambda: BadPixelCorrection(EDGE),
    "ChargeModel": lambda: ChargeModel(0.4, 0.03),
    "Corrections": lambda: Corrections((BadPixelCorrection(EDGE), FrameCorrection(DARK))),
    "Events": lambda: Events(np.array([0, 2, 3]), np.array([1, 1, 2]), None, (2, 2)),
    "ExperimentPlan": lambda: gpu4d.plan_experiment(Acquisition(scan_shape=(5, 6), detector_shape=(64, 64), energy=200e3, semiangle=2.0, electrons=1e4)),
    "FineImage": lambda: FineImage(np.outer(np.hanning(41), np.hanning(41)), 0.25),
    "FrameCorrection": lambda: FrameCorrection(DARK, gain=DARK + 1, streaks=Streaks(EDGE, share=0.5), hits=Hits(0.0, DARK, 200.0)),
    "Hits": lambda: Hits(0.0, DARK, 200.0),
    "OrientationLibrary": lambda: filled(CLASSES["OrientationLibrary"], structure=Structure("CuZr", *CELL)),
    "Orientations": lambda: filled(CLASSES["Orientations"], structures=(Structure("CuZr", *CELL),)),
    "ScanShape": lambda: ScanShape((5, 6), 2, "end", (0, 1), 0.9, 12.0),
    "ScanShapes": lambda: gpu4d.preprocess.ScanShapes(30, (ScanShape((5, 6), 0, "start", (0, 0), 0.9, 12.0),), True, "rows agree"),
    "Standard": lambda: gpu4d.structures.STANDARDS["Au"],
    "Strain": lambda: filled(CLASSES["Strain"], **COMPONENTS),
    "AmorphousStrain": lambda: filled(CLASSES["AmorphousStrain"], **{n: v for n, v in COMPONENTS.items() if n[0] in "em"}),
    "Streaks": lambda: Streaks(EDGE, "rows", share=np.linspace(0, 1, 6), clip=9.0),
    "Structure": lambda: Structure("CuZr", *CELL, source="a paper"),
    "Template": lambda: Template(DARK, (0.1, -0.2), 3.0, probe=DARK, fine=FineImage(np.eye(5), 0.25)),
    "CountedScan": lambda: filled(CLASSES["CountedScan"], cube=events()),
}  # fmt: skip


def events():
    offsets, pixels = np.array([0, 2, 3, 3, 7, 8, 9]), np.array([5, 2, 7, 0, 1, 1, 3, 11, 4])
    return gpu4d.DataCube(gpu4d.data.EventSource(offsets, pixels, (2, 3), (3, 4)), gpu4d.Calibration(r_pixel=3.0), name="counted")


@pytest.mark.parametrize("name", RESULTS)
class TestEveryResult(ResultTests):
    """A class without a round trip, or one that is not listed as a result, fails here."""

    @pytest.fixture(autouse=True)
    def _of_the_table(self, name):
        self.name = name

    def make(self):
        return CHECKED[self.name]() if self.name in CHECKED else filled(CLASSES[self.name])
