"""Show which programs read what `gpu4d convert` writes: zarr-python, HyperSpy, RosettaSciIO, py4DSTEM, emdfile, LiberTEM.

    python -m benchmarks.peers.read_converted [--only zarr] [--python zarr=/path/to/python] [--envs FOLDER]

A simulated scan is converted to every format and codec. Each program reads the files in an environment of its own, which is made if it is
not given, and compares every value, axes and calibration. The command ends with code 0 if all do.
"""

from __future__ import annotations

import argparse
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

import gpu4d
from benchmarks.peers.environments import Environment, SetupError, default_folder, python_of

TASKS = pathlib.Path(__file__).with_name("converted_tasks.py")
READERS = {
    e.name: e
    for e in (
        Environment("zarr", ("zarr>=3",), ("zarr",), TASKS.name),
        Environment("hyperspy", ("hyperspy", "zarr<3", "numcodecs<0.16", "hdf5plugin"), ("hyperspy.api", "zarr"), TASKS.name),
        Environment("rosettasciio", ("rosettasciio[hdf5]", "hdf5plugin"), ("rsciio.hspy", "h5py"), TASKS.name),
        Environment("py4DSTEM", ("py4dstem==0.14.18", "hdf5plugin"), ("py4DSTEM", "hdf5plugin"), TASKS.name),
        Environment("emdfile", ("py4dstem==0.14.18", "hdf5plugin"), ("py4DSTEM", "emdfile", "hdf5plugin"), TASKS.name),
        Environment("LiberTEM", ("libertem==0.16.0", "hdf5plugin"), ("libertem.api", "hdf5plugin"), TASKS.name),
    )
}
FILES = {
    **{f"emd-{codec}.h5": {"codec": codec} for codec in ("lz4", "zstd", "none")},
    **{f"hyperspy-{codec}.hspy": {"codec": codec} for codec in ("lz4", "zstd", "none")},
    **{f"zarr-{codec}.zarr": {"codec": codec} for codec in ("lz4", "zstd", "none")},
    "hyperspy.zspy": {},
    "zarr2.zarr": {"to": "zarr2"},
    "plain.npy": {},
    "plain.raw": {},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=READERS, default=list(READERS), metavar="NAME")
    parser.add_argument("--python", nargs="+", default=[], metavar="NAME=PATH", help="interpreters of environments that exist")
    parser.add_argument("--envs", type=pathlib.Path, default=default_folder(), help="folder of environments that are made")
    options = parser.parse_args()
    given = dict(pair.split("=", 1) for pair in options.python)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        patterns = np.random.default_rng(0).poisson(3, (9, 11, 40, 36)).astype(np.uint16)
        np.save(f"{folder}/expected.npy", patterns)
        known = gpu4d.Calibration(q_pixel=0.02, r_pixel=3.0, energy=200e3, semiangle=2.0)
        cube = gpu4d.DataCube(patterns, known, {"vendor": {"dwell": 1e-3}}, name="scan")
        for name, how in FILES.items():
            gpu4d.convert(cube, f"{folder}/{name}", **how)  # type: ignore[arg-type]  # codec and format alone
        for peer in options.only:
            try:
                python = given.get(peer) or str(python_of(READERS[peer], options.envs))
            except SetupError as error:
                print(f"{peer}: no environment ({error})")
                failed += 1
                continue
            done = subprocess.run([python, "-W", "ignore", str(TASKS), peer, folder], capture_output=True, text=True, check=False)
            print(f"{peer}: {'reads' if done.returncode == 0 else 'FAILS'}")
            print("".join(f"  {line}\n" for line in done.stdout.splitlines()), end="")
            if done.returncode:
                print("".join(f"  {line}\n" for line in done.stderr.splitlines()[-3:]), end="")
                failed += 1
        for again in sorted(pathlib.Path(folder).glob("again-*")):  # saved by HyperSpy: what it may have changed counts
            found = gpu4d.open(again)
            ok = np.array_equal(np.asarray(found), patterns) and "converted" not in found.metadata
            print(f"gpu4d: {'reads' if ok else 'FAILS'} {again.name}, q_pixel {found.calibration.q_pixel}")
            failed += not ok
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
