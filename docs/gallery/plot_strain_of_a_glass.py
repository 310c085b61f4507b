"""
Strain of a glass
=================

A glass has no disks, but a diffuse ring. Tension makes the ring smaller along its direction. The ring of every pattern is fitted. The
errors are the smallest that the counts allow.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.amorphous_scan((24, 24), (96, 96), unstrained_rows=4, seed=1)
scan.cube.calibration.set(rotation=0.0, transpose=False)
region = np.zeros((24, 24), bool)
region[:4] = True  # not strained
strain = gpu4d.amorphous_strain(scan.cube, reference=region)
off = np.std(np.asarray(strain.exx) - scan.truth["exx"])
print(f"ε_xx is off by {100 * off:.2f} %, claimed {100 * np.median(strain.uncertainty[0]):.2f} %")
picture = gpu4d.plot.strain(strain, "Strain of a glass")
