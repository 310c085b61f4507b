"""
All disks of a scan in one picture
==================================

The Bragg vector map is a histogram of the positions of all disks, relative to the origin of each pattern. Its sharp maxima are the lattice
of the specimen.
"""

import gpu4d

scan = gpu4d.simulate.bragg_scan((20, 20), (96, 96), radius=5.0, spacing=19.0, strain_size=0.03, seed=3)
disks = gpu4d.find_bragg_disks(scan.cube, gpu4d.probe.template(scan.probe))
origin = gpu4d.calibrate.origin(disks, fit="plane")
lattice = gpu4d.find_lattice(disks, origin)
histogram = gpu4d.bragg_vector_map(disks, scan.cube.detector_shape, origin=origin)
picture = gpu4d.plot.bragg_vector_map(histogram, lattice, (48, 48), "Bragg vector map, and its lattice")
