"""
Fluctuation microscopy
======================

The rings of a glass fluctuate from position to position. The size of this fluctuation tells over what distances the glass is ordered.
Counting noise is taken out, and every radius has a standard error.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

import gpu4d

rng = np.random.default_rng(2)
r = np.hypot((np.arange(64) - 31.6)[:, None], np.arange(64) - 32.3)
halo = 0.1 + np.exp(-(((r - 17) / 4) ** 2)) + 4 * (r < 2.5)
wave = gaussian_filter(rng.normal(size=(16, 16, 64, 64, 2)), (0, 0, 1.2, 1.2, 0))
light = (wave**2).sum(-1)  # speckle of the size of a disk
light *= np.where(r < 5, light.mean() / light, 1.0) * halo / light.mean()
counts = rng.poisson(light * 3e4 / halo.sum()).astype("uint16")
cube = gpu4d.DataCube(counts, gpu4d.Calibration(origin=(31.6, 32.3), q_pixel=0.025, energy=200e3, semiangle=1.5, r_pixel=20.0))

picture = gpu4d.plot.fem(gpu4d.fem(cube))
