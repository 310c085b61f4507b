"""
Mean and maximum pattern
========================

The mean pattern shows the disks that most positions have. The maximum pattern also shows disks that few positions have. A small grain of
another orientation is seen in the maximum pattern only.
"""

import numpy as np

import gpu4d

foil, grain = (
    gpu4d.simulate.bragg_scan((24, 24), (96, 96), radius=4.0, spacing=19.0, angle=angle, strain=None, descan=0.0, dose=60.0, seed=2)
    for angle in (10.0, 37.0)
)
patterns = foil.cube.source.array.copy()
patterns[4:6, 15:17] = grain.cube.source.array[4:6, 15:17]  # a grain of four positions
cube = gpu4d.DataCube(patterns, foil.cube.calibration)

found = gpu4d.sweep(cube, {"mean": gpu4d.MeanPattern(), "max": gpu4d.MaxPattern()})
both = np.concatenate([np.asarray(found["mean"]) / np.max(found["mean"]), np.asarray(found["max"]) / np.max(found["max"])], axis=1)
picture = gpu4d.plot.diffraction(both, "Mean pattern, and maximum pattern", units="relative")
