"""fast-acbf's side of the comparisons: ``python fast_acbf_tasks.py FOLDER`` in its environment, see serve.py. On the CPU."""

import importlib.metadata
import json

import h5py
import numpy as np
import torch
from fast_acbf import BFSolver
from serve import Prepared, serve


def acbf(folder) -> Prepared:
    """Images of the bright-field pixels of an array in memory, their transforms, and the sum with the aberrations taken out."""
    about = json.loads((folder / "scan.json").read_text())
    with h5py.File(folder / "scan.h5") as file:
        patterns = file["data"][()]
    shift = [side // 2 - round(at) for side, at in zip(patterns.shape[2:], about["center"])]  # it takes the disk to be in the middle
    patterns = np.roll(patterns, shift, (2, 3)).astype(np.float32)

    def call():
        solver = BFSolver(
            patterns, max_alpha=about["semiangle"], scan_step_size=about["r_pixel"], dk=about["q_pixel"], wavelength=about["wavelength"],
            aberrations={"C10": -about.get("defocus", 0.0)}, device="cpu", pipeline="speed",
        )  # fmt: skip
        return solver.get_acBF()

    return call, lambda image: {"image": image.cpu().numpy()}


def versions():
    return {"fast-acbf": importlib.metadata.version("fast-acbf"), "torch": torch.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    serve({"acbf": acbf}, versions)
