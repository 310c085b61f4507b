"""
Virtual images from one sweep
=============================

A bright-field and an annular dark-field image are made in the same pass over the scan. The particle has a larger lattice spacing than the
bent foil around it.
"""

import numpy as np

import gpu4d

scan = gpu4d.simulate.bragg_scan((48, 64), (64, 64), radius=4.0, spacing=15.0, strain="inclusion", thickness=0.4, dose=40.0, seed=4)

# %%
# Virtual detectors are given in detector pixels, about the middle of the detector or about `origin=`.
images = gpu4d.sweep(
    scan.cube,
    {
        "bf": gpu4d.VirtualImage(gpu4d.detectors.disk(6.0), origin=(32, 32)),
        "adf": gpu4d.VirtualImage(gpu4d.detectors.annulus(10.0, 30.0), origin=(32, 32)),
    },
    memory="256 MB",
)
print("contrast of the dark field:", round(float(np.std(images["adf"]) / np.mean(images["adf"])), 2))
picture = gpu4d.plot.image(images["adf"], "Annular dark field")
