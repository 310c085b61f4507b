"""
Bragg disks on a pattern
========================

Disks are found by correlation with a template. Their positions are refined to a small part of a pixel, and each has a standard error.
Look at a few patterns like this one before you trust a map.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.bragg_scan((6, 6), (96, 96), radius=5.0, spacing=19.0, dose=40.0, seed=3)
disks = gpu4d.find_bragg_disks(scan.cube, gpu4d.probe.template(scan.probe))

place = (2, 3)
one = disks[place]
true = scan.truth["positions"][place]
off = [np.hypot(*(true - (x, y)).T).min() for x, y in zip(one.qx, one.qy)]
print(f"{len(one.qx)} disks, off by {np.median(off):.3f} px, claimed {np.median(np.hypot(one.sx, one.sy)):.3f} px")

picture = gpu4d.plot.diffraction(scan.cube.source.array[place], "Disks that were found")
picture.plot(one.qy, one.qx, "+", color="#4fd1e5", markersize=11, markeredgewidth=1.5)  # y is to the right
