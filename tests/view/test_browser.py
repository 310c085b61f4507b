"""The page in a headless Chromium, by clicking and dragging."""

import base64
import dataclasses
import json

import numpy as np
import pytest
from contrast import faint_texts
from moved_detectors import own_origins, summed_around

import gpu4d
from benchmarks.chromium import Browser, program
from gpu4d.view import Overlays, ViewServer, detector_from, export_page, front_end, view_of
from gpu4d.view.answers import Answers
from gpu4d.view.widget import RENDER, reply

pytestmark = [pytest.mark.slow, pytest.mark.skipif(program() is None, reason="Chromium is not installed: it opens the page")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(params=["server", "page"])
def page(request, browser, counts, server, tmp_path):
    """The viewer of the small scan, from a server and as a page of its own."""
    browser.events.clear()
    browser.resize(1200, 800)
    browser.open(server.url if request.param == "server" else export_page(counts, tmp_path / "scan.html").as_uri())
    browser.wait("document.querySelector('#gpu4d-view')?.dataset.state == 'ready' && gpu4dView.timing.images")
    yield browser
    assert browser.problems() == []


def place(browser, panel, pixel):
    """Return where a pixel of a panel is on the screen."""
    script = f"const p = gpu4dView.{panel}, r = p.canvas.getBoundingClientRect(), a = p.at({list(pixel)}); return [r.x + a[0], r.y + a[1]]"
    return tuple(browser.run(f"(() => {{ {script} }})()"))


def shown(browser, panel):
    """Return the values that a panel shows."""
    held = browser.run(f"[[...gpu4dView.{panel}.image.values], gpu4dView.{panel}.image.rows, gpu4dView.{panel}.image.columns]")
    return np.array([np.nan if v is None else v for v in held[0]], float).reshape(held[1], held[2])


def settle(browser, count):
    browser.wait(f"gpu4dView.timing.images > {count} && performance.now() - gpu4dView.timing.last > 150")


def images(browser):
    return browser.run("gpu4dView.timing.images")


def swept(counts, detector):
    return np.asarray(gpu4d.virtual_image(counts, detector_from(detector)))


def test_the_image_follows_the_detector(page, counts):
    before, start = images(page), page.run("gpu4dView.state.detector.center")
    path = [place(page, "pattern", (start[0] + d, start[1] + d)) for d in (0, 1, 2, 3, 4)]
    page.drag(*path)
    settle(page, before)
    detector = page.run("gpu4dView.state.detector")
    assert detector["center"] == pytest.approx([start[0] + 4, start[1] + 4], abs=0.5)
    assert np.array_equal(shown(page, "image"), swept(counts, detector))


def test_an_edge_changes_the_radius_and_a_click_brings_the_detector(page, counts):
    before, own = images(page), page.run("gpu4dView.state.detector")
    edge = place(page, "pattern", (own["center"][0], own["center"][1] + own["outer"]))
    page.drag(edge, place(page, "pattern", (own["center"][0], own["center"][1] + 7.0)))
    settle(page, before)
    assert page.run("gpu4dView.state.detector.outer") == pytest.approx(7.0, abs=0.5)
    assert page.run("gpu4dView.state.detector.center") == own["center"]
    before = images(page)
    page.drag(place(page, "pattern", (17, 2)))
    settle(page, before)
    detector = page.run("gpu4dView.state.detector")
    assert detector["center"] == [17, 2]
    assert np.array_equal(shown(page, "image"), swept(counts, detector))


def test_shapes_and_keys(page, counts):
    for shape in ("annulus", "rectangle"):
        before = images(page)
        chosen = f"const s = document.querySelector('[aria-label^=\"detector: shape\"]'); s.value = '{shape}'"
        page.run(f"(() => {{ {chosen}; s.dispatchEvent(new Event('change')) }})()")
        page.run("gpu4dView.pattern.canvas.focus()")
        center = page.run("gpu4dView.state.detector.center")
        page.key("ArrowDown")
        page.key("ArrowLeft", shift=True)
        settle(page, before)
        detector = page.run("gpu4dView.state.detector")
        assert detector["shape"] == shape and detector["center"] == [center[0] + 1, center[1] - 5]
        assert np.array_equal(shown(page, "image"), swept(counts, detector))


def test_positions_and_regions_show_their_patterns(page, counts):
    patterns = counts.source.array
    page.drag(place(page, "image", (2, 9)))
    page.wait("gpu4dView.state.drawn.position?.[1] == 9")
    assert np.array_equal(shown(page, "pattern"), patterns[2, 9])
    page.run("gpu4dView.image.canvas.focus()")
    page.key("ArrowDown")
    page.wait("gpu4dView.state.drawn.position?.[0] == 3")
    assert np.array_equal(shown(page, "pattern"), patterns[3, 9])
    page.run("gpu4dView.setTool('region')")
    page.drag(place(page, "image", (6, 4)), place(page, "image", (3, 7)))
    page.wait("gpu4dView.state.drawn.rows")
    np.testing.assert_allclose(shown(page, "pattern"), patterns[3:7, 4:8].mean(axis=(0, 1)), rtol=1e-12)


def test_a_profile_is_that_of_the_image(page):
    page.run("gpu4dView.setTool('profile')")
    page.drag(place(page, "image", (4, 1)), place(page, "image", (4, 9)))
    assert not page.run("document.querySelector('.profile').hidden")
    line = page.run("gpu4dView.state.line")
    assert np.round(line).tolist() == [[4, 1], [4, 9]]


def test_limits_are_dragged_on_the_histogram(page):
    low, high = page.run("[gpu4dView.image.look.low, gpu4dView.image.look.high]")
    box = page.run("(() => { const r = gpu4dView.image.histogram.getBoundingClientRect(); return [r.x, r.y, r.width, r.height] })()")
    y = box[1] + box[3] / 2
    page.drag((box[0] + box[2] - 2, y), (box[0] + box[2] / 2, y))
    now = page.run("[gpu4dView.image.look.low, gpu4dView.image.look.high]")
    assert now[0] == low and low < now[1] < high


def test_nothing_is_wider_than_a_narrow_screen(page):
    for width in (1200, 400):
        page.resize(width, 800)
        assert page.run("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("kind", ["server", "page"])
def test_a_detector_follows_the_beam_while_it_is_dragged_in_the_pattern_of_a_position(browser, descanned, tmp_path, kind):
    local = np.tile(np.array([[11.0, 0.5], [-0.5, 11.0]]), (*descanned.scan_shape, 1, 1))
    local[0, 0] = np.nan
    overlays = Overlays(lattice=np.array([[10.0, 0.0], [0.0, 10.0]]), local=local)
    server = ViewServer(dataclasses.replace(view_of(descanned), overlays=overlays))
    server.start()
    try:
        browser.open(server.url if kind == "server" else export_page(descanned, tmp_path / "a.html", bin=1, overlays=overlays).as_uri())
        browser.wait("document.querySelector('#gpu4d-view')?.dataset.state == 'ready' && gpu4dView.timing.images")
        browser.run("gpu4dView.pick([8, 10])")
        browser.wait("gpu4dView.state.drawn.position?.[0] == 8")
        origin, own = np.asarray(descanned.calibration.origin)[8, 10], browser.run("gpu4dView.state.detector")
        assert np.allclose(browser.run("gpu4dView.state.drawn.origin"), origin)
        np.testing.assert_allclose(browser.run("gpu4dView.state.drawn.lattice"), local[8, 10])
        mean = np.asarray(descanned.calibration.origin_mean)
        there = np.asarray(own["center"]) + origin - mean  # where the detector is drawn in this pattern
        assert np.hypot(*(origin - mean)) > 2
        before = images(browser)
        browser.drag(*(place(browser, "pattern", (there + d).tolist()) for d in (0, 1, 2)))
        settle(browser, before)
        detector = browser.run("gpu4dView.state.detector")
        assert detector["center"] == pytest.approx([own["center"][0] + 2, own["center"][1] + 2], abs=0.5)
        assert np.array_equal(shown(browser, "image"), summed_around(descanned, own_origins(descanned, detector), detector))
        for asked in ({"shape": "annulus", "inner": 5.5, "outer": 14}, {"shape": "rectangle", "height": 9, "width": 14}):
            before = images(browser)
            browser.run(f"(Object.assign(gpu4dView.state.detector, {json.dumps(asked)}), gpu4dView.detectorMoved())")
            settle(browser, before)
            detector = browser.run("gpu4dView.state.detector")
            assert np.array_equal(shown(browser, "image"), summed_around(descanned, own_origins(descanned, detector), detector))
        before = images(browser)
        browser.run("document.querySelector('.follow input').click()")
        settle(browser, before)
        assert np.array_equal(shown(browser, "image"), swept(descanned, detector))
        browser.run("gpu4dView.pick([0, 0])")
        browser.wait("gpu4dView.state.drawn.position?.[0] == 0")
        assert browser.run("gpu4dView.state.drawn.lattice") is None and browser.run("'lattice' in gpu4dView.state.drawn")
    finally:
        server.close()


def test_a_binned_scan_becomes_exact_when_the_mouse_rests(browser, counts):
    server = ViewServer(view_of(counts, memory=counts.nbytes // 4))
    server.start()
    try:
        browser.open(server.url)
        browser.wait("document.querySelector('#gpu4d-view')?.dataset.state == 'ready' && gpu4dView.state.exact")
        start = browser.run("gpu4dView.state.detector.center")
        before = images(browser)
        browser.drag(*(place(browser, "pattern", (start[0] + d, start[1])) for d in (0, 1, 2)))
        browser.wait(f"gpu4dView.timing.images > {before} && gpu4dView.state.exact && performance.now() - gpu4dView.timing.last > 200")
        assert np.array_equal(shown(browser, "image"), swept(counts, browser.run("gpu4dView.state.detector")))
    finally:
        server.close()


def test_the_module_of_a_notebook_asks_by_messages(browser, counts):
    """A stand-in for the notebook: the test carries the messages between the page and the kernel's side."""
    view = view_of(counts)
    answers, code = Answers(view), base64.b64encode((front_end.module() + RENDER).encode()).decode()
    browser.events.clear()
    browser.open("about:blank")
    browser.wait("document.body")
    browser.run(
        f"""(() => {{
        globalThis.sent = [];
        const about = {json.dumps(json.dumps(view.about()))};
        const model = {{ get: () => about, on: (_, call) => (globalThis.receive = call), send: (m) => sent.push(m) }};
        const text = new TextDecoder().decode(Uint8Array.from(atob("{code}"), (c) => c.charCodeAt(0)));
        import(URL.createObjectURL(new Blob([text], {{ type: "text/javascript" }})))
          .then((m) => m.default.render({{ model, el: document.body }})).catch((e) => (globalThis.failed = String(e)));
        }})()"""
    )
    for _ in range(200):
        for asked in browser.run("sent.splice(0)"):
            said, buffers = reply(answers, asked)
            data = base64.b64encode(buffers[0]).decode()
            browser.run(f"receive({json.dumps(said)}, [new DataView(Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0)).buffer)])")
        if browser.run("globalThis.gpu4dView?.timing.images && gpu4dView.pattern.image && 1"):
            break
    assert browser.run("globalThis.failed") is None
    assert np.array_equal(shown(browser, "image"), swept(counts, view.about()["start"]))
    assert browser.problems() == []


def test_texts_of_the_viewer_have_enough_contrast_and_controls_show_the_focus(page):
    page.run("gpu4dView.setTool('region')")
    faint, count = faint_texts(page)
    assert faint == [] and count > 10
    controls = page.run("document.querySelectorAll('#gpu4d-view :is(button, select, input, .plane)').length")
    for _ in range(controls):
        page.key("Tab")
        focused = "(() => { const e = document.activeElement, s = getComputedStyle(e);"
        focused += " return [e.tagName, s.outlineStyle + s.outlineWidth] })()"
        tag, outline = page.run(focused)
        assert tag == "BODY" or outline == "solid3px", tag


def test_regions_and_profiles_are_drawn_by_keys(page, counts):
    page.run("gpu4dView.pick([2, 3])")
    page.wait("gpu4dView.state.drawn.position?.[0] == 2")
    page.run("(gpu4dView.setTool('region'), gpu4dView.image.canvas.focus())")
    page.key("ArrowDown")
    page.key("ArrowLeft")
    page.wait("gpu4dView.state.drawn.rows?.[1] == 4 && gpu4dView.state.drawn.columns[0] == 2")
    assert page.run("gpu4dView.state.region") == [[2, 4], [2, 4]]
    np.testing.assert_allclose(shown(page, "pattern"), counts.source.array[2:4, 2:4].mean(axis=(0, 1)), rtol=1e-12)
    page.run("(gpu4dView.setTool('profile'), gpu4dView.pick([2, 3]), gpu4dView.setTool('profile'), gpu4dView.image.canvas.focus())")
    page.key("ArrowRight", shift=True)
    assert page.run("gpu4dView.state.line") == [[2, 3], [2, 8]]
