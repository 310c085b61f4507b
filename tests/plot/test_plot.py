"""Pictures: what is drawn, where, and in which units."""

from types import SimpleNamespace

import numpy as np
import pytest

import gpu4d
from gpu4d import DiffractionSlice, RealSlice, plot
from gpu4d.errors import InputError
from gpu4d.plot import canvas
from gpu4d.plot.detector import REASONS
from gpu4d.plot.maps import nice_range
from gpu4d.plot.vectors import direction_colors


@pytest.fixture
def ramp():
    """A map that grows downwards: x is the first axis."""
    return RealSlice(np.arange(20.0)[:, None] + np.zeros((20, 30)), "bright field", "counts", 25.0, "Å")


def texts(figure):
    import matplotlib.text

    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def artists(ax, gid):
    return [a for a in ax.get_children() if a.get_gid() == gid]


def test_image_shows_x_downwards_with_title_units_and_axes(ramp):
    figure = plot.image(ramp).figure
    ax = figure.axes[0]
    drawn = ax.get_images()[0]
    assert np.array_equal(np.asarray(drawn.get_array()), np.asarray(ramp))
    assert drawn.origin == "upper" and ax.get_ylim()[0] > ax.get_ylim()[1], "row 0, the smallest x, must be at the top"
    assert ax.get_title(loc="left") == "bright field"
    assert "counts" in texts(figure)
    assert artists(ax, "axis x") and artists(ax, "axis y")


def test_scale_bar_has_a_round_length_in_real_units(ramp):
    ax = plot.image(ramp)
    (bar,) = artists(ax, "scale bar")
    (label,) = artists(ax, "scale bar label")
    x = bar.get_xdata()
    assert (x[1] - x[0]) * 25.0 == pytest.approx(200.0), "20 nm: the round length near a third of 30 × 25 Å"
    assert label.get_text().strip() == "20 nm"


@pytest.mark.parametrize(
    "length, units, label", [(5.0, "Å", "5 Å"), (20.0, "Å", "2 nm"), (2e4, "Å", "2 µm"), (0.5, "1/Å", "0.5 Å⁻¹"), (20, "px", "20 px")]
)
def test_length_labels(length, units, label):
    assert canvas.length_label(length, units) == label


@pytest.mark.parametrize("extent", [0.013, 0.9, 1.0, 7.0, 31.0, 33.4, 1e4])
def test_scale_bar_lengths_are_round_and_fit(extent):
    length = canvas.nice_length(extent)
    assert 0.1 * extent <= length <= 0.3001 * extent
    mantissa = length / 10 ** np.floor(np.log10(length) + 1e-9)
    assert min(abs(mantissa - m) for m in (1, 2, 5)) < 1e-6


def test_missing_values_are_grey_and_counted(ramp):
    values = np.asarray(ramp).copy()
    values[2, :7] = np.nan
    figure = plot.image(RealSlice(values, "bf", "counts")).figure
    assert any("7 of 600" in t for t in texts(figure))
    assert np.ma.getmaskarray(figure.axes[0].get_images()[0].get_array()).sum() == 7


@pytest.mark.parametrize(
    "values", [np.full((4, 5), np.nan), np.zeros((4, 5)), np.full((4, 5), 3.0), np.full((1, 60), 2.0), np.ones((1, 1))]
)
def test_every_map_can_be_drawn(values, tmp_path):
    for number, figure in enumerate(
        (plot.image(values), plot.diffraction(values), plot.diffraction(values, scale="log"), plot.vectors(values, values))
    ):
        path = plot.save(figure, tmp_path / f"{number}.png")
        assert path.read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(InputError, match="one plane"):
        plot.image(np.zeros((2, 3, 4)))
    with pytest.raises(InputError, match="complex"):
        plot.image(np.zeros((3, 4), complex))
    with pytest.raises(InputError, match="components of one shape"):
        plot.vectors(np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="'power', 'log' or 'linear'"):
        plot.diffraction(np.zeros((3, 4)), scale="cubic")


def test_the_callers_matplotlib_is_left_alone(ramp):
    import matplotlib

    before = dict(matplotlib.rcParams)
    plot.image(ramp)
    assert dict(matplotlib.rcParams) == before


def strained(frame, angle=0.0):
    wave = np.sin(np.linspace(0, 6, 24))[:, None] + np.zeros((24, 16))
    maps = {"exx": 0.011 * wave, "eyy": 0.004 * wave, "exy": -0.002 * wave, "theta": 0.008 * wave}
    return SimpleNamespace(**{k: RealSlice(v, k, "1", 10.0, "Å") for k, v in maps.items()}, axes=SimpleNamespace(frame=frame, angle=angle))


def test_strain_has_one_symmetric_range_in_percent():
    figure = plot.strain(strained("scan")).figure
    images = [ax.get_images()[0] for ax in figure.axes if ax.get_images() and ax.get_title(loc="left")]
    limits = [image.get_clim() for image in images]
    assert limits[0] == limits[1] == limits[2] == (-1.2, 1.2), "the 99th percentile of |strain| is 1.1 %, rounded up"
    assert limits[3] == pytest.approx((-np.degrees(0.012), np.degrees(0.012))), "theta: the same range, in degrees"
    assert np.allclose(images[0].get_array(), 100 * np.asarray(strained("scan").exx))
    assert all(image.get_cmap().name.startswith("RdBu_r") for image in images)


def test_axes_of_the_tensor_are_drawn_on_every_map():
    figure = plot.strain(strained("scan")).figure
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 4 and all(artists(ax, "axis x") and artists(ax, "axis y") for ax in panels)
    assert any("scan's axes" in t for t in texts(figure))


def test_detector_axes_are_called_so_with_a_warning():
    figure = plot.strain(strained("detector")).figure
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert all(artists(ax, "axis q$_x$") for ax in panels)
    assert any("DETECTOR" in t and "not calibrated" in t for t in texts(figure))


def test_turned_axes_point_where_the_tensor_points():
    """x of the tensor, turned by 90° from x (down) towards y (right), must point right."""
    figure = plot.strain(strained("scan", np.pi / 2)).figure
    figure.draw_without_rendering()
    ax = next(ax for ax in figure.axes if ax.get_title(loc="left"))
    (arrow,) = artists(ax, "axis x")
    tail, tip = arrow.arrow_patch.get_path().vertices[0], arrow.xycoords.transform((1, 0)) - arrow._textcoords.transform((1, 0))
    assert tip[0] > 10 * abs(tip[1]), f"{tip} must point right (from {tail})"


def test_ranges_are_round():
    assert [nice_range(v) for v in (0.9, 1.0, 1.01, 2.4, 7.0, 0.031)] == [1.0, 1.0, 1.2, 2.5, 8.0, 0.04]


def test_directions_have_colours_of_equal_lightness_and_zero_is_dark():
    angle = np.linspace(0, 2 * np.pi, 37)
    colors = direction_colors(np.cos(angle), np.sin(angle), 1.0)
    luminance = (np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4) * [0.2126, 0.7152, 0.0722]).sum(-1)
    assert np.ptp(luminance) < 0.15 and luminance.min() > 0.3
    assert np.allclose(colors[0], colors[-1]), "the wheel closes"
    assert np.linalg.norm(np.diff(colors[:-1:4], axis=0), axis=-1).min() > 0.1, "directions can be told apart"
    assert direction_colors(np.zeros(1), np.zeros(1), 1.0).max() < 0.1
    assert np.allclose(direction_colors(np.array([np.nan]), np.zeros(1), 1.0), np.array([201, 206, 212]) / 255, atol=0.01)


def test_com_takes_the_mean_off_and_says_the_length_of_the_rim():
    y = np.linspace(-1, 1, 12)[None, :] + np.zeros((10, 12))
    figure = plot.com(RealSlice(np.stack([np.full((10, 12), 31.0), 20 + y]), "com", "px", 5.0, "Å", ("com_x", "com_y"))).figure
    assert np.allclose(figure.axes[0].get_images()[0].get_array(), direction_colors(0 * y, y, np.percentile(np.abs(y), 99)))
    assert any(t.startswith("rim: 1.0") and "px" in t for t in texts(figure))


def test_disks_show_every_maximum_with_its_reason():
    n = 2 * len(REASONS)
    reason = np.array([list(REASONS)[i % len(REASONS)] for i in range(n)])
    found = SimpleNamespace(qx=np.arange(n) * 3.0, qy=np.arange(n) * 2.0 + 5, reason=reason)
    figure = plot.disks(DiffractionSlice(np.ones((48, 40)), "pattern", "counts", 0.02, "1/Å"), found, radius=4.0).figure
    ax = figure.axes[0]
    for name in REASONS:
        (points,) = [c for c in ax.collections if c.get_gid() == name]
        here = reason == name
        assert np.array_equal(np.asarray(points.get_offsets()), np.stack([found.qy[here], found.qx[here]], -1)), "drawn at (column, row)"
        assert any(REASONS[name][2] in t and "(2)" in t for t in texts(figure)), f"no key for {name}"
    assert len([p for p in ax.patches if getattr(p, "radius", None) == 4.0]) == 2, "accepted disks are drawn in their size"


def test_bragg_vector_map_has_its_lattice():
    figure = plot.bragg_vector_map(np.ones((40, 40)), {"g1": (10.0, 1.0), "g2": (-1.0, 10.0)}).figure
    ax = figure.axes[0]
    (g1,) = artists(ax, "vector g$_1$")
    assert tuple(g1.xy) == (21.0, 30.0), "from the centre pixel (20, 20), drawn at (column, row)"


def test_cepstrum_has_its_vectors_and_nodes():
    power = 1e-3 + np.exp(-((np.arange(48)[:, None] - 30) ** 2 + (np.arange(48) - 24) ** 2) / 2)
    nodes = SimpleNamespace(vectors=np.array([[6.0, 0.0], [0.0, 5.0]]), orders=np.array([(1, 0), (0, 1), (1, 1)]))
    picture = plot.cepstrum(SimpleNamespace(power=power, nodes=nodes), q_pixel=0.02).figure
    ax = picture.axes[0]
    half = int(np.ceil(1.15 * 6)) + 1  # shown on either side of the centre
    tips = {a.get_gid(): a.xy for a in ax.texts if str(a.get_gid()).startswith("vector")}
    assert tips == {"vector r1": (half, half + 6.0), "vector r2": (half + 5.0, half)}  # a picture's x is the second axis
    rings = next(c for c in ax.collections if c.get_gid() == "nodes").get_offsets()
    assert len(rings) == 6 and [half + 5.0, half + 6.0] in rings.tolist()
    names = [t.get_text() for t in picture.legends[0].get_texts()]
    assert any("6.25 Å" in n for n in names) and any("5.21 Å" in n for n in names)  # 6 / (48 · 0.02)
    assert plot.cepstrum(SimpleNamespace(power=power, nodes=None)).images
    for wrong in (
        {"found": SimpleNamespace(power=power[:30], nodes=nodes), "q_pixel": 0.02},
        {"found": SimpleNamespace(power=power * np.nan, nodes=None)},
    ):
        with pytest.raises(InputError):
            plot.cepstrum(**wrong)


def test_histogram_counts_whole_numbers_one_by_one():
    ax = plot.histogram(np.array([[3, 3, 4], [9, 3, np.nan]]), "disks", recommended=(5, 30))
    bars = {round(p.get_x() + p.get_width() / 2): p.get_height() for p in ax.patches if p.get_width() == pytest.approx(0.85)}
    assert bars == {3: 3, 4: 1, 9: 1}


@pytest.mark.parametrize(
    "name, begins", [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF"), ("a.tif", b"II*"), ("a.TIFF", b"II*")]
)
def test_the_name_says_the_format(tmp_path, name, begins):
    assert plot.save(plot.image(np.eye(4)), tmp_path / name).read_bytes().startswith(begins)


@pytest.mark.parametrize("name", ["a", "a.h5", "a.jpg2"])
def test_a_name_that_is_no_picture(tmp_path, name):
    with pytest.raises(InputError, match=r"\.png, \.svg"):
        plot.save(plot.image(np.eye(4)), tmp_path / name)
    with pytest.raises(InputError, match="name of a picture"):
        gpu4d.save(tmp_path / "a.png", {"x": np.eye(4)})
    assert not list(tmp_path.iterdir())


def test_a_profile_is_drawn_over_q_with_its_spread():
    r, values, spread = np.arange(5) + 0.5, np.array([100.0, 10, 1, np.nan, 0.5]), np.array([10.0, 1, 2, 1, 0.1])
    figure = plot.profile(
        r, values, "Profile", spread=spread, others={"noise": values / 10}, marks=[(2.0, "ring")], pixel_size=0.02, units="counts per pixel"
    ).figure
    ax = figure.axes[0]
    assert ax.get_xlabel() == "q (1/Å)" and ax.get_ylabel() == "counts per pixel" and ax.get_yscale() == "log"
    lines = {line.get_label(): line for line in ax.lines}
    np.testing.assert_allclose(ax.lines[0].get_xdata(), r * 0.02)
    np.testing.assert_allclose(lines["noise"].get_ydata(), values / 10)
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [pytest.approx(0.04)]
    assert {"ring", "Profile", "± standard deviation", "noise"} <= set(texts(figure))
    band = ax.collections[0].get_paths()
    edges = np.concatenate([path.vertices for path in band])
    assert edges[:, 1].max() == pytest.approx(110) and edges[:, 1].min() > 0, "a band below zero ends above it on a logarithmic axis"
    figure = plot.profile(r, values, "Profile", log=False).figure
    assert figure.axes[0].get_xlabel() == "distance from the beam (px)" and figure.axes[0].get_yscale() == "linear"
    plot.profile(r, np.zeros(5), "nothing")  # has no logarithm
    with pytest.raises(InputError, match="one value for each radius"):
        plot.profile(r, values[:3], "Profile")
    with pytest.raises(InputError, match="one value for each radius"):
        plot.profile(r, values, "Profile", others={"spread": values[:3]})


def test_every_further_curve_of_a_profile_is_drawn_by_any_name():
    r, values = np.arange(4) + 0.5, np.array([8.0, 4, 2, 1])
    others = {name: values * (i + 2) for i, name in enumerate(["values", "spread", "a", "b", "c", "d"])}
    ax = plot.profile(r, values, "Profile", label="measured", others=others)
    drawn = {line.get_label(): line for line in ax.lines}
    assert list(drawn) == ["measured", *others] and not ax.collections
    for name, curve in {"measured": values, **others}.items():
        np.testing.assert_allclose(drawn[name].get_ydata(), curve)
    colors = [drawn[name].get_color() for name in others]
    assert len(set(colors[:4])) == 4 and colors[4:] == colors[:2]


def test_circles_behind_an_ellipse_are_drawn_as_the_detector_has_them():
    """Each point of the outline has the given radius along the minor axis, with the ellipse removed."""
    ellipse = (1.2, 1.0, np.radians(25))
    made = gpu4d.plot.diffraction(np.ones((60, 80)), circles=[(30.0, 41.0, 15.0, "disk")], ellipse=ellipse).figure
    (patch,) = made.axes[0].patches
    outline = patch.get_patch_transform().transform_path(patch.get_path()).to_polygons(closed_only=False)[0]
    drawn = outline[:, ::-1] - (30.0, 41.0)  # matplotlib's x is the second axis
    np.testing.assert_allclose(np.hypot(*(drawn @ gpu4d.calibrate.ellipse_matrix(ellipse).T).T), 15.0, rtol=2e-3)
    assert np.ptp(np.hypot(*drawn.T)) > 2.5, "and it is no circle"


def test_a_glass_has_three_components_and_no_rotation():
    lattice = strained("scan")
    figure = plot.strain(SimpleNamespace(**{name: value for name, value in vars(lattice).items() if name != "theta"})).figure
    panels = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(panels) == 3 and all(artists(ax, "axis x") for ax in panels) and not any("θ" in t for t in texts(figure))
    assert {ax.get_images()[0].get_clim() for ax in panels} == {(-1.2, 1.2)}
