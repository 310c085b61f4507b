"""
Aligned images of a defocused scan
==================================

Out of focus, every pixel of the bright-field disk gives a shifted image of the specimen. `gpu4d.parallax` aligns these images, adds them,
and finds the defocus.
"""

import gpu4d

optics = {"energy": 300e3, "semiangle": 1.0, "r_pixel": 30.0, "defocus": 5e4}
scan = gpu4d.simulate.phase_object_scan((32, 32), (110, 110), object="particles", strength=0.5, **optics)
aligned = gpu4d.parallax(scan.cube, origin=(55, 55), rotation=0.0, upsample=2)
print(aligned)
picture = gpu4d.plot.image(aligned.image, "Aligned and added, twice the scan's samples")
