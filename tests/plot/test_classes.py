"""Maps of classes, and their mean patterns."""

import numpy as np
import pytest

from gpu4d.data.slices import DiffractionSlice, RealSlice
from gpu4d.errors import InputError
from gpu4d.plot import class_patterns, label_map
from gpu4d.plot.canvas import NO_VALUE
from gpu4d.plot.classes import color_of


def to_rgb(color):
    """Red, green and blue of "#rrggbb", from 0 to 1."""
    return tuple(int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))


LABELS = np.array([[0, 0, 1, 2], [0, 0, np.nan, -1]])


def test_each_class_has_its_colour_and_its_share():
    made = label_map(RealSlice(LABELS, "classes", "1", 10.0, "Å"), ["0: crystal", "1: amorphous", "2: no disks"]).figure
    shown = np.asarray(made.axes[0].images[0].get_array())
    for place, number in (((0, 0), 0), ((0, 2), 1), ((0, 3), 2)):
        np.testing.assert_allclose(shown[place], to_rgb(color_of(number)))
    np.testing.assert_allclose(shown[1, 2:], [to_rgb(NO_VALUE)] * 2)
    assert [t.get_text() for t in made.legends[0].get_texts()] == ["0: crystal\n67 %", "1: amorphous\n17 %", "2: no disks\n17 %"]
    assert any("grey: no value (2 of 8)" in t.get_text() for t in made.axes[0].texts)


def test_colours_fade_where_a_class_is_not_sure():
    shade = np.zeros(LABELS.shape)
    shade[0, 0] = 0.5
    shown = np.asarray(label_map(LABELS, "abc", shade=shade).images[0].get_array())
    np.testing.assert_allclose(shown[0, 1], 1.0)
    np.testing.assert_allclose(shown[0, 0], 0.5 + 0.5 * np.array(to_rgb(color_of(0))))


def test_patterns_share_a_scale_and_have_the_colours_of_the_map():
    patterns = DiffractionSlice(np.stack([np.eye(8), 9 * np.eye(8), np.ones((8, 8))]), "patterns", "counts", 0.02, "1/Å")
    panels = class_patterns(patterns, ["a", "b", "c"])
    assert [ax.get_title(loc="left") for ax in panels] == ["a", "b", "c"]
    assert len({ax.images[0].norm.vmax for ax in panels}) == 1 and panels[0].images[0].norm.vmin == 0
    assert [ax.spines["top"].get_edgecolor()[:3] for ax in panels] == [to_rgb(color_of(k)) for k in range(3)]


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(InputError, match="labels go to 2, and there are 2 names"):
        label_map(LABELS, ["a", "b"])
    with pytest.raises(InputError, match="one value for each position"):
        label_map(LABELS, "abc", shade=np.ones((2, 2)))
    with pytest.raises(InputError, match="one name for each pattern"):
        class_patterns(np.ones((2, 4, 4)), ["a"])
