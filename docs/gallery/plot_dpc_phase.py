"""
Phase by DPC
============

The specimen has atoms of two elements and a vacancy. The deflections of the beam are integrated to the phase of the electrons.
"""

import gpu4d

scan = gpu4d.simulate.phase_object_scan((64, 64), (48, 48), r_pixel=0.2, dose=3e5, seed=2)
found = gpu4d.dpc(scan.cube)
print(found.validity)
picture = gpu4d.plot.image(found.phase, "Phase by DPC", cmap="viridis")
