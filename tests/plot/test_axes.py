"""Every picture can be drawn into axes of the caller, and gives its axes back."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest

import gpu4d
from gpu4d import RealSlice, plot
from gpu4d.errors import InputError
from gpu4d.orientation import Grain, Orientations
from gpu4d.structures import Structure

PANELS = {"strain": 4, "class_patterns": 2, "drift": 2, "structure_factor": 2, "shadow": 2, "wave": 2}  # of the examples below; others: 1
IMAGE, CURVE = np.random.default_rng(0).random((32, 40)), np.arange(1.0, 9.0)


def strained():
    maps = {name: RealSlice(0.01 * (IMAGE - 0.5), name, "1", 10.0, "Å") for name in ("exx", "eyy", "exy", "theta")}
    return SimpleNamespace(**maps, axes=SimpleNamespace(frame="detector", angle=0.0))


def oriented():
    turns, ones = np.stack([np.eye(3), np.eye(3)])[None], np.ones((1, 2))
    grain = Grain(turns, np.zeros((1, 2), int), ones, ones, 9 * ones, turns, np.zeros((1, 2), int), 0 * turns)
    return Orientations(grain, grain, (Structure.standard("Au"),), (50.0,), 10.0)


def glass():
    k = np.arange(0.02, 2.0, 0.02)
    return gpu4d.rdf(np.exp(-2 * k) * (1 + 9 * np.sinc(6 * k)), k=k, factor=np.exp(-k), density=0.05)


def turned():
    from gpu4d.calibrate import rotation_from_points

    return rotation_from_points([[8, 8], [8, 18], [20, 8]], [[0, 0], [10, 0], [0, 12]], defocus=-1e4)


def ringed():
    x, y = np.mgrid[:96, :96] - 47.3
    pattern = 4 + sum(40 * np.exp(-(((np.hypot(x, y) - r) / 1.5) ** 2)) for r in (20.0, 28.0, 35.0))
    return pattern, gpu4d.calibrate.fit_rings(pattern, [0.4, 0.56, 0.7])


def counted():
    raw = gpu4d.simulate.raw_frames((4, 4), (64, 64), seed=1)
    return gpu4d.preprocess.counting_setup(raw.cube.source.array, raw.darks)


def several():
    import several_lattices as scenes

    bases, present = scenes.twins((4, 6), border=3)
    return gpu4d.crystal.fit_lattices(scenes.disks_with(bases, present, merged=3.0), bases, origin=scenes.ORIGIN)


def fluctuating():
    counts = np.random.default_rng(0).poisson(20.0, (6, 6, 16, 16)).astype("uint16")
    return gpu4d.fem(gpu4d.DataCube(counts), (7.5, 7.5))


MAXIMA = SimpleNamespace(qx=np.array([3.0, 9.0]), qy=np.array([4.0, 8.0]), reason=np.array(["accepted", "edge"]))
NODES = SimpleNamespace(vectors=np.array([[6.0, 0.0], [0.0, 5.0]]), orders=np.array([(1, 0), (0, 1), (1, 1)]))
EXAMPLES = {  # what each function draws; functions make what takes time when it is needed
    "bragg_vector_map": lambda: ((IMAGE, {"g1": (6, 0), "g2": (0, 6)}), {}),
    "cepstrum": lambda: ((SimpleNamespace(power=IMAGE + 0.1, nodes=NODES),), {}),
    "class_patterns": lambda: ((np.stack([IMAGE, 2 * IMAGE]), "ab"), {}),
    "com": lambda: ((np.stack([IMAGE, IMAGE]),), {"arrows": True}),
    "convergence": lambda: ((CURVE[::-1], "misfit"), {}),
    "counting_histogram": lambda: ((counted(),), {}),
    "diffraction": lambda: ((IMAGE,), {"circles": [(16, 20, 5, "disk")]}),
    "disks": lambda: ((IMAGE, MAXIMA), {"radius": 3.0}),
    "drift": lambda: ((gpu4d.scan_drift(IMAGE),), {"images": ()}),
    "fem": lambda: ((fluctuating(),), {}),
    "histogram": lambda: ((IMAGE, "values"), {}),
    "image": lambda: ((RealSlice(IMAGE, "bf", "counts", 5.0, "Å"),), {}),
    "label_map": lambda: (((IMAGE > 0.5).astype(int), "ab"), {}),
    "lattice_map": lambda: ((several(),), {}),
    "orientation_legend": lambda: ((Structure.standard("Au"),), {}),
    "orientation_map": lambda: ((oriented(),), {}),
    "pair_distribution": lambda: ((glass(),), {}),
    "profile": lambda: ((CURVE, CURVE, "profile"), {"others": {"more": CURVE}}),
    "rings": lambda: (ringed(), {}),
    "shadow": lambda: ((np.eye(32), turned(), np.eye(32)), {"position": (8, 8), "center": (16, 16), "radius": 8.0}),
    "shadow_points": lambda: ((np.eye(32), turned(), np.array([[8, 8, 0, 0], [8, 18, 10, 0.0]])), {}),
    "spectrum": lambda: ((IMAGE,), {}),
    "strain": lambda: ((strained(),), {}),
    "structure_factor": lambda: ((glass(),), {}),
    "vectors": lambda: ((IMAGE, IMAGE), {}),
    "wave": lambda: ((IMAGE * np.exp(1j * IMAGE),), {}),
}
PANELS["drift"] = 1  # without pictures: the shifts of one scan


def test_every_picture_has_an_example():
    assert set(EXAMPLES) == set(plot.__all__) - {"save"}
    for name in EXAMPLES:
        assert inspect.signature(getattr(plot, name)).parameters["ax"].default is None


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_axes_of_the_caller_are_drawn_into(name, monkeypatch):
    """They are returned, no figure is made, and the other axes of the figure stay empty."""
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    given, options = EXAMPLES[name]()
    draw, count, many = getattr(plot, name), PANELS.get(name, 1), name in PANELS
    own = draw(*given, **options)
    assert isinstance(own, np.ndarray) == many and len(np.atleast_1d(own)) == count
    figure = Figure(figsize=(4 * count + 4, 4))
    mine = list(figure.subplots(1, count + 1))
    left = mine.pop()
    figure.suptitle("mine")

    def no_figure(*_, **__):
        raise AssertionError(f"{name} makes a figure though it has axes")

    monkeypatch.setattr("gpu4d.plot.canvas.figure", no_figure)
    returned = draw(*given, **options, ax=mine if many else mine[0])
    assert list(np.atleast_1d(returned)) == mine
    assert not left.has_data() and not left.get_title(loc="left") and not figure.legends and figure.get_suptitle() == "mine"
    for ax, alone in zip(mine, np.atleast_1d(own)):
        assert isinstance(ax, Axes) and ax.has_data()
        assert [len(ax.images), len(ax.lines), len(ax.collections)] == [len(alone.images), len(alone.lines), len(alone.collections)]
        for one, other in zip(ax.images, alone.images):
            np.testing.assert_array_equal(np.ma.filled(one.get_array(), -1), np.ma.filled(other.get_array(), -1))
        assert ax.get_title(loc="left").endswith(alone.get_title(loc="left"))


def test_what_are_no_axes_is_said():
    from matplotlib.figure import Figure

    figure = Figure()
    with pytest.raises(InputError, match="ax is a Figure: need matplotlib axes"):
        plot.image(IMAGE, ax=figure)
    with pytest.raises(InputError, match="ax has 2 axes: need a list or array of 4 axes"):
        plot.strain(strained(), ax=figure.subplots(1, 2))
    with pytest.raises(InputError, match="ax has 2 axes: need the axes of one panel"):
        plot.image(IMAGE, ax=figure.subplots(1, 2))
    with pytest.raises(InputError, match="picture is a str: need the axes"):
        plot.save("picture", "a.png")


def test_a_notebook_shows_our_figures_and_leaves_those_of_the_caller_alone(tmp_path):
    """pyplot shows the figures that it made, so that ours alone must show themselves."""
    from matplotlib.figure import Figure

    for made in (plot.image(IMAGE), plot.wave(IMAGE + 1j)):
        assert made._repr_png_().startswith(b"\x89PNG")
        assert plot.save(made, tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    figure = Figure()
    assert not hasattr(plot.image(IMAGE, ax=figure.add_subplot()), "_repr_png_")
    assert not hasattr(plot.wave(IMAGE + 1j, ax=figure.subplots(1, 2)), "_repr_png_")
    parts = Figure().subfigures(1, 2)
    assert plot.save(plot.image(IMAGE, ax=parts[1].add_subplot()), tmp_path / "b.png").exists()


def test_every_circle_is_drawn():
    from matplotlib.patches import Ellipse

    pattern = gpu4d.DiffractionSlice(np.ones((32, 32)), "mean", "counts")
    ax = plot.diffraction(pattern, "Mean", circles=[(4.0 * i, 8.0, 2.0, "") for i in range(8)])
    assert sum(isinstance(patch, Ellipse) for patch in ax.patches) == 8
