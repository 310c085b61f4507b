"""Scans as arrays of Dask, in and out."""

import sys

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.interop.dask import DaskSource
from gpu4d.testing.sources import SourceTests


@pytest.fixture
def da(need):
    return need("dask.array")


def patterns(dtype="uint16"):
    return np.random.default_rng(4).poisson(5.0, (7, 10, 12, 14)).astype(dtype)


class TestDaskSource(SourceTests):
    """What every source must do, for chunks that cut scan and detector."""

    def make(self, tmp_path):
        import dask.array

        return DaskSource(dask.array.from_array(patterns(), chunks=(3, 4, 12, 7))), patterns()


def test_a_sweep_reads_chunks_along_their_borders_and_computes_each_once(da):
    computed, data = [], patterns()

    def seen(block, block_info=None):
        computed.append(block_info[0]["chunk-location"])
        return block

    array = da.from_array(data, chunks=(2, 10, 12, 14)).map_blocks(seen, dtype=data.dtype, meta=np.empty((0,) * 4, data.dtype))
    cube = gpu4d.interop.from_dask(array, gpu4d.Calibration(q_pixel=0.02), name="lazy")
    assert (cube.shape, cube.dtype, cube.source.blocks, cube.name) == (data.shape, data.dtype, (2, 10), "lazy") and not computed
    asked = {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "disks": gpu4d.BraggDisks(gpu4d.probe.synthetic((12, 14), 2.0))}
    found, alone = gpu4d.sweep(cube, asked, device="cpu"), gpu4d.sweep(gpu4d.DataCube(data, cube.calibration), asked, device="cpu")
    assert np.array_equal(found["mean"], alone["mean"]) and np.array_equal(found["com"], alone["com"], equal_nan=True)
    assert np.array_equal(found["disks"].flat("qx"), alone["disks"].flat("qx"))
    assert sorted(computed) == [(i, 0, 0, 0) for i in range(4)]
    assert np.array_equal(np.asarray(cube[5, 3]), data[5, 3])


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">u2", "int32", "float32", "float64"])
def test_every_type_of_pixel_in_this_machines_byte_order(da, dtype):
    data = patterns(dtype)
    cube = gpu4d.interop.from_dask(da.from_array(data, chunks=(4, 5, -1, -1)))
    assert np.dtype(cube.dtype).isnative and np.array_equal(np.asarray(cube), data)


def test_a_scan_goes_out_lazily_and_comes_back_as_it_was(da, tmp_path):
    np.save(tmp_path / "scan.npy", patterns())
    cube = gpu4d.open(tmp_path / "scan.npy")
    array = gpu4d.interop.to_dask(cube)
    assert isinstance(array, da.Array) and array.shape == cube.shape and array.dtype == cube.dtype
    assert int(array[2:5, ::3].sum().compute()) == int(patterns()[2:5, ::3].sum(dtype=np.int64))
    half = gpu4d.interop.from_dask(array)
    assert gpu4d.interop.to_dask(half) is array, "nothing is wrapped twice"
    smaller = gpu4d.interop.to_dask(half.crop(rx=(1, 4)).bin(detector=2))
    assert np.array_equal(smaller.compute(), patterns()[1:4].reshape(3, 10, 6, 2, 7, 2).sum((3, 5)))


def test_a_lazy_scan_is_swept_on_workers_without_a_deadlock(da, need):
    """The one thread of a worker reads chunks that a sweep needs, which Dask's own schedulers would wait for."""
    distributed, data = need("distributed"), patterns()
    with distributed.LocalCluster(n_workers=1, processes=False, threads_per_worker=1, dashboard_address=":0") as workers:
        with workers.get_client() as client:
            cube = gpu4d.interop.from_dask(da.from_array(data, chunks=(2, 5, -1, -1)) + 1)
            found = gpu4d.sweep(cube, gpu4d.MaxPattern(), client=client)
            there = gpu4d.interop.to_dask(gpu4d.DataCube(data)).max((0, 1)).compute()
            with pytest.raises(InputError, match="persisted on a cluster"):
                gpu4d.interop.from_dask(client.persist(da.ones((2, 2, 4, 4))))
    assert np.array_equal(found, data.max((0, 1)) + 1) and np.array_equal(there, data.max((0, 1)))


def test_what_is_no_scan_is_refused_in_one_line(da, monkeypatch):
    unknown = da.ones((5, 2, 3, 4))
    for given, words in (
        (np.ones((2, 2, 4, 4)), r"array is a ndarray: need an array of Dask; gpu4d.DataCube\(array\) takes arrays in memory"),
        (da.ones((2, 4, 4)), r"the array is \(2, 4, 4\), need \(Rx, Ry, Qx, Qy\)"),
        (da.ones((2, 2, 4, 4), dtype="complex64"), "the array holds complex64"),
        (unknown[unknown[:, 0, 0, 0] > 0], r"chunks of unknown size: call array.compute_chunk_sizes\(\)"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            gpu4d.interop.from_dask(given)
        assert "\n" not in str(caught.value)
    masked = da.ma.masked_equal(da.from_array(patterns(), chunks=(4, 4, -1, -1)), 3)
    with pytest.raises(InputError, match="masked values, whose mask would be lost"):
        gpu4d.sweep(gpu4d.interop.from_dask(masked), gpu4d.MeanPattern())
    for wrong, words in (
        (lambda block: block[:1], r"came as \(\d+, .*\) float64, and it promised"),
        (lambda block: block.astype("complex64"), "complex64, and it promised"),
    ):
        with pytest.raises(InputError, match=words):
            gpu4d.sweep(gpu4d.interop.from_dask(da.ones((4, 2, 4, 4)).map_blocks(wrong, dtype="float64")), gpu4d.MeanPattern())
    with pytest.raises(InputError, match="calibration is a dict"):
        gpu4d.interop.from_dask(unknown, {"q_pixel": 0.02})
    with pytest.raises(InputError, match="cube is a ndarray"):
        gpu4d.interop.to_dask(np.ones((2, 2, 4, 4)))
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(InputError, match=r"to_dask needs Dask beside gpu4d: pip install 'gpu4d\[interop\]'"):
        gpu4d.interop.to_dask(gpu4d.DataCube(np.ones((2, 2, 4, 4))))
