"""
How well a disk can be placed
=============================

The counts set a smallest error, the bound of Cramér and Rao. Ten times the electrons give a third of the error. Measured errors lie on the
bound.
"""

import matplotlib.pyplot as plt
import numpy as np

import gpu4d

electrons = np.array([100, 300, 1000, 3000, 10_000, 30_000])
bound = gpu4d.planning.disk_precision(electrons, 6.0)

template = gpu4d.probe.template(gpu4d.probe.synthetic((48, 48), 6.0))
measured, rng = [], np.random.default_rng(0)
for number in electrons:
    center = rng.uniform(23, 25, (100, 2))
    shape = np.array([gpu4d.simulate.bragg.soft_disk((48, 48), tuple(c), 6.0, 1.0) for c in center])
    counts = rng.poisson(shape * number / shape.sum((1, 2), keepdims=True) + 1e-4).reshape(10, 10, 48, 48)
    disks = gpu4d.find_bragg_disks(counts, template, max_peaks=1)
    found = np.stack([disks.padded()[1][name].reshape(100, -1)[:, 0] for name in ("qx", "qy")], -1)
    measured.append(np.sqrt(np.nanmean((found - center) ** 2)))
for number, most, error in zip(electrons, bound, measured):
    print(f"{number:6d} electrons: {error:.4f} px, bound {most:.4f} px")

_, picture = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
picture.loglog(electrons, bound, label="bound of Cramér and Rao")
picture.loglog(electrons, measured, "o", label="measured")
picture.set(xlabel="electrons in the disk", ylabel="standard error along one axis, px")
picture.legend(frameon=False)
