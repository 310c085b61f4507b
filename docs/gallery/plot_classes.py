"""
Classes of patterns
===================

Two orientations of one crystal are distinguished by their Bragg disks. The number of classes follows from the counts.
"""

import numpy as np

import gpu4d

first, second = (
    gpu4d.simulate.bragg_scan((20, 28), (64, 64), radius=3.5, spacing=15.0, dose=40.0, strain=None, angle=angle, seed=4)
    for angle in (8.0, 40.0)
)
x, y = np.mgrid[:20, :28]
left = y - 13 < 4 * np.sin(x / 3)
patterns = np.where(left[..., None, None], first.cube.source.array, second.cube.source.array)
cube = gpu4d.DataCube(patterns, gpu4d.Calibration(r_pixel=20.0))

template = gpu4d.probe.template(first.probe)
classes = gpu4d.classify(gpu4d.find_bragg_disks(cube, template), cube, template=template)
same = np.mean((np.asarray(classes.label) == np.asarray(classes.label)[0, 0]) == left)
print(f"{100 * same:.1f} % of the positions are in the right class")
picture = gpu4d.plot.label_map(classes.label, [f"{n}: {kind}" for n, kind in enumerate(classes.kinds)], "Two orientations of one crystal")
