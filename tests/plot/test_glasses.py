"""Pictures of structure factors and distances: curves, marks, groups, and what is refused."""

import dataclasses

import numpy as np
import pytest
from glasses import factor, structure_factor

import gpu4d
from gpu4d.errors import InputError

K = np.arange(0.01, 2.5, 0.02)
PROFILE = 900 * factor(K) ** 2 * structure_factor(K)


@pytest.fixture(scope="module")
def found():
    profiles = np.stack([PROFILE, 2 * PROFILE, np.full_like(K, np.nan)])[None]
    return gpu4d.rdf(profiles + 2.0, k=K, factor=factor, error=np.sqrt(PROFILE), background="constant")


def line(ax, name):
    return next(one for one in ax.lines if one.get_gid() == name)


def test_the_fit_and_the_structure_factor(found):
    upper, lower = gpu4d.plot.structure_factor(found, "Glass", group=(0, 1))
    np.testing.assert_allclose(line(upper, "profile").get_ydata(), found.intensity[0, 1])
    np.testing.assert_allclose(line(upper, "fit").get_ydata(), found.atoms[0, 1] * found.factor_square + found.background[0, 1])
    np.testing.assert_allclose(line(lower, "curve").get_ydata(), found.structure_factor[0, 1])
    np.testing.assert_allclose(line(lower, "window").get_ydata(), found.window)
    assert upper.get_title(loc="left") == "Glass" and lower.get_xlabel() == "k = 1/d (1/Å)" and lower.collections


@pytest.mark.parametrize(("kind", "values"), [("g", "pair_distribution"), ("G", "reduced"), ("RDF", "distribution")])
def test_distances_with_their_marks(found, kind, values):
    ax = gpu4d.plot.pair_distribution(found, kind=kind, group=(0, 0), r_max=8)
    np.testing.assert_allclose(line(ax, "curve").get_ydata(), getattr(found, values)[0, 0])
    assert line(ax, "peak").get_xdata()[0] == found.peak[0, 0]
    (shade,) = [one for one in ax.patches if one.get_gid() == "shell"]
    assert [shade.get_x(), shade.get_x() + shade.get_width()] == pytest.approx(found.shell.tolist())
    empty = line(ax, "no atoms")
    np.testing.assert_allclose(empty.get_ydata(), -4 * np.pi * found.density[0, 0] * empty.get_xdata() if kind == "G" else 0.0)
    assert ax.get_xlim() == (0, 8) and f"{found.coordination[0, 0]:.1f} atoms" in ax.get_legend().get_texts()[0].get_text()
    low, high = ax.get_ylim()
    seen = getattr(found, values)[0, 0][(found.r > found.r_min) & (found.r < 8)]
    assert low < seen.min() and seen.max() < high


def test_a_group_without_values_and_one_without_errors(found, tmp_path):
    for picture in (gpu4d.plot.pair_distribution(found, group=(0, 2)), gpu4d.plot.structure_factor(found, group=(0, 2))):
        gpu4d.plot.save(picture, tmp_path / "empty.png", dpi=40)
    alone = gpu4d.rdf(PROFILE, k=K, factor=factor, background=None)
    ax = gpu4d.plot.pair_distribution(alone)
    assert not ax.collections and "±" not in ax.texts[0].get_text()


def test_the_peak_has_two_digits_of_its_error(found):
    for error, says in ((0.0064, ".0064 Å"), (0.00012, ".00012 Å"), (1.4, "1.4 Å"), (0.0, " Å")):
        one = dataclasses.replace(found, peak=np.full((1, 3), 2.76804), peak_error=np.full((1, 3), error))
        (text,) = gpu4d.plot.pair_distribution(one, group=(0, 0)).texts
        assert text.get_text().endswith(says) and ("±" in text.get_text()) == (error > 0)


def test_what_is_refused(found):
    for group in ((), (0,), (0, 3), 0, "a", (0, 1.5)):
        with pytest.raises(InputError, match=r"need the index of one"):
            gpu4d.plot.structure_factor(found, group=group)
    with pytest.raises(InputError, match="kind='h'"):
        gpu4d.plot.pair_distribution(found, kind="h", group=(0, 0))
    with pytest.raises(InputError, match="need an RDF"):
        gpu4d.plot.pair_distribution(PROFILE)
