"""py4DSTEM's calls without and with our engine, in its environment: ``python accelerated.py SCAN ROWS ROUNDS``, see `accelerate.py`.

The scan has SCAN² positions. Of it, the slow calls of py4DSTEM get ROWS rows. Prints one line of JSON: a row for each call.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import py4DSTEM
from py4DSTEM.process.phase import DPC

import gpu4d
from gpu4d.interop import py4dstem as interop

SCAN, ROWS, ROUNDS = map(int, sys.argv[1:4])
RULES: dict[str, Any] = {
    "sigma_cc": 2, "upsample_factor": 16, "minRelativeIntensity": 0.02, "minPeakSpacing": 12, "edgeBoundary": 6, "maxNumPeaks": 70,
}  # fmt: skip
MADE = gpu4d.simulate.bragg_scan((SCAN, SCAN), (128, 128), seed=1)  # 21 disks of 6 px, 100 electrons per pixel, uint16
PATTERNS = np.asarray(MADE.cube.source.read(slice(0, SCAN), slice(0, SCAN)))
KERNEL = py4DSTEM.Probe(MADE.probe).get_kernel(mode="sigmoid", radii=(6.0, 12.0))


class Pair(NamedTuple):
    """A call of py4DSTEM that is made on `rows` rows of the scan, with either engine."""

    part: str  # of `accelerate`
    prepare: Callable[[np.ndarray], Any]  # not timed
    call: Callable[[Any], Any]
    numbers: Callable[[Any], np.ndarray]  # what is compared
    limit: float
    rows: int = SCAN  # that py4DSTEM gets; ours gets all


def disks(subpixel: str, power: float) -> Pair:
    def call(cube: Any) -> Any:
        return cube.find_Bragg_disks(template=KERNEL, subpixel=subpixel, corrPower=power, **RULES)

    return Pair("disks", lambda patterns: py4DSTEM.DataCube(patterns), call, positions, 1e-3, ROWS)


def positions(vectors: Any) -> np.ndarray:
    """Return the positions of all disks in order. After those of each pattern comes a row with their number, so that it is compared too."""
    lists = [vectors.raw[at].data for at in np.ndindex(*vectors.Rshape)]
    return np.concatenate([np.append(np.stack([x["qx"], x["qy"]], -1), [[1e6, len(x)]], axis=0) for x in lists])


def centres(patterns: np.ndarray) -> Any:
    cube = py4DSTEM.DataCube(patterns)
    for name, size, unit in (("R", 2.0, "A"), ("Q", 0.05, "A^-1")):
        getattr(cube.calibration, f"set_{name}_pixel_size")(size)
        getattr(cube.calibration, f"set_{name}_pixel_units")(unit)
    return DPC(datacube=cube, energy=80e3, verbose=False)


def preprocessed(dpc: Any) -> Any:
    return dpc.preprocess(plot_center_of_mass=False, plot_rotation=False, force_com_rotation=0, force_com_transpose=False)


def lattice(patterns: np.ndarray) -> Any:
    """A strain map whose basis is chosen, of disks that our engine finds."""
    with interop.accelerate("disks"):
        vectors = py4DSTEM.DataCube(patterns).find_Bragg_disks(template=KERNEL, **RULES)
    vectors.calibration.set_origin((64.3, 63.8))
    vectors.setcal(center=True, ellipse=False, pixel=False, rotate=False)
    found = py4DSTEM.StrainMap(braggvectors=vectors)
    found.choose_basis_vectors(
        minSpacing=6, minAbsoluteIntensity=0.01, maxNumPeaks=60, edgeBoundary=4, vis_params={"vmin": 0, "vmax": 0.99}
    )
    found.set_max_peak_spacing(max_peak_spacing=3)
    return found


PAIRS = {
    "disks, multicorr, power 0.85": disks("multicorr", 0.85),
    "disks, multicorr, power 1": disks("multicorr", 1.0),
    "disks, poly, power 0.85": disks("poly", 0.85),
    "virtual image, annulus": Pair(
        "images",
        lambda patterns: py4DSTEM.DataCube(patterns),
        lambda cube: cube.get_virtual_image("annulus", ((64, 64), (20, 50)), verbose=False),
        lambda image: image.data,
        0.0,
    ),
    "DPC.preprocess": Pair("phase", centres, preprocessed, lambda dpc: np.stack([dpc._com_measured_x, dpc._com_measured_y]), 2e-5),
    "StrainMap.fit_basis_vectors": Pair(
        "lattice", lattice, lambda strain: strain.fit_basis_vectors(returncalc=True), lambda found: found[1].data, 1e-9
    ),
}


def compared(what: str, pair: Pair) -> dict[str, Any]:
    """Compare the answers for the same rows, and time both sides in turns, for one pattern."""
    few, many = PATTERNS[: pair.rows], PATTERNS
    expected = pair.numbers(pair.call(pair.prepare(few)))
    with interop.accelerate(pair.part):
        found = pair.numbers(pair.call(pair.prepare(few)))
    apart = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    theirs, ours = [], []
    for _ in range(ROUNDS):
        theirs.append(timed(pair, pair.prepare(few), few.shape[0] * SCAN))
        prepared = pair.prepare(many)
        with interop.accelerate(pair.part):
            ours.append(timed(pair, prepared, SCAN**2))
    middle = [[statistics.median(side[kind] for side in sides) for sides in (theirs, ours)] for kind in (0, 1)]
    return {"what": what, "wall": middle[0], "processor": middle[1], "apart": apart, "limit": pair.limit}


def timed(pair: Pair, prepared: Any, patterns: int) -> tuple[float, float]:
    """Seconds for one pattern, by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    pair.call(prepared)
    return (time.perf_counter() - wall) / patterns, (time.process_time() - processor) / patterns


print(json.dumps([compared(what, pair) for what, pair in PAIRS.items()]))
