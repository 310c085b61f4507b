"""Pictures of fitted rings: where they are drawn, and what is refused."""

import numpy as np
import pytest

import gpu4d
from gpu4d.calibrate import ellipse_matrix, fit_rings
from gpu4d.errors import InputError

ELLIPSE = (1.06, 1.0, np.radians(30))
CENTER = np.array([58.2, 63.7])


@pytest.fixture(scope="module")
def pattern():
    v = np.stack(np.indices((120, 128)), axis=-1) - CENTER
    r = np.hypot(*np.moveaxis(v @ ellipse_matrix(ELLIPSE).T, -1, 0))
    return np.random.default_rng(0).poisson(4 + sum(60 * np.exp(-(((r - radius) / 1.5) ** 2)) for radius in (24.0, 34.0, 42.0)))


def test_rings_are_drawn_where_the_pattern_has_them(pattern):
    fit = fit_rings(pattern, [0.48, 0.68, 0.84])
    ax = gpu4d.plot.rings(pattern, fit)
    drawn = [line for line in ax.lines if (line.get_gid() or "").startswith("ring")]
    assert len(drawn) == 3
    for line, radius in zip(drawn, (24.0, 34.0, 42.0)):
        y, x = line.get_xdata(), line.get_ydata()  # matplotlib's x is the second axis
        away = np.hypot(*((np.stack([x, y], axis=-1) - CENTER) @ ellipse_matrix(ELLIPSE).T).T)
        np.testing.assert_allclose(away, radius, atol=0.1)
        assert (y <= CENTER[1] + 3).all(), "the left half"


def test_what_is_refused(pattern):
    fit = fit_rings(pattern, [0.48, 0.68, 0.84])
    with pytest.raises(InputError, match="fit is a float: need a RingFit"):
        gpu4d.plot.rings(pattern, 3.0)
    with pytest.raises(InputError, match="need the fitted one"):
        gpu4d.plot.rings(pattern[:90], fit)


def test_the_ring_of_a_halo_is_drawn_too():
    v = np.stack(np.indices((120, 128)), axis=-1) - CENTER
    r = np.hypot(*np.moveaxis(v @ ellipse_matrix(ELLIPSE).T, -1, 0))
    halo = np.random.default_rng(0).poisson(4 + 60 * np.exp(-(((r - 30) / 6) ** 2)))
    fit = gpu4d.calibrate.fit_halo(halo)
    made = gpu4d.plot.rings(halo, fit, pixel_size=0.02).figure
    (line,) = [line for line in made.axes[0].lines if (line.get_gid() or "").startswith("ring")]
    away = np.hypot(*((line.get_xydata()[:, ::-1] - CENTER) @ ellipse_matrix(ELLIPSE).T).T)
    np.testing.assert_allclose(away, fit.radius, atol=0.1)
    assert abs(fit.radius - 30) < 0.3 and "Å⁻¹" in next(t.get_text() for t in made.axes[0].texts if t.get_gid() == "scale bar label")
    assert "the fitted ring, left half; a/b = 1.06" in made.legends[0].get_texts()[0].get_text()
