"""
A large scan with little memory
===============================

The scan is a file of 150 MB. The sweep reads it in steps that fit into 32 MB. The result has the same bits as with more memory.
"""

import tempfile
from pathlib import Path

import numpy as np

import gpu4d

scan = gpu4d.simulate.bragg_scan((24, 24), (128, 128), thickness=0.4, dose=20.0, seed=3)
path = Path(tempfile.mkdtemp()) / "scan.npy"
part = scan.cube.source.array
rows = np.concatenate([part, part[::-1]])
np.save(path, np.concatenate([rows, rows[:, ::-1]] * 2, axis=1))

cube = gpu4d.open(path)  # nothing is loaded
wanted = {"dark": gpu4d.VirtualImage(gpu4d.detectors.annulus(15.0, 60.0), origin=(64, 64)), "com": gpu4d.CenterOfMass()}
little = gpu4d.sweep(cube, wanted, memory="32 MB")
much = gpu4d.sweep(cube, wanted)
print(f"{path.stat().st_size / 1e6:.0f} MB; same bits: {np.array_equal(little['com'], much['com'], equal_nan=True)}")
picture = gpu4d.plot.image(little["dark"], "Annular dark field of a scan that was never loaded")
