"""The page of a report: maps with the values of the results, a script that reads them out, and nothing from elsewhere."""

import base64
import dataclasses
import hashlib
import html
import itertools
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest

import gpu4d
from gpu4d import plot
from gpu4d.workflow import Recipe, content
from gpu4d.workflow.content import content_of
from gpu4d.workflow.keeping.identity import scan_identity
from gpu4d.workflow.picture import DIFFRACTION, IMAGES, Picture
from gpu4d.workflow.record import Record
from gpu4d.workflow.report import report
from gpu4d.workflow.report.methods import numbered
from gpu4d.workflow.report.panels import packed, unpacked
from gpu4d.workflow.report.pictures import keep
from gpu4d.workflow.report.provenance import commit_of, provenance
from gpu4d.workflow.report.report import Page, write
from gpu4d.workflow.report.verdict import verdict

VOID = {"meta", "img", "br", "input", "link", "hr"}
SHAPE = (12, 9)


def strain_like():
    values = np.random.default_rng(0).normal(0, 1.5, SHAPE)
    values[0, :3] = np.nan
    return gpu4d.RealSlice(values, "exx", "%", 20.0, "Å"), np.full(SHAPE, 0.037)


def pattern_like():
    x, y = np.indices((16, 20))
    return gpu4d.DiffractionSlice(1e5 * np.exp(-((x - 8) ** 2 + (y - 9) ** 2) / 8.0) + 0.25, "mean", "counts", 0.02, "1/Å")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with a map with errors, a map of the same grid, and a pattern."""
    tmp_path = tmp_path_factory.mktemp("page")
    exx, error = strain_like()
    about = Picture("exx", IMAGES, "ε_xx", "A map <of> strain.", errors=(error,))
    pictures = [keep(about, plot.image(exx, "ε$_{xx}$", symmetric=True), tmp_path)]
    counts = gpu4d.RealSlice(np.arange(108.0).reshape(SHAPE), "bf", "counts", 20.0, "Å")
    pictures.append(keep(Picture("bf", IMAGES, "Bright field", "Counts."), plot.image(counts, "Bright field"), tmp_path))
    pictures.append(keep(Picture("mean", DIFFRACTION, "Mean", "Mean pattern."), plot.diffraction(pattern_like(), "Mean"), tmp_path))
    pictures.append(keep(Picture("curve", IMAGES, "Counts", "A histogram."), plot.histogram([1, 2, 2], "Counts"), tmp_path))
    record = Record()
    record.measure("sharpness", 0.1, "0.1 px", name="Sharpness")
    record.measure("strain_trace", 1.4, "slope 1.4", name="Sign of <strain>", advice="g was taken for d")
    c = gpu4d.Calibration(r_pixel=20.0)
    judged = verdict(record, c, {"rotation": ["strain"]}, preview=False, measured=True)
    paragraph = numbered("Disks [@pekin2017] & strain [@ozdol2015].")
    made = Page(
        "scan", "12×9", "Strain.", record, c, Recipe(), pictures, versions="gpu4d", verdict=judged, methods=paragraph,
        provenance=provenance(None, {"TEM": {"HT": 200e3, "note": "<b>"}}, "cpu", "gpu4d run scan.h5"), scan_shape=SHAPE,
    )  # fmt: skip
    return made, write(made, tmp_path)


# ---------------------------------------------------------------- values


def test_quantised_values_are_off_by_half_a_step_at_most():
    values = np.random.default_rng(1).normal(3, 100, (40, 50))
    values[3, 4] = np.nan
    found = packed(values)
    back = unpacked(found, (40, 50))
    span = np.nanmax(values) - np.nanmin(values)
    assert np.nanmax(np.abs(back - values)) <= 0.5001 * span / 65534 and found["type"] == "u2"
    assert np.array_equal(np.isnan(back), np.isnan(values))


@pytest.mark.parametrize(
    "values",
    [
        np.array([[0.0, 65534.0], [7.0, 65533.0]]),
        np.array([[-3.0, np.nan], [5.0, 0.0]]),
        np.full((2, 2), np.nan),
        np.full((2, 2), 0.1),
    ],
    ids=["counts", "missing", "nothing", "constant"],
)
def test_counts_missing_and_constant_values_are_exact(values):
    assert np.array_equal(unpacked(packed(values), (2, 2)), values, equal_nan=True)


def test_values_over_many_decades_keep_their_relative_precision():
    values = np.geomspace(1e-6, 1e9, 60).reshape(6, 10)
    assert np.allclose(unpacked(packed(values, exact=True), (6, 10)), values, rtol=1e-7, atol=0)


def test_a_map_is_where_the_picture_shows_it(page):
    """The colour in the middle of each cell, at the place that the page is told, is the colour of its value."""
    from matplotlib.image import imread

    made, path = page
    for picture in made.pictures[:2]:
        (panel,) = picture.panels
        drawn = imread(path.parent / f"{picture.name}.png")
        high, wide = drawn.shape[:2]
        left, top, width, height = panel.place
        rows, columns = panel.values.shape
        x = (left + width * (np.arange(columns) + 0.5) / columns) * wide
        y = (top + height * (np.arange(rows) + 0.5) / rows) * high
        seen = 255 * drawn[y.astype(int)[:, None], x.astype(int), :3]
        level = (panel.values - panel.norm.low) / (panel.norm.high - panel.norm.low)
        expected = panel.colours[np.clip(np.nan_to_num(level) * 256, 0, 255).astype(int)].astype(float)
        known = np.isfinite(panel.values)
        assert np.abs(seen - expected)[known].max() <= 8, picture.name


def test_maps_have_units_sizes_errors_and_grids(page):
    made, _ = page
    exx, bf, mean, curve = ([json.loads(report.maps_of(p, SHAPE)), p.panels][0] for p in made.pictures)
    assert (exx[0]["title"], exx[0]["units"], exx[0]["pixel"], exx[0]["axes"]) == ("ε_xx", "%", [20.0, "Å"], "scan")
    assert np.allclose(unpacked(exx[0]["error"], SHAPE), 0.037) and bf[0]["error"] is None
    assert exx[0]["grid"] == bf[0]["grid"] != mean[0]["grid"], "the cursor goes to maps of the same grid"
    assert (mean[0]["axes"], mean[0]["units"], mean[0]["values"]["type"]) == ("detector", "counts", "f4")
    assert curve == [], "a histogram is no map"


def test_pictures_of_another_size_have_no_maps(tmp_path, blank_pictures):
    made = keep(Picture("bf", IMAGES, "", ""), plot.image(np.eye(4), "bf"), tmp_path)
    assert made.panels == ()


def test_a_page_leaves_out_what_is_too_large(page, monkeypatch):
    made, path = page
    monkeypatch.setattr(report, "MOST_BYTES", len(report.maps_of(made.pictures[0], SHAPE)))
    text = write(made, path.parent, "small.html").read_text(encoding="utf-8")
    assert text.count('class="panels"') == 1 and text.count("too many values for this page") == 2


# ---------------------------------------------------------------- the page


class Strict(HTMLParser):
    """Checks that elements are closed in the order in which they were opened, and keeps what matters."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.mistakes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(tag)


def test_the_page_is_whole_and_accessible(page):
    parser = Strict()
    parser.feed(page[1].read_text(encoding="utf-8"))
    parser.close()
    assert parser.mistakes == [] and parser.open == []
    images = [attrs for tag, attrs in parser.seen if tag == "img"]
    assert len(images) == 4 and all(image["alt"] for image in images)
    assert all("scope" in attrs for tag, attrs in parser.seen if tag == "th")
    levels = [int(tag[1]) for tag, _ in parser.seen if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and all(b - a <= 1 for a, b in itertools.pairwise(levels)), "no level of headings is left out"


def test_the_page_says_first_whether_it_can_be_trusted(page):
    text = html.unescape(page[1].read_text(encoding="utf-8"))
    order = [text.index(words) for words in ("Strain.", "Can this be trusted?", "With care", "Sign of <strain>: slope 1.4", "<figure")]
    assert order == sorted(order)
    assert "Disks [1] & strain [2]." in text and "@article{pekin2017" in text and "TEM.HT" in text


def test_the_page_allows_its_own_script_alone(page):
    text = page[1].read_text(encoding="utf-8")
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy and "unsafe-inline'; script" in policy
    assert len(script.splitlines()) <= 400 and not re.search(r"\bfetch\(|XMLHttpRequest|import\(|https?:", script)


def test_links_are_to_files_beside_the_page(page):
    links = re.findall(r'href="([^"]*)"', page[1].read_text(encoding="utf-8"))
    assert len(links) == 8 and all((page[1].parent / link).is_file() for link in links)
    assert "<dc:description>pixel size of the data: 20 Å</dc:description>" in (page[1].parent / "bf.svg").read_text(encoding="utf-8")


def test_the_script_reads_values_out_in_a_browser(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=10000", "--dump-dom", f"{page[1].as_uri()}#selftest"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)})
    found = re.findall(r'data-selftest="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    said = json.loads(html.unescape(found[0]))
    exx, _ = strain_like()
    row, column = said["at"]
    value = f"{exx[row, column]:.3f}".replace("-", "−")
    assert said["figures"] == 3 and said["zoom"] > 1 and said["range"][1] < 1
    assert said["said"][0] == f"position ({row}, {column}) = {2 * row:g} nm, {2 * column:g} nm · {value} ± 0.037 %"
    assert said["said"][1].endswith(f"· {row * 9 + column} counts"), "the cursor goes to the map of the same grid"
    assert "Point at the map" in said["said"][2], "and not to the pattern"


# ---------------------------------------------------------------- provenance


def test_the_hash_is_that_of_the_content(tmp_path):
    path = tmp_path / "scan.npy"
    path.write_bytes(b"x" * 3_000_000)
    found = content_of(path)
    assert found.digest == hashlib.blake2b(b"x" * 3_000_000, digest_size=16).hexdigest() and "whole file" in found.of
    assert found.digest in dict(provenance(path, {}, "cpu", "").rows)["hash of the content"]


def test_the_hash_of_a_large_file_reads_blocks_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "WHOLE", 1000)
    path = tmp_path / "scan.npy"
    path.write_bytes(bytes(2 << 20))
    first = content_of(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"1")
    assert content_of(path).digest != first.digest and "128 blocks" in first.of


def test_the_hash_of_a_folder_is_that_of_names_and_sizes(tmp_path):
    def said():
        return dict(provenance(tmp_path, {}, "cpu", "").rows)["hash of the content"]

    empty = said()
    (tmp_path / "c0").write_bytes(b"12")
    assert said() != empty and "names and sizes of its 1 files" in said()


def test_a_run_reads_a_file_for_its_hash_once(tmp_path, monkeypatch):
    path = tmp_path / "scan.npy"
    path.write_bytes(b"1")
    read = []
    monkeypatch.setattr(content, "content_of", lambda path, exact=False: read.append(path) or content_of(path, exact))
    contents = content.Contents()
    before = scan_identity(path, None, Recipe(), contents)
    assert contents.of(path).digest in dict(provenance(path, {}, "cpu", "", contents).rows)["hash of the content"]
    assert read == [path] and scan_identity(path, None, Recipe(), contents) == before


def test_the_commit_of_a_checkout_and_of_a_worktree(tmp_path):
    git = tmp_path / "main" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "packed-refs").write_text("# pack-refs\n" + "a" * 40 + " refs/heads/main\n")
    assert commit_of(tmp_path / "main") == "a" * 40
    (git / "refs" / "heads" / "main").write_text("b" * 40 + "\n")
    assert commit_of(tmp_path / "main") == "b" * 40, "a loose file counts before packed ones"
    own = git / "worktrees" / "other"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/main\n")
    (own / "commondir").write_text("../..\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".git").write_text(f"gitdir: {own}\n")
    assert commit_of(tmp_path / "other") == "b" * 40
    assert commit_of(tmp_path) == ""


def test_provenance_names_file_software_and_machine(tmp_path):
    path = tmp_path / "scan.npy"
    np.save(path, np.zeros((2, 2, 4, 4), np.uint8))
    found = provenance(path, {"A": {"b": b"text"}, "large": np.zeros(100), "long": "x" * 1000}, "cpu", "gpu4d run scan.npy")
    rows = dict(found.rows)
    assert rows["input"] == str(path) and f"{path.stat().st_size:,} bytes" in rows["size"]
    assert rows["gpu4d"].startswith(gpu4d.__version__) and "threads" in rows["device"] and rows["command"] == "gpu4d run scan.npy"
    assert dict(found.metadata)["A.b"] == "text" and dict(found.metadata)["large"] == "array (100,) of float64"
    assert len(dict(found.metadata)["long"]) < 310
    path.unlink()
    assert "cannot be read" in dict(provenance(path, {}, "cpu", "").rows)["hash of the content"]


def test_a_binned_scan_in_the_page_brings_its_script_and_no_other(page, tmp_path):
    """A browser runs what the policy names by its hash: the script of the maps, and that of the viewer."""
    cube = gpu4d.DataCube(np.random.default_rng(0).poisson(3.0, (*SHAPE, 16, 20)).astype("uint16"))
    made = dataclasses.replace(page[0], pictures=[], viewer=gpu4d.view.page_part(cube, title="scan </script>"))
    text = write(made, tmp_path).read_text(encoding="utf-8")
    allowed = set(
        re.findall(r"'sha256-([^']+)'", re.search(r"Content-Security-Policy\" content=\"([^\"]+)\"", text)[1].replace("&#39;", "'"))
    )
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", text, re.S)
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    assert len(hashes) == 2 and set(hashes) == allowed
    assert "Look into the scan" in text and "Look into the scan" not in page[1].read_text(encoding="utf-8")
