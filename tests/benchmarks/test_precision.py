"""The Cramér-Rao bound itself, the judge of the precision studies, and that the studies run."""

import csv
import json
from itertools import pairwise

import numpy as np
import pytest
from gpu4d.benchmarks import disk_scenes, precision
from gpu4d.benchmarks.disk_bound import bullseye, closed_form, edge_factor, fisher, soft, variances
from gpu4d.benchmarks.precision_studies import judged
from gpu4d.benchmarks.strain_bound import components, strain_variances

import gpu4d


def expected(p, shape, center, radius, width):
    """Counts of one disk by parameters x, y, a, b, bx, by, cx, cy, written out again."""
    x, y, a, b, bx, by, cx, cy = p
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    u, v = (i - center[0]) / radius, (j - center[1]) / radius
    d = 1 / (1 + np.exp(np.clip(4 * (np.hypot(i - x, j - y) - radius) / width, -60, 60)))
    return b + bx * u + by * v + (a + cx * u + cy * v) * d


@pytest.mark.parametrize("slopes", [(0.0, 0.0, 0.0, 0.0), (1.5, -0.7, 20.0, -35.0)])
def test_information_is_the_curvature_of_the_likelihood(slopes):
    """The mean log likelihood of counts is -Σ (λ₀ ln λ₀/λ - λ₀ + λ); the information is minus its second derivatives."""
    at = np.array([20.3, 22.6, 100.0, 15.0, *slopes])
    shape, center = (42, 45), at[:2].copy()

    def divergence(p):
        m = expected(p, shape, center, 6.0, 1.3)
        return (truth * np.log(truth / m) - truth + m).sum()

    truth = expected(at, shape, center, 6.0, 1.3)
    h = np.array([1e-3, 1e-3, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2, 1e-2])
    wanted = np.empty((8, 8))
    for i in range(8):
        for j in range(8):
            e, f = np.eye(8)[i] * h, np.eye(8)[j] * h
            wanted[i, j] = (divergence(at + e + f) - divergence(at + e - f) - divergence(at - e + f) + divergence(at - e - f)) / (
                4 * h[i] * h[j]
            )
    tilt = np.array([[at[6] / at[2], at[7] / at[2]]])
    got = fisher(soft(6.0, 1.3), truth, center[None], at[2:3], 8, reach=99.0, tilts=tilt)[0]
    if any(slopes):  # here the slope inside moves with the disk: the same information by other parameters, so the same bound
        np.testing.assert_allclose(variances(got), variances(wanted), rtol=1e-4)
    else:
        size = np.sqrt(np.diag(wanted))
        np.testing.assert_allclose(got / size / size[:, None], wanted / size / size[:, None], atol=2e-5)


@pytest.mark.parametrize("background", [0.0, 0.03, 0.5, 20.0])
@pytest.mark.parametrize("radius, width", [(12.0, 1.0), (20.0, 2.0)])
def test_bound_of_a_thin_edge_is_the_closed_form(radius, width, background):
    height, at = 40.0, np.array([[40.2, 39.7]])
    image = height * (soft(radius, width).image((81, 81), tuple(at[0])) + background) + 1e-12
    bound = np.sqrt(variances(fisher(soft(radius, width), image, at, np.array([height]), 2)))[0]
    np.testing.assert_allclose(bound, closed_form(radius, width, height, background * height), rtol=0.05)


def test_closed_form_scales_as_it_says():
    assert closed_form(6.0, 1.0, 100.0) == pytest.approx(np.sqrt(1 / (2 * np.pi * 6.0 * 100.0)))
    assert closed_form(6.0, 2.0, 100.0) == pytest.approx(np.sqrt(2) * closed_form(6.0, 1.0, 100.0))
    electrons = np.pi * 36 * 100
    assert closed_form(6.0, 1.0, 100.0) == pytest.approx(np.sqrt(1.0 * 6.0 / (2 * electrons)))
    f = np.linspace(0, 1, 200001)
    for beta in (1e-4, 0.03, 0.7, 9.0, 900.0):
        assert edge_factor(beta) == pytest.approx(np.trapezoid(f * (1 - f) / (f + beta), f), rel=1e-4)
    assert edge_factor(1e3 * 1.001) == pytest.approx(edge_factor(1e3 / 1.001), rel=0.01)


def test_profiles():
    for profile in (soft(6.0, 0.7), bullseye(9.0)):
        r = np.linspace(0.01, 14, 300)
        h = 1e-5
        np.testing.assert_allclose(profile.slope(r), (profile.value(r + h) - profile.value(r - h)) / (2 * h), atol=1e-8)
        assert profile.electrons() == pytest.approx(profile.image((61, 61), (30.3, 29.8)).sum(), rel=1e-3)
    rings = bullseye(9.0, 0.05).value(np.array([0.5, 2.0, 3.2, 4.5, 8.5]))  # zones of 9/7 px: bright, dark, bright, dark, … bright
    np.testing.assert_allclose(rings, [1.0, 0.3, 1.0, 0.3, 1.0], atol=1e-6)


def test_more_unknowns_and_fewer_pixels_never_help():
    some = disk_scenes.scene(1e4, patterns=2, background=0.2)
    bounds = [some.bound(2), some.bound(2, 9.0), some.bound(4, 9.0), some.bound(6, 9.0), some.bound(8, 9.0)]
    for less, more in pairwise(bounds):
        assert (more >= less * (1 - 1e-9)).all()
    np.testing.assert_allclose(disk_scenes.scene(4e4, patterns=2, background=0.2).bound(), bounds[0] / 4, rtol=1e-3)


def points(lists):
    count = np.array([len(p) for p in lists])
    flat = np.concatenate([np.asarray(p, float).reshape(-1, 2) for p in lists])
    fields = {"qx": flat[:, 0], "qy": flat[:, 1], "sx": 0 * flat[:, 0] + 0.1, "sy": 0 * flat[:, 0] + 0.2}
    return gpu4d.PointListArray(np.concatenate([[0], np.cumsum(count)]), fields, (len(lists),))


def test_every_disk_gets_the_nearest_point():
    truth = np.array([[[10.0, 10.0], [30.0, 10.0]], [[11.0, 10.0], [30.0, 12.0]]])
    found = disk_scenes.matched(points([[(10.2, 9.9), (10.9, 10.0), (20.0, 20.0)], [(30.0, 12.5)]]), truth)
    assert found.seen.tolist() == [[True, False], [False, True]]
    np.testing.assert_allclose(found.errors[0, 0], [0.2, -0.1], atol=1e-12)
    np.testing.assert_allclose(found.errors[1, 1], [0.0, 0.5], atol=1e-12)
    np.testing.assert_allclose(found.sigmas[0, 0], [0.1, 0.2])
    assert found.false == 2  # a second one at the first disk, and one where none is


def test_figures_of_known_errors():
    rng = np.random.default_rng(0)
    errors, sigma = rng.normal(0.01, 0.2, (50, 100, 2)), np.full((50, 100, 2), 0.2)
    row = judged([disk_scenes.Found(errors, sigma, 5)], {2: np.full((50, 100, 2), 0.01)})
    assert row["ratio"] == pytest.approx(2.0, rel=0.03) and row["rms"] == pytest.approx(0.2, rel=0.03)
    assert row["bias x"] == pytest.approx(0.01, abs=3 * row["bias error"]) and row["bias error"] == pytest.approx(0.2 / 5000**0.5, rel=0.05)
    assert row["inside 1 sigma"] == pytest.approx(0.683, abs=0.015) and row["false"] == 0.1 and row["recall"] == 1.0


@pytest.mark.parametrize("shape", [(24, 24), (25, 32)])
def test_exact_maximum_of_a_map_that_is_known(shape):
    """A pattern whose correlation is one cosine hill, cos(2π (x - cx) / Qx) + cos(2π (y - cy) / Qy)."""
    center = np.array([11.37, 12.81])
    x, y = (2 * np.pi * (np.arange(n) - c) / n for n, c in zip(shape, center))
    pattern = 3.0 + np.cos(x)[:, None] + np.cos(y)[None, :]
    kernel = np.zeros(shape)
    kernel[0, 0] = 1.0
    got = disk_scenes.exact_maxima(pattern[None], gpu4d.probe.Template.from_kernel(kernel, 1.0), center[None, None] + 0.2)
    np.testing.assert_allclose(got[0, 0], center, atol=1e-10)


def test_the_likelihood_is_at_the_bound_and_no_better():
    some = disk_scenes.scene(1e4, patterns=30, seed=3)
    found = disk_scenes.find(some, gpu4d.probe.template(some.probe()), refine="likelihood")
    ratio = np.sqrt((found.errors**2).mean() / some.bound().mean())
    assert found.seen.all() and found.false == 0
    assert 0.94 < ratio < 1.12  # of 1500 values: ± 2 %


@pytest.mark.slow
def test_command(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.setattr(precision, "QUICK", 2)
    precision.main([str(tmp_path), "--quick", "--only", "dose", "bullseye"])
    told = capsys.readouterr().out
    assert "## dose" in told and "bullseye / bound" in told
    assert (tmp_path / "dose.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "precision.json").read_text(encoding="utf-8"))["studies"]["dose"]
    with (tmp_path / "dose.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows) == 30
    assert [float(r["electrons"]) for r in table] == [r["electrons"] for r in rows]
    assert all(abs(float(r["ratio"]) - float(r["rms"]) / float(r["bound 2"])) < 1e-3 * float(r["ratio"]) for r in table)


def test_the_page_shows_what_is_there(checkout):
    page = (checkout / "docs" / "explanation" / "precision.md").read_text(encoding="utf-8")
    shown = {line.split("](")[1].split(")")[0] for line in page.splitlines() if line.startswith("![")}
    assert shown and all((checkout / "docs" / "explanation" / name).is_file() for name in shown)
    assert {f"precision/{name}.csv" for name in precision.STUDIES} <= {
        f"precision/{p.name}" for p in (checkout / "docs" / "explanation" / "precision").glob("*.csv")
    }


def test_strain_bound_of_equal_disks_is_a_fit_to_their_places():
    """With variance σ² each and Σ q qᵀ diagonal, ε_xx has σ² / Σ qx²: a strain moves every disk by -ε q. And theta both axes' share."""
    g = np.array([[23.3, 0.0], [0.0, 19.4]])
    h, k = np.mgrid[-2:3, -1:2].reshape(2, -1)
    profile, at = soft(6.0, 2.0), np.array([64.2, 63.7]) + np.stack([h, k], -1) @ g
    image = 100 * sum(profile.image((128, 128), tuple(p)) for p in at) + 10.0
    heights = np.full(len(at), 100.0)
    zero = np.zeros((1, len(at), 2))
    some = disk_scenes.Scene(image[None].astype("uint16"), image[None], at[None], heights[None], zero, profile)
    got = strain_variances(some, np.stack([h, k], -1), np.eye(2)[None], g, 2, None)[0]
    each = variances(fisher(profile, image, at, heights, 2)).mean()
    xx, yy = ((np.stack([h, k], -1) @ g) ** 2).sum(0)
    np.testing.assert_allclose(got[:2], [each / xx, each / yy], rtol=0.02)
    np.testing.assert_allclose(got[2:], (each / xx + each / yy) / 4, rtol=0.02)


def test_components_of_a_stretched_and_turned_lattice():
    stretch, angle = np.array([[1.02, 0.004], [0.004, 0.99]]), 0.03
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(components(turn @ stretch), [0.02, -0.01, 0.004, 0.03], atol=1e-12)
