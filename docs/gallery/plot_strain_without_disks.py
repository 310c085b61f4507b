"""
Strain where disks overlap
==========================

The power cepstrum of a pattern has maxima at the vectors of the real lattice. The method needs no template and no origin. It works where
disks overlap.
"""

import gpu4d

scan = gpu4d.simulate.bragg_scan((16, 16), (80, 80), radius=4.0, spacing=18.0, dose=80.0, seed=1)
found = gpu4d.crystal.mean_cepstrum(scan.cube)
print("vectors of the lattice, px of the cepstrum:", found.nodes.vectors)
strain = gpu4d.strain_map(gpu4d.crystal.cepstral_lattice(scan.cube))
picture = gpu4d.plot.cepstrum(found)
