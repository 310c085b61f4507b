"""
A strain map with errors
========================

The strain of a foil with a coherent inclusion is measured from Bragg disks. Every component has a standard error at every position.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.bragg_scan((32, 40), (96, 96), radius=5.0, spacing=19.0, strain="inclusion", strain_size=0.02, dose=60.0, seed=4)
cube = scan.cube
cube.calibration.set(rotation=0.0, transpose=False)  # between detector and scan, as `gpu4d.calibrate.rotation` finds it

disks = gpu4d.sweep(cube, gpu4d.BraggDisks(gpu4d.probe.template(scan.probe)).choose(cube))
origin = gpu4d.calibrate.origin(disks, fit="plane")
fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)

# %%
# Strain is relative to a reference: here the first columns, far from the particle.
far = np.zeros((32, 40), bool)
far[:, :4] = True
strain = gpu4d.strain_map(fit, reference=far, calibration=cube.calibration)
off = np.asarray(strain.exx) - (scan.truth["exx"] - np.mean(scan.truth["exx"][far]))
print(f"ε_xx is off by {100 * np.std(off):.3f} %, claimed {100 * np.median(strain.uncertainty[0]):.3f} %")
picture = gpu4d.plot.strain(strain)
