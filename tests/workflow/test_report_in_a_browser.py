"""The page of a report in a headless Chromium: on a narrow screen, by keyboard, on paper, and as pictures that are made larger."""

from types import SimpleNamespace

import numpy as np
import pytest
from contrast import faint_texts

import gpu4d
from benchmarks.chromium import Browser, program
from gpu4d import plot
from gpu4d.workflow import Recipe
from gpu4d.workflow.picture import IMAGES, STRAIN, Picture
from gpu4d.workflow.record import Record
from gpu4d.workflow.report.methods import numbered
from gpu4d.workflow.report.pictures import keep
from gpu4d.workflow.report.provenance import provenance
from gpu4d.workflow.report.report import Page, write
from gpu4d.workflow.report.verdict import verdict

pytestmark = [pytest.mark.slow, pytest.mark.skipif(program() is None, reason="Chromium is not installed: it opens the page")]
SHAPE = (12, 9)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with a map, a wide picture of maps, a curve, gates that were passed, warn and fail, and long words in tables."""
    folder = tmp_path_factory.mktemp("report")
    rng, names = np.random.default_rng(0), ("exx", "eyy", "exy", "theta")
    maps = {name: gpu4d.RealSlice(rng.normal(0, 0.01, SHAPE), name, "1", 20.0, "Å") for name in names}
    record = Record()
    record.measure("sharpness", 0.1, "0.1 of the radius")
    record.measure("strain_trace", -1.0, "slope −1")
    record.figure("Strain", "-1 to 1 %", "of " + "a" * 60)
    drawn = [
        (Picture("all", STRAIN, "Strain", "Four components.", wide=True), plot.strain(SimpleNamespace(**maps, axes="scan"))),
        (Picture("one", IMAGES, "One", "One map."), plot.image(maps["exx"], "One")),
        (Picture("curve", IMAGES, "Counts", "A histogram."), plot.histogram([1, 2, 2], "Counts")),
    ]
    c = gpu4d.Calibration(r_pixel=20.0)
    made = Page(
        "scan", "12×9", "Strain.", record, c, Recipe(), [keep(*one, folder) for one in drawn], versions="gpu4d", scan_shape=SHAPE,
        verdict=verdict(record, c, {"rotation": ["strain"]}, preview=False, measured=True), methods=numbered("Disks [@pekin2017]."),
        provenance=provenance(None, {"TEM": {"note": "x" * 200}}, "cpu", "gpu4d run " + "y" * 200), command="gpu4d run scan.h5",
    )  # fmt: skip
    return write(made, folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def opened(browser, page):
    browser.resize(1200, 800)
    browser.events.clear()
    browser.open("about:blank")
    browser.open(page.as_uri())
    browser.wait("document.querySelectorAll('figure.map canvas').length == 2")
    yield browser
    assert browser.problems() == []


WIDER = "[...document.querySelectorAll('.scroll')].filter((s) => s.checkVisibility() && s.scrollWidth > s.clientWidth + 1).length"


def test_everything_fits_a_phone_and_a_desk(opened):
    opened.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    for width in (400, 1200):
        opened.resize(width, 800)
        assert opened.run("document.documentElement.scrollWidth") <= width
        assert opened.run(WIDER) == 0, "no picture and no table is wider than the page"


def test_a_picture_becomes_larger_and_fits_again_by_keyboard(opened):
    opened.resize(400, 800)
    before = opened.run("document.querySelector('figure.wide img').clientWidth")
    opened.run("document.querySelector('figure.wide .enlarge').focus()")
    opened.key("Enter")
    assert opened.run("document.querySelector('figure.wide img').clientWidth") > 950 > before
    assert opened.run("document.querySelector('figure.wide .enlarge').getAttribute('aria-pressed')") == "true"
    assert opened.run("document.documentElement.scrollWidth") <= 400, "the picture scrolls, and the page does not"
    opened.key("Enter")
    assert opened.run("document.querySelector('figure.wide img').clientWidth") == before
    opened.run("document.querySelector('figure:not(.map) img').click()")
    assert opened.run("document.querySelector('figure.large').classList.contains('map')") is False


def test_all_controls_are_reached_by_tab_and_show_where_the_focus_is(opened):
    opened.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    count = opened.run("document.querySelectorAll('a[href], button, summary, input, .shown canvas').length")
    seen = set()
    for _ in range(count + 10):
        opened.key("Tab")
        at = "const e = document.activeElement, s = getComputedStyle(e);"
        number, outline, tag = opened.run(
            f"(() => {{ {at} return [[...document.querySelectorAll('*')].indexOf(e), s.outlineStyle + s.outlineWidth, e.tagName] }})()"
        )
        if tag == "BODY":
            break
        seen.add(number)
        assert outline == "solid3px", tag
    assert len(seen) >= count > 15


def test_arrow_keys_move_the_cursor_of_a_map(opened):
    opened.run("document.querySelectorAll('.shown canvas')[1].focus()")
    opened.key("ArrowDown")
    first = opened.run("document.querySelectorAll('output.read')[1].textContent")
    opened.key("ArrowRight")
    second = opened.run("document.querySelectorAll('output.read')[1].textContent")
    assert first.startswith("position (7, 4)") and second.startswith("position (7, 5)")


def test_texts_have_enough_contrast(opened):
    opened.run("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    faint, count = faint_texts(opened)
    assert faint == [] and count > 100


def test_on_paper_there_are_pictures_and_no_controls(opened):
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        opened.resize(720, 1000)
        assert opened.run("document.documentElement.scrollWidth") <= 720
        assert (
            opened.run("[...document.querySelectorAll('button, .shown canvas, output.read')].filter((e) => e.checkVisibility()).length")
            == 0
        )
        assert opened.run("[...document.querySelectorAll('figure img')].every((i) => i.checkVisibility() && i.clientWidth > 200)")
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")
