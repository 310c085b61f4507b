"""Read the files of `gpu4d convert` with other programs, and compare with what was converted. Runs where gpu4d is not installed.

``python converted_tasks.py PEER FOLDER`` prints a line for each file. `read_converted.py` makes the folder and starts it.
"""

import os
import sys

import numpy as np


def same(found, expected, what):
    found = np.asarray(found)
    assert found.shape == expected.shape and found.dtype == expected.dtype, f"{what}: {found.shape} {found.dtype}"
    assert np.array_equal(found, expected), f"{what}: other values"


def zarr(folder, expected):
    import zarr

    for name in ("zarr-lz4.zarr", "zarr-zstd.zarr", "zarr-none.zarr", "zarr2.zarr"):
        array = zarr.open(os.path.join(folder, name), mode="r")
        same(array[...], expected, name)
        assert array.attrs["gpu4d_scan"]["calibration"]["energy"] == 200e3
        yield name, f"zarr.Array, chunks {array.chunks}, shards {array.shards}"
    group = zarr.open(os.path.join(folder, "hyperspy.zspy"), mode="r")
    same(group["Experiments/scan/data"][...], expected, "hyperspy.zspy")
    yield "hyperspy.zspy", "zarr.Group"


def hyperspy(folder, expected):
    import hyperspy.api as hs

    for name in ("hyperspy-lz4.hspy", "hyperspy-none.hspy", "hyperspy.zspy"):
        signal = hs.load(os.path.join(folder, name))
        same(signal.data, expected, name)
        axes = signal.axes_manager
        assert [axis.name for axis in axes.navigation_axes] == ["Ry", "Rx"] and [axis.name for axis in axes.signal_axes] == ["Qy", "Qx"]
        assert [axis.scale for axis in axes.signal_axes] == [0.02, 0.02] and axes.signal_axes[0].units == "1/Å"
        assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 200.0
        again = os.path.join(folder, "again-" + name)
        signal.save(again, overwrite=True)  # so that what gpu4d added does not stand in the way
        yield name, f"{type(signal).__name__} {axes.navigation_shape}|{axes.signal_shape}, beam 200 keV, saved again"


def rosettasciio(folder, expected):
    from rsciio.emd import file_reader as emd
    from rsciio.hspy import file_reader

    for name in ("hyperspy-zstd.hspy",):
        found = file_reader(os.path.join(folder, name))
        same(found[0]["data"], expected, name)
        yield name, f"axes {[axis['name'] for axis in found[0]['axes']]}"
    found = emd(os.path.join(folder, "emd-none.h5"))
    same(found[0]["data"], expected, "emd-none.h5")
    yield "emd-none.h5", f"axes {[axis['name'] for axis in found[0]['axes']]}"


def py4DSTEM(folder, expected):
    import hdf5plugin  # noqa: F401  for the compressed ones; py4DSTEM alone reads the one that is not compressed
    import py4DSTEM

    for name in ("emd-lz4.h5", "emd-zstd.h5", "emd-none.h5"):
        cube = py4DSTEM.read(os.path.join(folder, name), datapath="gpu4d/scan")
        same(cube.data, expected, name)
        assert type(cube).__name__ == "DataCube" and cube.calibration.get_Q_pixel_size() == 0.02
        yield name, f"DataCube, Q pixel {cube.calibration.get_Q_pixel_size()} {cube.calibration.get_Q_pixel_units()}"


def emdfile(folder, expected):
    import emdfile
    import hdf5plugin  # noqa: F401
    import py4DSTEM  # noqa: F401  emdfile finds the classes DataCube and Calibration there

    for name in ("emd-lz4.h5", "emd-none.h5"):
        node = emdfile.read(os.path.join(folder, name), emdpath="gpu4d/scan")
        same(node.data, expected, name)
        yield name, type(node).__name__


def LiberTEM(folder, expected):
    import hdf5plugin  # noqa: F401
    import libertem.api as lt

    with lt.Context.make_with("inline") as context:
        files = {
            "emd-lz4.h5": ("hdf5", {"ds_path": "/gpu4d/scan/data"}),
            "emd-none.h5": ("hdf5", {"ds_path": "/gpu4d/scan/data"}),
            "plain.npy": ("npy", {}),
            "plain.raw": ("raw", {"dtype": "<u2", "nav_shape": expected.shape[:2], "sig_shape": expected.shape[2:]}),
        }
        for name, (kind, options) in files.items():
            dataset = context.load(kind, path=os.path.join(folder, name), **options)
            pick = context.create_pick_analysis(dataset, x=4, y=2)
            assert tuple(dataset.shape) == expected.shape, dataset.shape
            assert np.array_equal(context.run(pick).intensity.raw_data, expected[2, 4]), name
            total = context.run(context.create_sum_analysis(dataset)).intensity.raw_data
            assert np.array_equal(total, expected.sum((0, 1))), name
            yield name, f"{type(dataset).__name__}: one pattern and the sum"


if __name__ == "__main__":
    peer, place = sys.argv[1:]
    for file, words in globals()[peer](place, np.load(os.path.join(place, "expected.npy"))):
        print(f"{file}: {words}", flush=True)
