"""LiberTEM's side of the comparisons, with blobfinder and ptychography40: ``python libertem_tasks.py FOLDER``, see serve.py.

On one thread its inline executor is used; by default its own choice, a cluster of one process for every core.
"""

import atexit
import functools
import importlib.metadata
import json
import os

import h5py
import libertem.api as lt
import numpy as np
from libertem.executor.inline import InlineJobExecutor
from libertem.udf.com import CoMUDF
from libertem.udf.masks import ApplyMasksUDF
from libertem.udf.sum import SumUDF
from serve import Prepared, serve

ONE_THREAD = os.environ["PEER_THREADS"] == "1"


@functools.cache
def context():
    made = inline() if ONE_THREAD else lt.Context()
    atexit.register(made.close)
    return made


def inline():
    """In this process; without the limit it would take a thread for every core, whatever the environment says."""
    return lt.Context(executor=InlineJobExecutor(inline_threads=1 if ONE_THREAD else None))


def one_pass(folder, products, source="file") -> Prepared:
    """Passes over the file: "sum", "masks" and "com" in one call of run_udf.

    With the source "memory" the array is in memory on one thread. The default cluster reads the file, whose pages are in memory: an
    array cannot be shared with its processes.
    """
    about = json.loads((folder / "scan.json").read_text())
    masks = np.load(folder / "masks.npy").astype(np.float32)
    ctx = context()
    if source == "memory" and ONE_THREAD:
        with h5py.File(folder / "scan.h5") as file:
            data = ctx.load("memory", data=file["data"][()], sig_dims=2)
    else:
        data = ctx.load("hdf5", path=str(folder / "scan.h5"), ds_path="data")
    cy, cx = about["center"]
    makers = {
        "sum": lambda: SumUDF(),
        "masks": lambda: ApplyMasksUDF(mask_factories=lambda: masks, mask_count=len(masks), mask_dtype=np.float32, use_sparse=False),
        "com": lambda: CoMUDF.with_params(cy=cy, cx=cx),
    }

    def call():
        return ctx.run_udf(dataset=data, udf=[makers[name]() for name in products])

    def arrays(results):
        found = dict(zip(products, results))
        out = {}
        if "sum" in found:
            out["sum"] = np.asarray(found["sum"]["intensity"].data)
        if "masks" in found:
            out["images"] = np.moveaxis(np.asarray(found["masks"]["intensity"].data), -1, 0)
        if "com" in found:
            out["com"] = np.moveaxis(np.asarray(found["com"]["raw_com"].data), -1, 0)
        return out

    return call, arrays


def bragg(folder, upsample, radius=6.0, pattern="RadialGradient") -> Prepared:
    """blobfinder's correlation around known nodes of the mean lattice, refined; in one frame after another."""
    from libertem_blobfinder.common import patterns
    from libertem_blobfinder.udf.correlation import run_fastcorrelation

    frames = np.load(folder / "bragg_few.npy")
    with np.load(folder / "bragg_truth.npz") as truth:
        nodes = np.rint(truth["positions"].mean((0, 1))).astype(int)
    ctx = context()
    data = ctx.load("memory", data=frames, sig_dims=2)
    ring = {"radius_outer": 1.5 * radius} if pattern == "BackgroundSubtraction" else {}
    matched = getattr(patterns, pattern)(radius=radius, search=radius * 11 / 6, **ring)

    def call():
        return run_fastcorrelation(ctx, data, nodes, matched, upsample=upsample)

    def arrays(found):
        points = np.asarray(found["refineds"].data).reshape(-1, len(nodes), 2)
        return {"points": points.reshape(-1, 2), "starts": np.arange(len(points) + 1) * len(nodes)}

    return call, arrays


def close_disks(folder, scene, pattern) -> Prepared:
    """Disks close to each other: blobfinder's peaks of every frame, refined. Nothing is timed, so the work is done beforehand.

    `get_peaks` takes the number of disks, and is given the true one. A search of 1.5 radii is the nearest to the advice to take less than
    the distance to the next disk: one radius would be the disk alone.
    """
    from libertem_blobfinder.common import patterns
    from libertem_blobfinder.common.correlation import get_peaks
    from libertem_blobfinder.udf.correlation import run_fastcorrelation

    with np.load(folder / scene) as data:
        frames, disks, radius = data["patterns"].astype(np.float32), int(data["disks"]), float(data["radius"])
    options = {"radius_outer": 1.5 * radius} if pattern == "BackgroundSubtraction" else {}
    matched = getattr(patterns, pattern)(radius=radius, search=1.5 * radius, **options)
    ctx, lists = inline(), []
    for frame in frames:
        peaks = get_peaks(frame, matched, disks)
        found = run_fastcorrelation(ctx, ctx.load("memory", data=frame[None, None], sig_dims=2), peaks, matched) if len(peaks) else None
        lists.append(np.zeros((0, 2)) if found is None else np.asarray(found["refineds"].data).reshape(-1, 2))
    return lambda: lists, lambda made: {"points": np.concatenate(made), "starts": np.cumsum([0, *map(len, made)])}


def ssb(folder, dtype="float32") -> Prepared:
    """SSB_UDF with its masks made beforehand, which needs the inline executor; their making is not timed."""
    from libertem.common.container import MaskContainer
    from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks

    about = json.loads((folder / "scan.json").read_text())
    ctx = inline()
    with h5py.File(folder / "scan.h5") as file:
        frames = file["data"][()]
    data = ctx.load("memory", data=frames, sig_dims=2)
    geometry = {
        "lamb": about["wavelength"] * 1e-10, "dpix": about["r_pixel"] * 1e-10, "semiconv": float(np.arcsin(about["sine"])),
        "semiconv_pix": about["radius"], "cy": about["center"][0], "cx": about["center"][1],
    }  # fmt: skip
    stack = generate_masks(reconstruct_shape=frames.shape[:2], mask_shape=frames.shape[2:], dtype=dtype, cutoff=1, **geometry)
    container = MaskContainer(mask_factories=lambda: stack, dtype=stack.dtype, use_sparse="scipy.sparse.csr", count=stack.shape[0])

    def call():
        return ctx.run_udf(dataset=data, udf=SSB_UDF(**geometry, mask_container=container, cutoff=1, dtype=np.dtype(dtype)))

    return call, lambda found: {"transmission": np.asarray(found["fourier"].data)}


def versions():
    names = ("libertem", "libertem-blobfinder", "ptychography40", "numpy")
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


if __name__ == "__main__":
    serve({"one pass": one_pass, "bragg": bragg, "close disks": close_disks, "ssb": ssb}, versions)
