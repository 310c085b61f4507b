"""
Aberrations from the data
=========================

The side bands of a thin object contain the aberrations of the lens. The aberrations are fitted to the scan, and taken out of the phase.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.phase_object_scan((48, 48), (40, 40), r_pixel=0.3, strength=0.3, defocus=120.0, dose=2e5, seed=1)
found = gpu4d.fit_aberrations(scan.cube, origin=(20, 20), rotation=0.0, coefficients=["C10", "C12"])
print(found)

phases = []
for aberrations in ({}, found.aberrations):
    phase = np.asarray(gpu4d.ssb(scan.cube, origin=(20, 20), rotation=0.0, aberrations=aberrations).phase)
    phases.append(phase - phase.mean())
title = "Phase with the aberrations, and without the fitted ones"
picture = gpu4d.plot.image(np.concatenate(phases, axis=1), title, units="rad", cmap="viridis")
