"""Draw scans and results with matplotlib. No display is needed.

Every picture has a title, units, a scale bar (in real units if the pixel is calibrated) and marked axes: x is the first axis (down), y
the second (right). matplotlib (extra `app`) is imported with the first picture.

Every function takes `ax=`, the axes to draw into, and returns the axes: one, or an array of them for pictures of several panels, which
takes as many. Without `ax=` it makes a figure, which a notebook shows if it is the last line of a cell. `save` writes a picture.

Examples
--------
>>> import numpy as np
>>> from gpu4d.data.slices import RealSlice
>>> ax = image(RealSlice(np.eye(8), "bf", "counts", 5.0, "Å"))
>>> ax.get_title(loc="left")
'bf'
"""

from gpu4d.plot.canvas import save
from gpu4d.plot.cepstrum import cepstrum
from gpu4d.plot.classes import class_patterns, label_map
from gpu4d.plot.counting import counting_histogram
from gpu4d.plot.detector import bragg_vector_map, diffraction, disks
from gpu4d.plot.drift import drift
from gpu4d.plot.fluctuation import fem
from gpu4d.plot.glasses import pair_distribution, structure_factor
from gpu4d.plot.lattices import lattice_map
from gpu4d.plot.maps import histogram, image, strain
from gpu4d.plot.orientations import orientation_legend, orientation_map
from gpu4d.plot.profiles import convergence, profile
from gpu4d.plot.rings import rings
from gpu4d.plot.shadow import shadow, shadow_points
from gpu4d.plot.spectra import spectrum
from gpu4d.plot.vectors import com, vectors
from gpu4d.plot.waves import wave

__all__ = [
    "bragg_vector_map",
    "cepstrum",
    "class_patterns",
    "com",
    "convergence",
    "counting_histogram",
    "diffraction",
    "disks",
    "drift",
    "fem",
    "histogram",
    "image",
    "label_map",
    "lattice_map",
    "orientation_legend",
    "orientation_map",
    "pair_distribution",
    "profile",
    "rings",
    "save",
    "shadow",
    "shadow_points",
    "spectrum",
    "strain",
    "structure_factor",
    "vectors",
    "wave",
]


def __dir__() -> list[str]:
    return list(__all__)
