"""Scans at the edge of what a sweep takes: no positions, one pixel, every dtype."""

import numpy as np
import pytest
from failing_sweeps import Stored, bits, every_reduction, given_back, scan

import gpu4d
from gpu4d.errors import DeviceError, InputError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.testing.accounting import AccountingProcessor

pytestmark = pytest.mark.usefixtures("small_tiles")

EDGES = {
    "one position": ((1, 1, 17, 20), (1, 1)),
    "one pixel": ((5, 6, 1, 1), (1, 1)),
    "one row": ((1, 40, 17, 20), (1, 7)),
    "one column": ((40, 1, 17, 20), (7, 1)),
    "blocks larger than the scan": ((5, 6, 17, 20), (64, 64)),
    "no row": ((0, 6, 17, 20), (1, 1)),
    "no column": ((5, 0, 17, 20), (1, 1)),
    "ragged blocks": ((11, 13, 17, 20), (4, 5)),
}


@pytest.mark.parametrize("shape, blocks", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize("nothing", [False, True])
def test_scans_at_the_edge(shape, blocks, nothing):
    """Of one position, of one pixel, of none: the same from every device, NaN where nothing was seen, NaN patterns alone harmed."""
    data = scan("float32", shape)
    if data.size:
        data[-1, -1] = np.nan
    where = np.zeros(shape[:2], bool) if nothing else None

    def ask():
        return {
            "image": gpu4d.VirtualImage(np.ones(shape[2:], bool)),
            "mean": gpu4d.MeanPattern(),
            "weighted": gpu4d.MeanPattern(weights=np.ones(shape[:2])),
            "max": gpu4d.MaxPattern(),
            "com": gpu4d.CenterOfMass(),
            "stack": BrightFieldStack([0]),
        }

    found = [
        gpu4d.sweep(gpu4d.DataCube(source), ask(), device=device, where=where)
        for source, device in (
            (Stored(data, blocks), "cpu"),
            (data, "cpu"),
            (Stored(data, blocks), AccountingProcessor()),
            (Stored(data, blocks), [AccountingProcessor("accounting:0"), AccountingProcessor("accounting:1")]),
        )
    ]
    assert all(bits(other) == bits(found[0]) for other in found[1:])
    good = np.isfinite(data).all((2, 3)) & (not nothing)
    image, mean = np.asarray(found[0]["image"]), np.asarray(found[0]["mean"])
    assert np.isnan(image[~good]).all() and np.isfinite(image[good]).all()
    if good.any():
        np.testing.assert_allclose(mean, data[good].mean(0, dtype=float), rtol=1e-12)
        np.testing.assert_array_equal(found[0]["max"], data[good].max(0))
    else:
        assert np.isnan(mean).all() and np.isnan(np.asarray(found[0]["max"])).all()


def test_no_reduction_at_all():
    processor = AccountingProcessor()
    assert gpu4d.sweep(gpu4d.DataCube(Stored(scan())), {}, device=processor) == {}
    assert gpu4d.sweep(gpu4d.DataCube(Stored(scan())), {}) == {}
    given_back([processor])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16"])
def test_every_dtype_that_files_may_have(dtype):
    data = scan("float32") > 3 if dtype == "bool" else scan("uint8").astype(dtype)
    ask = lambda: {name: r for name, r in every_reduction().items() if name != "disks"}  # noqa: E731
    found = gpu4d.sweep(gpu4d.DataCube(Stored(data)), ask())
    wanted = gpu4d.sweep(gpu4d.DataCube(Stored(data.astype("float64"))), ask())
    for name in found:
        np.testing.assert_allclose(np.asarray(found[name], float), np.asarray(wanted[name]), rtol=1e-13, atol=1e-12, err_msg=name)


def test_where_results_are_kept():
    """Beside the array by default, on the host where asked; another device than the array's is refused."""
    xp = pytest.importorskip("array_api_strict")
    data = scan("float32", (2, 3, 17, 20))
    ask = lambda: {name: r for name, r in every_reduction(data.shape).items() if name != "stack"}  # noqa: E731
    plain = lambda result: result.flat("qx") if hasattr(result, "offsets") else result.data  # noqa: E731
    for device in (None, xp.Device("device1")):
        cube = gpu4d.DataCube(xp.asarray(data, device=device))
        for keep, library in ((None, "array_api_strict"), ("device", "array_api_strict"), ("host", "numpy")):
            for name, result in gpu4d.sweep(cube, ask(), keep=keep).items():
                found = plain(result)
                assert type(found).__module__.startswith(library), (name, keep)
                if library != "numpy" and device is not None:
                    assert found.device == device, name
        with pytest.raises(DeviceError, match="cuda"):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), device="cuda:0")
    with pytest.raises(InputError, match="keep='elsewhere'"):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), keep="elsewhere")
    for keep in (None, "host", "device"):
        result = gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MeanPattern(), device=AccountingProcessor(), keep=keep)
        assert type(result.data) is np.ndarray
    with pytest.raises(InputError, match="several devices"):
        several = [AccountingProcessor("accounting:0"), AccountingProcessor("accounting:1")]
        gpu4d.sweep(gpu4d.DataCube(Stored(data)), gpu4d.MeanPattern(), device=several, keep="device")
