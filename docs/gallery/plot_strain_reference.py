"""
What the reference does to a strain map
=======================================

Strain of the same scan is shown against three references. Only the zero of the strain differs. The film covers two thirds of this scan. So
the median lies in the film, and so does the largest region of one lattice, which "auto" takes. Only the named region is the substrate.
"""

import numpy as np

import gpu4d


def film(x, y):
    """A substrate in the first third, and a film on it that is stretched by 2 %."""
    f = np.broadcast_to(np.eye(2), (*x.shape, 2, 2)).copy()
    f[..., 0, 0] += 0.02 / (1 + np.exp(-(x - x.max() / 3)))
    return f


scan = gpu4d.simulate.bragg_scan((36, 20), (80, 80), radius=4.0, spacing=17.0, strain=film, dose=60.0, seed=1)
disks = gpu4d.find_bragg_disks(scan.cube, gpu4d.probe.template(scan.probe))
origin = gpu4d.calibrate.origin(disks, fit="plane")
fit = gpu4d.fit_lattice(disks, gpu4d.find_lattice(disks, origin), origin=origin)

substrate = np.zeros((36, 20), bool)
substrate[:6] = True
maps = [100 * np.asarray(gpu4d.strain_map(fit, reference=one).exx) for one in ("median", "auto", substrate)]
print("film, % against the median, the least strained region, the substrate:", *(f"{m[-6:].mean():.2f}" for m in maps))
picture = gpu4d.plot.image(np.concatenate(maps, axis=1), "ε_xx against median, auto, substrate", units="%", cmap="RdBu_r", symmetric=True)
