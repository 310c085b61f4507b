"""
Phase by single-side-band ptychography
======================================

Where disks overlap, they interfere, and the interference contains the phase. `gpu4d.ssb` computes the phase from the overlaps in one step,
also out of focus.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.phase_object_scan((64, 64), (40, 40), r_pixel=0.3, strength=0.4, defocus=60.0, dose=5e4, seed=3)
found = gpu4d.ssb(scan.cube, origin=(20, 20), rotation=0.0, aberrations={"defocus": 60.0}, epsilon=0.01)
print("correlation with the truth:", round(np.corrcoef(np.ravel(found.phase), scan.truth["phase"].ravel())[0, 1], 3))
picture = gpu4d.plot.image(found.phase, "Phase by SSB, 6 nm out of focus", cmap="viridis")
