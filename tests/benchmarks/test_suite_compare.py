"""Results side by side: ratios with intervals, and what cannot be compared is refused."""

import copy
import json
import re
from html.parser import HTMLParser

import bench_results
import numpy as np
import pytest
from bench_results import known_reference  # noqa: F401  a fixture
from gpu4d.benchmarks.suite import compare as comparing
from gpu4d.benchmarks.suite import comparison_page, result, verify

from gpu4d.errors import InputError

pytestmark = pytest.mark.usefixtures("known_reference")


@pytest.fixture
def unverified(monkeypatch):
    """Verifying has tests of its own and takes most of the time."""
    monkeypatch.setattr(comparing, "verify_result", lambda _result: ([], []))


@pytest.fixture
def files(tmp_path):
    """Write results, and return their paths."""

    def write(*results):
        paths = [tmp_path / f"r{number}.json" for number in range(len(results))]
        for one, path in zip(results, paths):
            result.write(one, path, overwrite=True)
        return paths

    return write


@pytest.fixture(scope="module")
def base():
    return bench_results.result()


@pytest.fixture(scope="module")
def faster():
    return bench_results.result(speed=2.0, label="4 × <Other> CPU", draw=1, faster={"ssb": 0.25})


@pytest.mark.usefixtures("unverified")
def test_ratios_are_medians_of_the_base_over_medians(base, faster, files):
    found = comparing.compare(files(base, faster))
    for row in found.workloads:
        a, b = (np.median(one["workloads"][row.key]["samples"]) for one in (base, faster))
        ratio = row.cells[1].ratio
        assert ratio.value == pytest.approx(a / b) and ratio.low <= ratio.value <= ratio.high
        assert ratio.verdict == ("slower" if row.key == "ssb" else "faster")
    every = [row.cells[1].ratio.value for row in found.workloads]
    (whole, *parts) = found.groups
    assert whole.cells[1].ratio.value == pytest.approx(np.exp(np.mean(np.log(every))))
    assert whole.cells[1].ratio.value == pytest.approx(faster["score"]["total"] / base["score"]["total"]), "as the scores say"
    assert [row.key for row in parts] == ["Compute", "Bandwidth", "Transfer", "Disk", "End-to-end"]
    for row in found.floors:
        assert row.cells[1].ratio.value == pytest.approx(2.0, rel=0.01), "more per second is faster"


@pytest.mark.usefixtures("unverified")
def test_the_same_machine_shows_no_difference(files):
    """The interval of 95 % holds 1 in about 95 of 100 pairs of runs that differ by chance alone."""
    shown = total = 0
    for draw in range(6):
        pair = [bench_results.result(draw=2 * draw + i, noise=0.01) for i in (0, 1)]
        rows = comparing.compare(files(*pair)).workloads
        shown += sum(row.cells[1].ratio.verdict == comparing.NEITHER for row in rows)
        total += len(rows)
    assert shown / total > 0.8, "of 90, each missed with 5 to 7 %: fewer than 72 have a probability below 1e-4"


def test_an_interval_that_touches_1_shows_no_difference():
    assert comparing.Ratio(1.1, 1.0, 1.2).verdict == comparing.NEITHER
    assert comparing.Ratio(1.1, 1.01, 1.2).verdict == "faster" and comparing.Ratio(0.9, 0.8, 0.99).verdict == "slower"
    assert comparing.Ratio(0.994, 0.991, 0.996).text() == "0.994 × (0.991–0.996)", "three decimals near 1"


@pytest.mark.usefixtures("unverified")
def test_what_one_of_them_lacks_has_no_ratio_and_no_mean(base, files):
    found = comparing.compare(files(base, bench_results.result(label="small", skipped=["wdd"])))
    cells = {row.key: row.cells[1] for row in (*found.workloads, *found.groups)}
    assert cells["wdd"].ratio is None and "needs 12 GB" in cells["wdd"].missing
    assert cells["all"].ratio is None and cells["Compute"].missing == "without wdd there is no mean"
    assert cells["Disk"].ratio is not None
    assert "wdd in B: skipped" in found.text() and "B has no score: wdd was skipped" in found.text()


@pytest.mark.usefixtures("unverified")
def test_answers_are_the_same_bits_or_not(base, files):
    other = bench_results.result(label="other")
    other["workloads"]["ssb"]["answer"] = "0" * 64
    answers = {row.key: row.cells[1].answer for row in comparing.compare(files(base, other)).workloads}
    assert answers.pop("ssb") == "within tolerance" and set(answers.values()) == {"same bits"}


def another(given, **suite):
    made = copy.deepcopy(given)
    made["suite"] |= suite
    return bench_results.sealed(made)


def resized(given):
    made = copy.deepcopy(given)
    made["workloads"]["ssb"]["size"]["detector"] = 999
    made["workloads"]["wdd"]["data"] = "0" * 16
    return bench_results.sealed(made)


REFUSED = [
    (lambda r: another(r, tier="M"), "the tier of A is S, of B M"),
    (lambda r: another(r, seed=5, seed_is="given"), "the seed of A is 20261201, of B 5"),
    (lambda r: another(r, division="open", why_open=["plug-ins"]), "A is of the closed division, B of the open one: allow it with --open"),
    (resized, "ssb has another size in B; wdd has other inputs in B"),
    (copy.deepcopy, "A and B are the same result"),
]


@pytest.mark.usefixtures("unverified")
@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_what_cannot_be_compared_is_refused(change, said, base, files):
    paths = files(base, change(base))
    with pytest.raises(InputError, match="cannot be compared: " + re.escape(said)):
        comparing.compare(paths)


@pytest.mark.usefixtures("unverified")
def test_the_open_division_is_compared_on_demand(base, files):
    found = comparing.compare(files(base, another(base, division="open", why_open=["plug-ins were loaded: mine"])), allow_open=True)
    assert "B is of the open division: plug-ins were loaded: mine" in found.text()


def test_a_result_that_does_not_fit_is_refused(base, files):
    better = copy.deepcopy(base)
    better["score"]["total"] *= 2
    with pytest.raises(InputError, match=r"B does not fit: score\.total: is 199"):
        comparing.compare(files(base, better))
    assert not verify.verify(files(base)[0]).findings


def test_the_number_of_results(base, files):
    with pytest.raises(InputError, match="needs two to 8 results, not 1"):
        comparing.compare(files(base))


# ---------------------------------------------------------------- what is shown


@pytest.mark.parametrize("spread", [(1.0, 1.0), (0.97, 1.02), (0.4, 1.1), (0.9, 40.0), (0.001, 2000.0), (1.2, 1.3)])
def test_an_axis_holds_all_intervals_and_1(spread):
    axis = comparison_page.Axis(spread)
    assert axis.ticks == sorted(set(axis.ticks)) and 1.0 in axis.ticks and 2 <= len(axis.ticks) <= 13
    assert axis.ticks[0] <= min(*spread, 1.0) and axis.ticks[-1] >= max(*spread, 1.0)
    assert axis.at(axis.ticks[0]) == 0.0 and axis.at(axis.ticks[-1]) == 100.0 and 0 < axis.at(1.0001) <= 100


class Page(HTMLParser):
    """Tags that are open, references, and text."""

    VOID = ("meta", "br", "img", "link")

    def __init__(self, source):
        super().__init__()
        self.open, self.references, self.words = [], [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.mark.usefixtures("unverified")
def test_the_page_needs_nothing_else_and_says_everything(base, faster, files):
    pytest.importorskip("jinja2")
    found = comparing.compare(files(base, faster, bench_results.result(label="third", skipped=["wdd"])))
    source = found.html()
    page = Page(source)
    assert not page.open and not page.references and "http" not in source.replace("http-equiv", "")
    words = " ".join(page.words)
    assert "4 × <Other> CPU" in words and "<Other>" not in source, "labels are escaped"
    for row in (*found.workloads, *found.floors, *found.groups):
        assert row.title in words
        for cell in row.cells[1:]:
            assert cell.ratio is None or cell.ratio.text() in words
    assert "no figure: skipped: needs 12 GB" in words


@pytest.mark.usefixtures("unverified")
def test_the_picture_is_drawn(base, faster, files, tmp_path):
    pytest.importorskip("matplotlib")
    comparing.compare(files(base, faster)).png(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.usefixtures("unverified")
def test_command_line(base, faster, files, tmp_path, capsys):
    pytest.importorskip("click")
    pytest.importorskip("jinja2")
    from gpu4d.cli import run_command

    paths = [str(path) for path in files(base, faster)]
    assert run_command(["bench", "compare", *paths, "--html", str(tmp_path / "p.html"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    ssb = next(row for row in shown["workloads"] if row["key"] == "ssb")
    assert ssb["results"]["B"]["ratio"]["verdict"] == "slower" and (tmp_path / "p.html").read_text().startswith("<!DOCTYPE html>")
    assert run_command(["bench", "compare", *paths]) == 0
    assert re.search(r"ssb +2\d\d ms +\d\d\d ms +0\.50? × \(.*\) +slower", capsys.readouterr().out)
    assert run_command(["bench", "compare", paths[0], paths[0]]) == 1
    assert "A and B are the same result" in capsys.readouterr().err
