"""
The rotation between scan and detector
======================================

A field that is a gradient has no curl. So the right rotation is the one with the smallest curl of the deflections. A rotation that differs
by 180° has the same curl. The sign of the phase decides between the two, because atoms attract electrons.
"""

import matplotlib.pyplot as plt
import numpy as np

import gpu4d

scan = gpu4d.simulate.phase_object_scan((40, 40), (48, 48), r_pixel=0.3, dose=1e5, rotation=np.radians(25.0), seed=2)
com = np.asarray(gpu4d.center_of_mass(scan.cube))
com = com - com.mean((0, 1))

angles = np.arange(0, 181, 3)
curl = []
for angle in np.radians(angles):
    vx = np.cos(angle) * com[..., 0] - np.sin(angle) * com[..., 1]
    vy = np.sin(angle) * com[..., 0] + np.cos(angle) * com[..., 1]
    curl.append(np.mean((np.gradient(vy, axis=0) - np.gradient(vx, axis=1)) ** 2))

found = gpu4d.dpc(scan.cube)
print(f"found {np.degrees(found.rotation):.1f}°, transposed: {found.transpose}; true 25°")
_, picture = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
picture.plot(angles, np.array(curl) / max(curl))
picture.axvline(np.degrees(found.rotation), linestyle=":", label="found by gpu4d.dpc")
picture.set(xlabel="rotation, degrees", ylabel="mean square of the curl, relative")
picture.legend(frameon=False)
