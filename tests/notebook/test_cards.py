"""What notebooks show of results: facts with units, a small picture, nothing that stops the notebook."""

import base64
import html
import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import gpu4d
from gpu4d import RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.notebook.thumbnails import LARGEST, PATTERNS


def rows(text):
    """The table: names with values and remarks."""
    found = {}
    for name, cell in re.findall(r"<tr><th[^>]*>(.*?)</th><td[^>]*>(.*?)</td></tr>", text):
        found[html.unescape(name)] = html.unescape(re.sub(r"<[^>]*>", "", cell))
    return found


def picture(text):
    """The picture as an array, or None."""
    from PIL import Image

    found = re.search(r'src="data:image/png;base64,([^"]+)"', text)
    if found is None:
        return None
    png = base64.b64decode(found[1])
    assert len(png) <= LARGEST
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


class Counting:
    """A source in a file that counts what is read of it."""

    blocks, resident, description, path = (1, 1), False, "counts its reads", "scan<1>.raw"

    def __init__(self, shape, dtype="uint16"):
        self.shape, self.dtype, self.read_patterns = shape, np.dtype(dtype), 0

    def read(self, rows, columns, out=None):
        count = (rows.stop - rows.start, columns.stop - columns.start)
        self.read_patterns += count[0] * count[1]
        return np.full((*count, *self.shape[2:]), 7, self.dtype)


def test_a_scan_is_told_without_reading_it():
    source = Counting((64, 64, 32, 32))
    cube = gpu4d.DataCube(source, gpu4d.Calibration(energy=200e3, r_pixel=5.0), detector_mask=np.eye(32) == 0)
    text = cube._repr_html_()
    assert 1 <= source.read_patterns <= PATTERNS
    told = rows(text)
    assert told["scan"] == "64 × 64 positions" and told["detector"] == "32 × 32 px 32 masked"
    assert told["values"] == "uint16, 8.39 MB not loaded" and told["source"].startswith("scan<1>.raw")
    assert told["energy"] == "200000 eV" and told["scan step"] == "5 Å"
    assert told["semi-angle"] == told["rotation"] == told["detector pixel"] == "not known"
    assert "<1>" not in text and picture(text) is not None


@pytest.mark.parametrize("change", [{"lazy": object()}, {"shape": (4, 4, 8192, 8192)}, {"scratch_bytes": 10**9}])
def test_what_is_not_cheap_is_not_read(change):
    source = Counting((64, 64, 32, 32))
    vars(source).update(change)
    text = gpu4d.DataCube(source)._repr_html_()
    assert source.read_patterns == 0 and picture(text) is None and "not loaded" in text


def test_a_live_scan_has_no_picture():
    text = gpu4d.data.live_scan((64, 64, 128, 128), "uint16")._repr_html_()
    assert picture(text) is None and rows(text)["scan"] == "64 × 64 positions"


def test_the_picture_of_a_slice_is_the_slice():
    """Its upper half is bright and its lower half dark, so that x points down."""
    values = np.zeros((40, 40))
    values[:20] = 1.0
    text = RealSlice(values, "<b>half</b> & half", "counts", 5.0, "Å")._repr_html_()
    assert "<b>" not in text and "&lt;b&gt;half&lt;/b&gt; &amp; half" in text
    told = rows(text)
    assert told["shape"] == "40 × 40 float64" and told["values"] == "0 … 1 counts" and told["pixel"] == "5 Å"
    drawn = picture(text).astype(int)
    middle = drawn[:, drawn.shape[1] // 3].sum(axis=1)
    bright, dark = np.flatnonzero(middle > 700), np.flatnonzero(middle < 60)
    assert len(dark) > 50 and len(bright) > 50
    assert dark.mean() > len(middle) / 2, "small values, of large x, are drawn below"


@pytest.mark.parametrize(
    "values",
    [np.zeros((0, 5)), np.full((4, 4), np.nan), np.ones((3, 4, 5)) * 1j, np.random.default_rng(0).normal(size=(900, 700)), np.ones(7)],
    ids=["empty", "nan", "complex stack", "noise", "line"],
)
def test_any_slice_is_shown(values):
    text = RealSlice(values, "slice")._repr_html_()
    assert text is not None and rows(text)["pixel"] == "not known"
    drawn = picture(text)
    assert (drawn is not None) == (values.ndim > 1 and values.size > 0)


def test_a_calibration_says_what_is_not_known_and_how_the_rest_is():
    known = gpu4d.Calibration(energy=300e3, rotation=np.radians(30))
    known.set(q_pixel=0.02, how="rings of gold")
    known.set(q_pixel_error=1e-4, how="rings of gold")
    told = rows(known._repr_html_())
    assert told["detector pixel"] == "0.02 ± 0.0001 1/Å rings of gold" and told["rotation"] == "30.00°"
    assert told["semi-angle"] == told["ellipse"] == "not known" and told["energy"] == "300000 eV"


@pytest.mark.slow
def test_strain_shows_its_four_maps_and_its_warnings():
    scan = gpu4d.simulate.bragg_scan((6, 6), (96, 96), dose=300, seed=1)
    state = gpu4d.workflow.analyse(scan.cube)
    text = state.strain._repr_html_()
    assert "not calibrated" in rows(text)["warning"] and picture(text).shape[1] > 400
    whole = state._repr_html_()
    told = rows(whole)
    assert "strain" in told["results"] and re.fullmatch(r"\d+ of \d+ passed", told["quality gates"])
    assert np.array_equal(picture(whole), picture(text)), "the main result of the run"
    run = gpu4d.workflow.Result(Path("scan & more"), state)._repr_html_()
    assert "scan &amp; more" in run and rows(run)["report"].endswith("report.html")
    disks = rows(state["disks"]._repr_html_() if "disks" in state else state["braggvectors"]._repr_html_())
    assert disks["positions"] == "6 × 6" and "qx (px)" in disks["fields"]


def results():
    """Results of all kinds that are made at once."""
    yield gpu4d.probe.template(gpu4d.probe.synthetic((64, 48), 6.0))
    yield gpu4d.scan_drift(np.random.default_rng(0).normal(size=(16, 20)), r_pixel=2.0)
    yield gpu4d.crystal.Lattice(np.array([12.0, 0.0]), np.array([0.0, 12.0]))
    yield gpu4d.data.PointList({"qx": np.arange(3.0)}, {"qx": "px"})
    yield gpu4d.structures.Structure.standard("Au")
    yield gpu4d.data.Events(np.array([2, 4, 5]), np.arange(9), None, (3, 3))
    yield gpu4d.preprocess.BadPixels(np.eye(8, 9) > 0, np.zeros((8, 9), bool))


@pytest.mark.parametrize("result", list(results()), ids=lambda one: type(one).__name__)
def test_every_result_has_a_table(result):
    text = result._repr_html_()
    assert text is not None and type(result).__name__ in text and len(rows(text)) >= 1
    assert "array(" not in text and len(text) < 100_000 and "nan nan" not in text


def test_whatever_goes_wrong_the_notebook_shows_the_text():
    class Broken(Storable):
        def to_parts(self):
            raise RuntimeError("no parts")

    assert Broken()._repr_html_() is None, "IPython then shows repr"
    with pytest.raises(InputError, match="result is a ndarray: need a result"):
        gpu4d.notebook.html(np.eye(3))


def test_a_picture_that_cannot_be_drawn_leaves_the_table(monkeypatch):
    def broken(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr("gpu4d.notebook.thumbnails._how", broken)
    text = RealSlice(np.eye(4), "bf")._repr_html_()
    assert picture(text) is None and rows(text)["shape"] == "4 × 4 float64"


def test_without_matplotlib_there_is_a_table(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    text = RealSlice(np.eye(4), "bf")._repr_html_()
    assert picture(text) is None and rows(text)["shape"] == "4 × 4 float64"


def test_all_results_have_it():
    """Also those whose room is not imported here: the base class has it, and no class replaces it by an attribute."""
    import importlib
    import pkgutil

    for room in pkgutil.iter_modules(gpu4d.__path__[:1]):
        if room.ispkg:
            importlib.import_module(f"gpu4d.{room.name}")
    from gpu4d.data.storable import known_classes

    ours = {name: kind for name, kind in known_classes().items() if name.startswith("gpu4d.")}
    assert len(ours) > 60
    assert all(kind._repr_html_ is Storable._repr_html_ for kind in ours.values())
