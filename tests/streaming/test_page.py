"""The examples of docs/explanation/streaming.md run in order, and do what the page says."""

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.testing.accounting import AccountingProcessor

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "streaming.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the examples leave, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("page")
    data = np.random.default_rng(5).poisson(4.0, (20, 12, 48, 40)).astype("uint16")
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("scan", data=data, chunks=(1, 4, 48, 40), compression="gzip")
    names = {"__name__": "streaming_page", "data": data}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
            exec(compile(block, PAGE.name, "exec"), names)
    return names, folder


def test_the_reduction_of_the_page_is_a_variance(page):
    names, _ = page
    flat = names["data"].astype(np.float64).reshape(-1, 48, 40)
    np.testing.assert_allclose(names["found"]["variance"], flat.var(0), rtol=1e-12)
    np.testing.assert_allclose(np.asarray(names["found"]["mean"]), flat.mean(0), rtol=1e-15)


def test_it_keeps_what_the_page_promises(page, monkeypatch):
    """A memory that is kept, the same bits through less of it, on a device that runs out of it, and without the patterns with a NaN."""
    names, folder = page
    data = names["data"].astype("float32")
    data[3, 4, 5, 6] = np.nan
    np.save(folder / "nan.npy", data)
    cube, variance = gpu4d.open(folder / "nan.npy"), names["PatternVariance"]
    want = gpu4d.sweep(cube, variance())
    least = gpu4d.streaming.plan(cube, {"variance": variance()}, device=AccountingProcessor(), memory="1 GB").bytes
    device = AccountingProcessor(failures=[("compute", 1), ("pinned", 2), ("compute", 4)])
    got = gpu4d.sweep(cube, variance(), device=device, memory=least)
    assert got.tobytes() == want.tobytes()
    assert device.peak <= least and not device.leaks()
    good = np.isfinite(data).all((2, 3))
    np.testing.assert_allclose(want, data[good].astype(np.float64).var(0), rtol=1e-12)


def test_it_can_be_merged(page):
    """Two halves of a scan, each seen by a reduction of its own."""
    names, _ = page
    from gpu4d.streaming.plan import scan_info

    cube, parts = gpu4d.DataCube(names["data"]), [names["PatternVariance"]() for _ in range(2)]
    scan, _ = scan_info(cube)
    for part in parts:
        part.start(scan, "cpu")
    for block in range(scan.blocks):
        for row in range(scan.block_rows[block], scan.block_rows[block + 1]):
            positions = np.stack([np.full(12, row), np.arange(12)], axis=1)
            parts[block % 2].update(names["data"][row], positions)
    parts[0].merge(parts[1].state())
    np.testing.assert_allclose(parts[0].finish(), names["data"].astype(np.float64).var((0, 1)), rtol=1e-12)


def test_the_64_gb_of_the_page_take_the_time_of_the_disk(page):
    names, folder = page
    device, scan = names["device"], names["scan"]
    assert scan.nbytes > 64e9 and device.counts["bytes copied"] == scan.nbytes
    assert 1 <= device.over / names["alone"] < 1.002, "the page says 1.0003"
    assert device.peak <= 256e6 and device.pinned_peak <= 256e6 and not device.leaks()
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    tracks = {e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert {"passes", "read 0", "accounting:0 copy", "accounting:0 compute"} <= tracks


def test_the_drawing_is_there():
    import xml.etree.ElementTree as xml

    assert "(streaming.svg)" in PAGE.read_text(encoding="utf-8")
    assert xml.parse(PAGE.with_name("streaming.svg")).getroot().tag.endswith("svg")
