"""A reduction of another package: the brightest pixel of every pattern."""

import numpy as np

from gpu4d.streaming import PerPositionReduction


class Brightest(PerPositionReduction):
    """Largest value of every pattern, (Rx, Ry) float64."""

    def bytes_needed(self, scan, n_frames):
        return self.held_bytes(scan, n_frames)

    def update(self, frames, positions):
        self.put(positions, frames.max((1, 2))[:, None].astype(np.float64))

    def finish(self):
        return self.values.result()[0]
