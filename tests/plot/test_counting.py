"""The picture of a counting setup shows what it says."""

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError


def test_histogram_background_and_thresholds_are_drawn(need):
    need("matplotlib")
    raw = gpu4d.simulate.raw_frames((4, 4), (64, 64), seed=1)
    setup = gpu4d.preprocess.counting_setup(raw.cube.source.array, raw.darks)
    ax = gpu4d.plot.counting_histogram(setup)
    lines = {line.get_gid(): line for line in ax.lines}
    assert lines["lower threshold"].get_xdata()[0] == setup.lower and lines["upper threshold"].get_xdata()[0] == setup.upper
    x, y = lines["background"].get_data()
    steps = {patch.get_gid(): patch.get_data().values for patch in ax.patches}
    middle = (setup.edges[1:] + setup.edges[:-1]) / 2
    near = np.abs(middle) < 2 * setup.noise / setup.electron
    drawn = np.interp(middle[near], x, y)
    assert abs(drawn.sum() / steps["pixels"][near].sum() - 1) < 0.05  # the background is nearly all of the pixels there
    assert steps["electrons"].sum() <= setup.isolated.sum()


def test_something_else_is_refused(need):
    need("matplotlib")
    with pytest.raises(InputError, match="need a CountingSetup"):
        gpu4d.plot.counting_histogram(3)
