"""A correction of another package: a dark image subtracted, to float32."""

from dataclasses import dataclass

import numpy as np

from gpu4d import arrays
from gpu4d.data.corrections import dtype_like
from gpu4d.device import tables


@dataclass(frozen=True, eq=False)
class Dark:
    """Subtract the mean of frames without a beam, (Qx, Qy) float32."""

    dark: np.ndarray
    description = "dark image subtracted"

    @property
    def detector_shape(self):
        return self.dark.shape

    def dtype(self, native):
        return dtype_like(native, "float32")

    def apply(self, frames):
        return arrays.namespace(frames).astype(frames, self.dtype(frames.dtype)) - tables.beside(self.dark, frames)

    def bytes_needed(self, n_frames):
        return self.dark.nbytes * (1 + n_frames)  # the image on a device, and the frames as float32

    def cropped(self, qx, qy):
        return Dark(self.dark[qx, qy])

    def swapped(self):
        return Dark(self.dark.T)
