"""The map of several lattices is drawn with the colours and numbers of its legend."""

import numpy as np
import pytest
import several_lattices as scenes

from gpu4d import plot
from gpu4d.crystal import fit_lattices
from gpu4d.errors import InputError


@pytest.fixture(scope="module")
def fits():
    bases, present = scenes.twins((4, 6), border=3)
    present[:, 0, 0] = False
    return fit_lattices(scenes.disks_with(bases, present, merged=3.0), bases, origin=scenes.ORIGIN)


def test_colours_are_those_of_the_legend(fits):
    ax = plot.lattice_map(fits, ["matrix", "twin"], pixel_size=5.0, pixel_units="Å")
    legend = ax.figure.legends[0]
    image = np.asarray(ax.images[0].get_array())
    colours = [patch.get_facecolor()[:3] for patch in legend.get_patches()]
    for k in (0, 1):
        np.testing.assert_allclose(image[fits.label == k], np.broadcast_to(colours[k], ((fits.label == k).sum(), 3)))
    np.testing.assert_allclose(image[0, 0], colours[2])
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[0] == f"0: matrix: {100 * fits.shares[0]:.0f} %" and texts[2] == "none: 4 %" and texts[3].startswith("dots")
    dots = np.stack(ax.lines[-1].get_data(), -1)[:, ::-1]
    np.testing.assert_array_equal(dots, np.argwhere(fits.overlap))


def test_wrong_names_and_other_results_are_refused(fits):
    with pytest.raises(InputError, match="1 names for 2 lattices"):
        plot.lattice_map(fits, ["matrix"])
    with pytest.raises(InputError, match="need a LatticesFit"):
        plot.lattice_map(fits[0])
