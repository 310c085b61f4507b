"""Pictures of orientations: colours, legend, grey where nothing was found."""

import numpy as np
import pytest

from gpu4d.errors import InputError
from gpu4d.orientation import Grain, Orientations
from gpu4d.plot import orientation_legend, orientation_map
from gpu4d.plot.orientations import lattice_direction
from gpu4d.structures import Structure


def one_row():
    turns = np.stack([np.eye(3), np.eye(3), np.full((3, 3), np.nan)])[None]
    phase, ones = np.array([[0, 0, -1]]), np.array([[1.0, 1.0, np.nan]])
    grain = Grain(turns, phase, ones, ones, np.array([[9.0, 0.5, np.nan]]), turns, phase, 0 * turns)
    return Orientations(grain, grain, (Structure.standard("Au"),), (50.0,), 10.0)


def test_a_map_has_the_colours_and_says_what_it_shows():
    figure = orientation_map(one_row()).figure
    shown = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown[0, 0], [1, 0, 0])  # [001] along the beam is red
    assert len(set(shown[0, 2].round(3))) <= 3 and not np.allclose(shown[0, 2], shown[0, 0])
    assert figure.axes[0].get_title(loc="left") == "Crystal direction along beam (z)"
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert "dots: 1 ambiguous\nposition" in texts and {"[0 0 1]", "[1 0 1]", "[1 1 1]"} <= set(texts)


def test_a_legend_names_its_corners():
    texts = {text.get_text() for text in orientation_legend(Structure.standard("graphite")).texts}
    assert texts == {"[0 0 1]", "[1 0 0]", "[2 1 0]"}
    with pytest.raises(InputError, match="need a Structure"):
        orientation_legend("Au")


def test_directions_of_a_lattice_are_named():
    tetragonal = Structure.standard("graphite")
    assert lattice_direction(np.array([0.0, 0.0, 2.0]), tetragonal) == "[0 0 1]"
    assert lattice_direction(np.array([1.0, 0.213, 0.4]), Structure.standard("Au")).startswith("[1.00 0.21")
