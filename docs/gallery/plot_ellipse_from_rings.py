"""
Ellipse and pixel size from rings
=================================

The rings of polycrystalline gold give the pixel size and the ellipse of the detector.
"""

import numpy as np

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_rings

# %%
# These rings stand for the sum of a scan of a standard. They are stretched by 3 % along 25°.
x, y = np.indices((160, 160)) - 79.2
v = np.stack([x, y], axis=-1) @ ellipse_matrix((1.03, 1.0, np.radians(25))).T
r = np.hypot(v[..., 0], v[..., 1])
g = np.sqrt([3, 4, 8, 11, 12, 16]) / 4.0786  # 1/Å, of gold
pattern = np.random.default_rng(0).poisson(5 + sum(100 * np.exp(-(((r - radius) / 1.5) ** 2)) for radius in g / 0.0145))

found = fit_rings(pattern, "Au")
print(f"a/b = {found.ellipse[0]:.4f} ± {found.ellipse_error[0]:.4f}, pixel {found.q_pixel:.6f} ± {found.q_pixel_error:.6f} 1/Å")
picture = gpu4d.plot.rings(pattern, found)
