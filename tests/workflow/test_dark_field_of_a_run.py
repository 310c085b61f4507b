"""Dark-field images of a run: which reflections, and that they are those of the disks."""

import numpy as np

import gpu4d
from gpu4d.workflow import analyse


def test_images_are_those_of_the_brightest_reflections():
    scan = gpu4d.simulate.bragg_scan((8, 9), (64, 64), spacing=16.0, radius=4.0, descan=0.0, seed=3)
    state = analyse(scan.cube)
    made = state["dark_field"]
    assert made.labels and len(made.labels) <= 3 and np.asarray(made).shape[1:] == (8, 9)
    sums = np.nansum(np.asarray(made), axis=(1, 2))
    assert (np.diff(sums) <= 0).all() and sums[-1] > 0
    lattice, disks = state["lattice"], state["braggvectors"]
    h, k = (int(n) for n in made.labels[0].strip("()").split())
    pair = gpu4d.bragg.reflection(h * np.asarray(lattice.g1) + k * np.asarray(lattice.g2), 0.3 * min(lattice.lengths))
    again = gpu4d.bragg.dark_field(disks, pair, origin=state["origin"])
    np.testing.assert_allclose(np.asarray(made)[0], np.asarray(again), rtol=1e-9)


def test_a_grain_is_bright_where_it_is():
    one, other = (gpu4d.simulate.bragg_scan((6, 10), (80, 80), spacing=17.0, angle=a, radius=4.0, descan=0.0, strain=None, seed=k)
                  for k, a in enumerate((5.0, 25.0)))  # fmt: skip
    right = np.arange(10) >= 6
    patterns = np.where(right[None, :, None, None], np.asarray(other.cube), np.asarray(one.cube))
    made = np.asarray(analyse(gpu4d.DataCube(patterns))["dark_field"])[0]
    assert np.nanmean(made[:, :6]) > 5 * np.nanmean(made[:, 6:]), "lattice 0 is that of the larger grain"
