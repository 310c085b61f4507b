"""
Correlation of a pattern with a disk, by its power
==================================================

Power 1 is the cross-correlation. It is smooth, and linear in the counts. Smaller powers sharpen the maxima, but also amplify noise. gpu4d
finds disks at 0.85, and refines their positions at 1.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.bragg_scan((1, 1), (96, 96), radius=6.0, spacing=20.0, dose=30.0, seed=1)
template = gpu4d.probe.template(scan.probe)

maps = []
for power in (1.0, 0.85, 0.25):
    found = gpu4d.hybrid_correlation(scan.cube.source.array[0, 0], template, power)
    maps.append(np.clip(found / found.max(), 0, None))
picture = gpu4d.plot.image(np.concatenate(maps, axis=1), "Correlation at powers 1, 0.85 and 0.25", units="of the maximum", cmap="magma")
