"""Our UDFs beside LiberTEM's own in one executor, in LiberTEM's environment: ``python udfs_in_libertem.py FOLDER ROUNDS``, see `udfs.py`.

Both sides take turns. Answers are compared first. Prints one line of JSON: a row for each pair.
"""

import json
import pathlib
import statistics
import sys
import time

import h5py
import libertem.api as lt
import numpy as np
from libertem import masks
from libertem.common.container import MaskContainer
from libertem.executor.inline import InlineJobExecutor
from libertem.udf.base import NoOpUDF
from libertem.udf.com import CoMUDF
from libertem.udf.masks import ApplyMasksUDF

import gpu4d
from gpu4d.interop.libertem import SSBUDF, CenterOfMassUDF, RadialProfileUDF, VirtualImageUDF

FOLDER, ROUNDS = pathlib.Path(sys.argv[1]), int(sys.argv[2])
ABOUT = json.loads((FOLDER / "scan.json").read_text())
CENTER = tuple(ABOUT["center"])
MASKS = np.load(FOLDER / "masks.npy")


def their_masks():
    stack = MASKS.astype(np.float32)
    return ApplyMasksUDF(mask_factories=lambda: stack, mask_count=len(stack), mask_dtype=np.float32, use_sparse=False)


def ring_masks():
    """Rings as LiberTEM would make them for a radial profile: one sparse mask a ring."""
    n = MASKS.shape[1]
    bins = masks.radial_bins(CENTER[1], CENTER[0], n, n, radius=n / 2, n_bins=n // 2, use_sparse=True, dtype=np.float32)
    return ApplyMasksUDF(mask_factories=lambda: bins, mask_count=n // 2, mask_dtype=np.float32, use_sparse=True)


def their_com():
    return CoMUDF.with_params(cy=CENTER[0], cx=CENTER[1])


def our_com():
    return CenterOfMassUDF.with_params(cy=CENTER[0], cx=CENTER[1])


PAIRS = {
    "CoM": (their_com, our_com, ("raw_com", "raw_com"), 2e-4),
    "CoM in a disk": (
        lambda: CoMUDF.with_params(cy=CENTER[0], cx=CENTER[1], r=30),
        lambda: CenterOfMassUDF.with_params(cy=CENTER[0], cx=CENTER[1], r=30),
        ("raw_com", "raw_com"),
        2e-4,
    ),
    "four masks": (their_masks, lambda: VirtualImageUDF(MASKS), ("intensity", "intensity"), 0.0),
    "radial, no answer compared": (ring_masks, lambda: RadialProfileUDF(CENTER, r_max=MASKS.shape[1] / 2), None, None),
    "nothing": (lambda: NoOpUDF(preferred_input_dtype=np.float32), NoOpUDF, None, None),
}


def ssb_pair(frames):
    """SSB_UDF of ptychography40 with its masks made beforehand, and ours."""
    from ptychography40.reconstruction.ssb import SSB_UDF, generate_masks

    geometry = {
        "lamb": ABOUT["wavelength"] * 1e-10, "dpix": ABOUT["r_pixel"] * 1e-10, "semiconv": float(np.arcsin(ABOUT["sine"])),
        "semiconv_pix": ABOUT["radius"], "cy": CENTER[0], "cx": CENTER[1],
    }  # fmt: skip
    stack = generate_masks(reconstruct_shape=frames.shape[:2], mask_shape=frames.shape[2:], dtype="float32", cutoff=1, **geometry)
    container = MaskContainer(mask_factories=lambda: stack, dtype=stack.dtype, use_sparse="scipy.sparse.csr", count=stack.shape[0])
    known = gpu4d.Calibration(
        energy=ABOUT["energy"], semiangle=ABOUT["semiangle"], q_pixel=ABOUT["q_pixel"], r_pixel=ABOUT["r_pixel"], origin=CENTER
    )
    return (
        lambda: SSB_UDF(**geometry, mask_container=container, cutoff=1, dtype=np.float32),
        lambda: SSBUDF(known, mode="exact"),
    )


def side_bands_apart(phase, fourier):
    """How far the side bands of our phase are from the peer's spectrum, of the largest; the scale, which is the dose, is free.

    Without the direct beam, and without frequencies ±1/2, whose side is a matter of choice, on which the two differ.
    """
    n, m = phase.shape
    keep = np.ones((n // 2 + 1, m), bool)
    keep[0, 0], keep[n // 2 if n % 2 == 0 else n :], keep[:, m // 2 if m % 2 == 0 else m : m // 2 + 1] = False, False, False
    ours, theirs = np.fft.fft2(1j * phase)[: n // 2 + 1][keep], fourier[: n // 2 + 1][keep].astype(np.complex128)
    scale = np.vdot(ours, theirs) / np.vdot(ours, ours)
    return float(np.abs(scale * ours - theirs).max() / np.abs(theirs).max())


def run(context, data, udf):
    """Seconds and CPU seconds of one run, with its results looked at, and the results."""
    begun, worked = time.perf_counter(), time.process_time()
    found = context.run_udf(dataset=data, udf=udf)
    for buffer in found.values():
        np.asarray(buffer.data)
    return time.perf_counter() - begun, time.process_time() - worked, found


def row(name, context, where, data, theirs, ours, same=None, limit=None):
    """Times of both in turns, and how far their answers are apart."""
    apart = None
    first = run(context, data, theirs())[2], run(context, data, ours())[2]
    if same is not None:
        a, b = (np.asarray(found[key].data, np.float64) for found, key in zip(first, same))
        apart = float(np.abs(a - b).max())
    elif name == "SSB":
        apart, limit = side_bands_apart(np.asarray(first[1]["phase"].data), np.asarray(first[0]["fourier"].data)), 1e-5
    times = [(*run(context, data, theirs())[:2], *run(context, data, ours())[:2]) for _ in range(ROUNDS)]
    a, a_cpu, b, b_cpu = (statistics.median(column) for column in zip(*times))
    cpu = (a_cpu, b_cpu) if where.startswith("inline") else None
    return {"what": name, "where": where, "theirs": a, "ours": b, "cpu": cpu, "apart": apart, "limit": limit}


def main():
    with h5py.File(FOLDER / "scan.h5") as file:
        frames = file["data"][()]
    rows = []
    inline, default = lt.Context(executor=InlineJobExecutor(inline_threads=1)), lt.Context() if ROUNDS > 2 else None
    for title, context in (("inline, one thread", inline), ("its default cluster", default)):
        if context is None:
            continue
        file = context.load("hdf5", path=str(FOLDER / "scan.h5"), ds_path="data")
        places = {f"{title}, HDF5": file}
        if context is inline:  # arrays cannot be shared with other processes
            memory = context.load("memory", data=frames, sig_dims=2)
            places[f"{title}, memory"] = memory
            rows.append(row("SSB", context, f"{title}, memory", memory, *ssb_pair(frames)))
        for where, data in places.items():
            rows += [row(name, context, where, data, *pair) for name, pair in PAIRS.items()]
    if default is not None:
        default.close()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
