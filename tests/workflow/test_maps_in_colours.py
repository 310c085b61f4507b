"""Maps in colours in a report: what their colours stand for, as values and as a browser reads them out."""

import json

import numpy as np
import pytest

import gpu4d
from benchmarks.chromium import Browser, program
from gpu4d import plot
from gpu4d.orientation import Grain, Orientations, matrices_of
from gpu4d.structures import Structure
from gpu4d.workflow import Recipe
from gpu4d.workflow.picture import CLASSES, IMAGES, ORIENTATION, Picture
from gpu4d.workflow.record import Record
from gpu4d.workflow.report import report
from gpu4d.workflow.report.panels import unpacked
from gpu4d.workflow.report.pictures import keep
from gpu4d.workflow.report.report import Page, write

SHAPE = (6, 8)
TO_111 = (30.0, float(np.degrees(np.arccos(1 / np.sqrt(3)))), 45.0)  # Euler angles that put [1 1 1] of a cube along the beam


def field():
    x, y = np.meshgrid(np.linspace(-1.5, 1, 6), np.linspace(-2, 2, 8), indexing="ij")
    x[0, 0] = np.nan
    return np.stack([x, y])


def orientations():
    """Gold that looks along [1 1 1], but in the last column along [0 0 1], and without an orientation at the first position."""
    angles = np.tile(np.radians(TO_111), (*SHAPE, 1))
    angles[:, -1] = np.radians((200.0, 0.0, 0.0))
    phase = np.zeros(SHAPE, np.int64)
    phase[0, 0] = -1
    matrices, ones = matrices_of(angles), np.ones(SHAPE)
    matrices[0, 0] = np.nan
    grain = Grain(matrices, phase, ones, ones, np.full(SHAPE, np.inf), matrices, phase, np.full((*SHAPE, 3, 3), 1e-6))
    return Orientations(grain, grain, (Structure.standard("Au"),), (50.0,), 10.0)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with a vector field, classes and orientations."""
    folder = tmp_path_factory.mktemp("colours")
    labels = gpu4d.RealSlice(
        np.where(np.arange(8) < 3, 0.0, np.where(np.arange(8) < 7, 1.0, -1.0)) + np.zeros(SHAPE), "class", "1", 10.0, "Å"
    )
    drawn = [
        (Picture("com", IMAGES, "Field", "A field."), plot.com(gpu4d.RealSlice(field(), "com", "px", 10.0, "Å"), remove_mean=False)),
        (Picture("classes", CLASSES, "Classes", "Classes."), plot.label_map(labels, ["0: matrix", "1: <particle>"], "Classes")),
        (Picture("ipf", ORIENTATION, "Orientation", "Orientations."), plot.orientation_map(orientations())),
    ]
    pictures = [keep(*one, folder) for one in drawn]
    made = Page("scan", "6×8", "Found.", Record(), gpu4d.Calibration(r_pixel=10.0), Recipe(), pictures, versions="gpu4d", scan_shape=SHAPE)
    return made, write(made, folder)


def test_colours_bring_the_values_that_they_stand_for(page):
    com, classes, ipf = (json.loads(report.maps_of(picture, SHAPE)) for picture in page[0].pictures)
    (vector,), (name,), (orientation,) = com, classes, ipf  # one map each: the legends are none
    assert vector["reading"]["kind"] == "vector" and vector["units"] == "px"
    for packed, expected in zip(vector["reading"]["maps"], field()):
        np.testing.assert_allclose(unpacked(packed, SHAPE), expected, atol=4 / 65534)
    assert name["reading"]["names"] == ["0: matrix", "1: <particle>"]
    assert unpacked(name["reading"]["maps"][0], SHAPE)[0].tolist()[:7] == [0, 0, 0, 1, 1, 1, 1]
    maps = np.stack([unpacked(one, SHAPE) for one in orientation["reading"]["maps"]])
    np.testing.assert_allclose(maps[:, 2, 3], [*TO_111, 1, 1, 1], atol=0.01)
    np.testing.assert_allclose(maps[3:, 2, 7], [0, 0, 1], atol=1e-3)
    assert np.isnan(maps[:, 0, 0]).all() and {vector["grid"]} == {name["grid"], orientation["grid"]}


def test_the_kept_colours_are_those_of_the_picture(page):
    from matplotlib.image import imread

    made, path = page
    for picture in made.pictures:
        (panel,) = picture.panels
        drawn = imread(path.parent / f"{picture.name}.png")
        left, top, width, height = panel.place
        rows, columns = SHAPE
        x = ((left + width * (np.arange(columns) + 0.5) / columns) * drawn.shape[1]).astype(int)
        y = ((top + height * (np.arange(rows) + 0.5) / rows) * drawn.shape[0]).astype(int)
        assert np.abs(255 * drawn[y[:, None], x, :3] - panel.rgb).max() <= 3, picture.name


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="Chromium is not installed: it opens the page")
def test_a_browser_reads_colours_out(page, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open(page[1].as_uri())
        browser.wait("document.querySelectorAll('figure.map canvas').length == 3")

        def read(position):
            """Point at a position of the first map, and return what stands below all three."""
            left, top, width, height = page[0].pictures[0].panels[0].place
            share = left + width * (position[1] + 0.5) / SHAPE[1], top + height * (position[0] + 0.5) / SHAPE[0]
            at = browser.run(
                "(() => { const c = document.querySelector('figure.map canvas'); c.scrollIntoView({ block: 'center' });"
                f"const r = c.getBoundingClientRect(); return [r.x + {share[0]} * r.width, r.y + {share[1]} * r.height] }})()"
            )
            browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
            return [
                text.split(" · ")[-1] for text in browser.run("[...document.querySelectorAll('output.read')].map((o) => o.textContent)")
            ]

        x, y = field()[:, 4, 2]
        length, turn = np.hypot(x, y), np.degrees(np.arctan2(y, x))
        said = read((4, 2))
        assert said[0] == f"{length:.4g} px, {turn:.1f}° from x towards y".replace("-", "−")
        assert said[1:] == ["0: matrix", "[1 1 1], φ₁ 30.0°, Φ 54.7°, φ₂ 45.0°"]
        assert read((4, 7))[1:] == ["no value", "[0 0 1], φ₁ 200.0°, Φ 0.0°, φ₂ 0.0°"]
        assert read((4, 5))[1] == "1: <particle>"
        assert read((0, 0))[::2] == ["no value", "no value"]
        assert browser.run("[...document.querySelectorAll('.tools summary')].map((s) => s.textContent)") == ["Zoom"] * 3
        assert browser.problems() == []
    finally:
        browser.close()
