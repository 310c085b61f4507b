"""
SSB and WDD beside each other
=============================

A strong object at a low dose is reconstructed by both methods. Wigner-distribution deconvolution takes the strength of its filter from the
counts.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.phase_object_scan((48, 48), (40, 40), r_pixel=0.3, strength=1.5, dose=2e4, seed=5)
phases = []
for method in (gpu4d.ssb, gpu4d.wdd):
    phase = np.asarray(method(scan.cube, origin=(20, 20), rotation=0.0).phase)
    phases.append(phase - phase.mean())
    print(method.__name__, "correlation", round(np.corrcoef(phase.ravel(), scan.truth["phase"].ravel())[0, 1], 3))
picture = gpu4d.plot.image(np.concatenate(phases, axis=1), "SSB, and WDD", units="rad", cmap="viridis")
