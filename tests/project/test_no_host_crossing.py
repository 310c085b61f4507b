"""No public function takes its data through the host, unless it is marked (`gpu4d.on_host`): tried on a device that counts every copy.

The device is CUDA made of host memory; a GPU does not say what was copied. The calls are those of `test_array_arguments.py`, with all data
in CuPy arrays.
"""

import warnings

import gpu_without_gpu
import numpy as np
import pytest
from data_elsewhere import data_moved, moved
from only_dlpack import OnlyDLPack
from project import test_array_arguments as table

import gpu4d
from gpu4d.on_host import why_on_host

RESULTS = {"preprocess.find_nan_pixels": table.MASK.nbytes}  # results that are on the host for every input: a mask of pixels
SMALL = 256  # bytes that any function may copy: numbers of points, checks, a few results
# Arguments that are tables on the host for every function: masks, origins, templates, weights. One may be read twice.
TABLES = {"m", "w", "o", "t", "e", "r", "where", "origin", "mask", "probe", "positions"}
MORE_TABLES = {
    "DataCube": {"a"},  # the call makes a NumPy array of it
    "RealSlice": {"a"},
    "DiffractionSlice": {"a"},
    "Calibration": {"o", "m"},
    "CenterOfMass": {"d"},
    "VirtualImage": {"d", "o"},
    "deflection.CenterOfMassVariance": {"d"},
    "deflection.segmented_center_of_mass": {"p"},  # of a probe
    "deflection.resampled": {"s"},
    "DataCube.corrected": {"m", "d"},
    "detectors.disk": {"c"},
    "detectors.point": {"c"},
    "detectors.bragg_spots": {"p"},
    "data.EventSource": {"n", "p", "c"},  # events of a file
    "ptychography.BrightFieldStack": {"p"},
    "ssb": {"p"},
    "ptychography.SSBLive": {"p", "m"},
    "BraggDisks.at": {"p"},
    "fit_lattice": {"g", "o"},
}
# Functions without an argument of their own in the table there.
MORE_CALLS = {
    "MaxPattern": lambda: table.swept(gpu4d.MaxPattern()),
    "virtual_image": lambda: gpu4d.virtual_image(table.cube(), gpu4d.detectors.annulus(3.0, 8.0)),
}
NOT_TRIED = {"preprocess.CountedElectrons": "count_scan makes it, and gives it patterns of the operation count_electrons"}
ROOMS = ("plot",)  # what is drawn is drawn on the host
# Half a minute each on this device, and marked: what they copy are the parts of their own that are tried on their own.
SLOW = {"refine_template", "preprocess.counting_setup", "fem", "preprocess.background", "preprocess.count_scan", "preprocess.fit_electrons"}
HOST_ALONE = {"live"}  # takes patterns of the host alone, and says so
NAMES = [
    name for name in table.CALLS if name not in HOST_ALONE and name.partition(".")[0] not in ROOMS and " " not in name and name not in SLOW
]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not gpu_without_gpu.active(), reason="counts copies: pytest -p gpu_without_gpu"),
]


def on_device(given):
    """Return the same data in CuPy arrays."""
    import cupy

    return moved(given, cupy.asarray)


@pytest.fixture(scope="module", autouse=True)
def data_on_the_device():
    """The scans and lists that the calls use, in memory of the device."""
    import cupy

    with data_moved(table, cupy.asarray, results=True):
        yield


def marked(name):
    """Why the function of a call is on the host by design, or None."""
    found = gpu4d
    for part in name.split("."):
        found = getattr(found, part)
    return why_on_host(found)


def test_every_row_without_a_mark_is_tried():
    rows = {row.name for row in gpu4d.capabilities().functions if not row.on_host}
    assert rows <= set(table.CALLS) | set(MORE_CALLS) | set(NOT_TRIED)


@pytest.mark.parametrize("name", MORE_CALLS)
def test_a_scan_stays_on_the_device(name):
    with gpu_without_gpu.counting() as seen:
        MORE_CALLS[name]()
    assert seen.download_bytes <= SMALL


@pytest.mark.parametrize("name", NAMES)
def test_what_is_copied_to_the_host(name):
    call = table.CALLS[name]
    tables = {key for key in call.given if key in MORE_TABLES.get(name, TABLES)}
    allowed = SMALL + RESULTS.get(name, 0) + 2 * sum(max(call.given[key].nbytes, 8 * call.given[key].size) for key in tables)
    given = {key: on_device(value) for key, value in call.given.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with gpu_without_gpu.counting() as seen:
            call.function(**given)
    if (why := marked(name)) is None:
        assert seen.download_bytes <= allowed, (
            f"{name} copies {seen.download_bytes} bytes to the host, {allowed} are for its tables: keep the data on the device, or mark it "
            "with gpu4d.on_host"
        )
    else:
        assert seen.download_bytes > 0, f"{name} is marked as computing on the host ({why}), and copies nothing: take the mark away"
        assert seen.download_bytes < 1 << 20


def test_disks_of_counts_are_refined_where_they_are():
    """The fit of the likelihood copies as little; the number of its parameters is chosen from a sample on the host, once."""
    import cupy

    counts = on_device(np.tile(table.RNG.poisson(900 * table.PROBE + 0.1).astype("uint16"), (16, 4, 1, 1)))
    template = gpu4d.probe.template(table.PROBE)
    sample = 16 * counts[0, 0].nbytes  # of so few patterns 16 are looked at
    for parameters, most in ((6, SMALL), ("auto", SMALL + sample)):
        with gpu_without_gpu.counting() as seen:
            found = gpu4d.find_bragg_disks(counts, template, parameters=parameters)
        assert isinstance(found.offsets, cupy.ndarray) and len(found) >= 64
        assert seen.download_bytes <= most, f"{seen.download_bytes} bytes with parameters={parameters}"


@pytest.mark.parametrize("name", ["center_of_mass", "radial_profile", "find_bragg_disks", "preprocess.bin"])
def test_memory_of_a_device_that_is_shown_by_dlpack_is_viewed(name):
    """An array of a library that gpu4d does not know: its results are CuPy arrays, and nothing is copied."""
    import cupy

    call = table.CALLS[name]
    first, *others = call.given
    given = {key: on_device(call.given[key]) for key in call.given}
    given[first] = OnlyDLPack(given[first])
    with gpu_without_gpu.counting() as seen:
        found = call.function(**given)
    found = found.offsets if isinstance(found, gpu4d.PointListArray) else found
    assert isinstance(found, cupy.ndarray)
    assert seen.download_bytes <= SMALL + 2 * sum(8 * call.given[key].size for key in others)
