"""Shows that emdfile and py4DSTEM read what gpu4d writes: ``python read_results.py OUT/result.h5``.

It runs in an environment of the peers, where gpu4d is not installed and need not be::

    python3.11 -m venv peers
    peers/bin/pip install py4dstem==0.14.18          # brings emdfile 0.0.16 and numpy 1.26
    peers/bin/python benchmarks/peers/read_results.py OUT/result.h5

What it asserts, once through py4DSTEM.read and once through emdfile.read (which finds the classes RealSlice, DataCube …
because py4DSTEM is imported, as it must be for files that py4DSTEM writes):

* the tree of results comes in one call, and does not pull in the raw scan that the file only links to;
* every image equals the numbers in the file, stacks give their planes by label;
* Bragg vectors are a BraggVectors with the points of the file, raw and calibrated, and make a Bragg vector map;
* the calibration is a Calibration with pixel sizes, units, rotation and origin;
* the cube, linked or not, is a DataCube when it is asked for by its path.

It ends with code 0 and a list of what was seen, or with the first assertion that fails.
"""

import argparse
import contextlib
import io
import os
import sys

import emdfile
import h5py
import numpy as np
import py4DSTEM

ROOT = "gpu4d"


def kinds(path):
    """Names of the items under the root, by python_class, as plain HDF5 shows them."""
    with h5py.File(path, "r") as file:
        items = {k: v for k, v in file[ROOT].items() if k != "metadatabundle"}
        return {k: (v.attrs["python_class"], v.attrs["emd_group_type"]) for k, v in items.items()}


def quietly(function, *arguments, **options):
    """The function's result without the progress bars it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments, **options)


def check_images(root, path, found):
    seen = []
    with h5py.File(path, "r") as file:
        for name, (python_class, kind) in found.items():
            if python_class not in ("RealSlice", "DiffractionSlice", "Array") or kind != "array":
                continue
            node, stored = root.tree(name), file[f"{ROOT}/{name}/data"]
            assert type(node).__name__ == python_class, f"{name} came as {type(node).__name__}, is stored as {python_class}"
            np.testing.assert_array_equal(node.data, stored[()], err_msg=name)
            if node.is_stack:
                labels = [label.decode() for label in file[f"{ROOT}/{name}/dim{stored.ndim - 1}"][()]]
                assert list(node.slicelabels) == labels, f"{name}: {list(node.slicelabels)} for {labels}"
                for i, label in enumerate(labels):
                    np.testing.assert_array_equal(node.get_slice(label).data, stored[i], err_msg=f"{name} {label}")
            planes = f" planes {', '.join(node.slicelabels)}" if node.is_stack else ""
            seen.append(f"  {name}: {python_class} {'×'.join(map(str, stored.shape))}{planes}")
    assert seen, "no image in the file"
    return seen


def check_bragg(root, path, found):
    seen = []
    for name, (python_class, _) in found.items():
        if python_class != "BraggVectors":
            continue
        vectors = root.tree(name)
        assert isinstance(vectors, py4DSTEM.BraggVectors), f"{name} came as {type(vectors).__name__}"
        with h5py.File(path, "r") as file:
            stored = file[f"{ROOT}/{name}/_v_uncal/data"][()]
        assert tuple(vectors.Rshape) == stored.shape
        for rx, ry in np.ndindex(stored.shape):
            for field in ("qx", "qy", "intensity"):
                np.testing.assert_array_equal(vectors.raw[rx, ry].data[field], stored[rx, ry][field])
        quietly(vectors.setcal)
        busiest = np.unravel_index(np.argmax([len(p) for p in stored.ravel()]), stored.shape)
        calibrated = vectors.cal[busiest].data
        assert len(calibrated) == len(stored[busiest]) and np.isfinite(calibrated["qx"]).all()
        total = quietly(vectors.histogram, mode="raw").data.sum()
        points = sum(len(p) for p in stored.ravel())
        seen.append(
            f"  {name}: BraggVectors {vectors.Rshape}, detector {vectors.Qshape}, {points} points, fields {stored.flat[0].dtype.names}"
        )
        seen.append(f"  {name}: calibrated by {[k for k, on in vectors.calstate.items() if on]}; vector map of total intensity {total:.6g}")
    return seen


def check_calibration(root, path):
    calibration = root.metadata["calibration"]
    assert isinstance(calibration, py4DSTEM.Calibration), f"the calibration came as {type(calibration).__name__}"
    with h5py.File(path, "r") as file:
        stored = file[f"{ROOT}/metadatabundle/calibration"]
        for key in ("Q_pixel_size", "R_pixel_size"):
            assert calibration[key] == stored[key][()], key
        for key in ("Q_pixel_units", "R_pixel_units"):
            assert calibration[key] == stored[key][()].decode(), key
        for key in ("QR_rotation", "qx0_mean", "qy0_mean", "probe_semiangle"):
            if key in stored:
                assert calibration[key] == stored[key][()], key
    assert calibration.get_Q_pixel_size() == calibration["Q_pixel_size"]
    shown = {k: v for k, v in calibration._params.items() if np.ndim(v) == 0 and not k.startswith("_")}
    return ["  calibration: " + ", ".join(f"{k} {v}" for k, v in shown.items())]


def check_cube(read, path, found):
    seen = []
    for name, (python_class, _) in found.items():
        if python_class != "DataCube":
            continue
        cube = quietly(read, path, f"{ROOT}/{name}")
        assert isinstance(cube, py4DSTEM.DataCube), f"{name} came as {type(cube).__name__}"
        with h5py.File(path, "r") as file:
            stored = file[f"{ROOT}/{name}/data"]
            assert cube.data.shape == stored.shape and cube.data.dtype == stored.dtype
            for rx, ry in {(0, 0), (stored.shape[0] - 1, stored.shape[1] // 2)}:
                np.testing.assert_array_equal(cube.data[rx, ry], stored[rx, ry])
            how = "link to " + ", ".join(s.file_name for s in stored.virtual_sources()) if stored.is_virtual else "data in the file"
            how = f"link to {stored.external[0][0]}" if stored.external else how
        seen.append(f"  {name}: DataCube {'×'.join(map(str, cube.data.shape))} {cube.data.dtype}, {how}")
    return seen


def check(title, read, path):
    found = kinds(path)
    tree = quietly(read, path)
    root = tree if isinstance(tree, emdfile.Root) else tree.root
    linked = {name for name, (_, kind) in found.items() if kind == "custom_array"}
    missing = [name for name in found if name not in linked and name not in root._branch.keys()]
    assert not missing, f"{missing} did not come with the tree"
    came = linked & set(root._branch.keys())
    assert not came, f"the raw scan came with the results: {came}"
    lines = check_images(root, path, found) + check_bragg(root, path, found) + check_calibration(root, path)
    lines += check_cube(read, path, found)
    print(f"{title} reads {os.path.basename(path)}:", *lines, sep="\n")


def main():
    parser = argparse.ArgumentParser(description="Read a result of gpu4d with emdfile and py4DSTEM.")
    parser.add_argument("result", help="OUT/result.h5")
    path = parser.parse_args().result
    check(f"py4DSTEM {py4DSTEM.__version__}", lambda p, node=None: py4DSTEM.read(p, datapath=node), path)
    check(f"emdfile {emdfile.__version__}", lambda p, node=None: emdfile.read(p, emdpath=node), path)


if __name__ == "__main__":
    sys.exit(main())
