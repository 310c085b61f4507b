"""The pages of machines are what the results say, and only results that fit and name nobody are added."""

import os
import re
from html.parser import HTMLParser

import bench_results
import pytest
from bench_results import known_reference  # noqa: F401  a fixture
from gpu4d.benchmarks.suite import result, results_page

from gpu4d.errors import InputError


def test_the_pages_are_what_the_results_say(checkout):
    """``GPU4D_WRITE_TABLES=1 pytest tests/benchmarks/test_suite_results_page.py`` writes them anew; so does the module itself."""
    pytest.importorskip("jinja2")
    from gpu4d.benchmarks.suite import machines_page

    found = results_page.entries(checkout / results_page.RESULTS)
    if os.environ.get("GPU4D_WRITE_TABLES"):
        results_page.write_pages(checkout)
    how = "python -m gpu4d.benchmarks.suite.results_page writes it anew"
    assert (checkout / results_page.PAGE).read_text(encoding="utf-8") == results_page.markdown(found), how
    assert (checkout / results_page.HTML).read_text(encoding="utf-8") == machines_page.html(found), how


def test_published_results_have_their_names(checkout):
    for entry in results_page.entries(checkout / results_page.RESULTS):
        assert entry.name == results_page.file_name(entry.result)


@pytest.fixture
def folder(tmp_path, known_reference):  # noqa: F811
    """A folder with a figure that is no result, and three results."""
    made = tmp_path / "results"
    made.mkdir()
    (made / "readers.json").write_text('{"mrc": "1.00"}')
    for one in (
        bench_results.result(label="slow | <b>machine</b>"),
        bench_results.result(speed=3.0, label="fast_machine", draw=1),
        bench_results.result(speed=9.0, label="small card", skipped=["wdd"]),
    ):
        result.write(one, made / results_page.file_name(one))
    return made


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_table_is_sorted_and_escaped(folder):
    found = results_page.entries(folder)
    text = results_page.markdown(found)
    head, _, *machines = rows(text)
    assert head[:3] == ["machine", "division", "score"] and all(len(row) == len(head) for row in machines)
    assert [row[0] for row in machines] == ["fast\\_machine", r"slow \| \<b\>machine\</b\>", "small card"]
    assert [row[2] for row in machines] == [f"**{found[0].total:.0f}**", f"**{found[1].total:.0f}**", "none"]
    assert machines[0][head.index("Precision")] == "1000" and machines[2][head.index("Compute")] == "–"
    assert "* small card has no score: wdd was skipped: needs 12 GB, free are 7 GB" in text


class Words(HTMLParser):
    """The text of a page, and how wide its bars are."""

    def __init__(self, source: str):
        super().__init__()
        self.words, self.widths, self.open = "", [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if tag != "meta":
            self.open.append(tag)
        self.widths += [float(w) for _, value in attrs if value and (w := value.partition("width:")[2].rstrip("%;")) and tag == "i"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def test_the_page_has_a_bar_for_every_score(folder):
    pytest.importorskip("jinja2")
    from gpu4d.benchmarks.suite import machines_page

    found = results_page.entries(folder)
    source = machines_page.html(found)
    page = Words(source)
    assert not page.open and "<b>machine" not in source and "http" not in source.replace("http-equiv", "")
    assert page.widths[:3] == [100.0, pytest.approx(100 * found[1].total / found[0].total, abs=0.06), 0.0]
    assert "none: incomplete" in page.words, "a part says why it has no figure"
    assert "needs 12 GB" in page.words and "36 % of its floor (batched real FFTs, single precision)" in page.words
    fractions = [round(100 * one["fraction"], 1) for one in found[0].result["workloads"].values()]
    first = 6 * len(found)  # bars of the score and of five parts
    assert page.widths[first : first + len(fractions)] == pytest.approx(fractions, abs=0.06)


def test_the_name_of_a_file():
    one = bench_results.result(label="NVIDIA RTX™ 4090 in Intel® Core(TM) i9, 16 threads", tier="M")
    assert results_page.file_name(one) == "bench-M-nvidia-rtxtm-4090-in-intel-core-tm-i9-16-threads-20261201.json"


def test_a_result_is_copied_as_it_is(folder, tmp_path):
    path = tmp_path / "mine.json"
    result.write(bench_results.result(label="new"), path)
    target = results_page.add(path, folder)
    assert target.read_bytes() == path.read_bytes() and target.name == "bench-S-new-20261201.json"
    with pytest.raises(InputError, match="is there already"):
        results_page.add(path, folder)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: bench_results.result(tier="quick"), "is a trial"),
        (lambda: bench_results.result(seed=3), "is a trial"),
        (lambda: bench_results.result(label="PC of ada-lovelace-7"), r"the name of this host \(ada-lovelace-7\)"),
        (lambda: bench_results.result(faster={"wdd": 4.0}), "does not fit: workloads.wdd: takes"),
    ],
)
def test_what_is_not_published(made, said, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(results_page.socket, "gethostname", lambda: "ada-lovelace-7")
    path = tmp_path / "mine.json"
    result.write(made(), path)
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=said):
        results_page.add(path, folder)
    assert sorted(folder.iterdir()) == before


def test_a_folder_with_a_result_that_does_not_fit_makes_no_page(folder):
    path = next(folder.glob("bench-*.json"))
    path.write_text(path.read_text().replace('"flops": ', '"flops": 1', 1))
    with pytest.raises(InputError, match="does not fit, and is not published: hash"):
        results_page.entries(folder)


def test_the_module_adds_results_and_writes_both_pages(tmp_path, monkeypatch, known_reference, capsys):  # noqa: F811
    pytest.importorskip("jinja2")
    for part in (results_page.RESULTS, results_page.PAGE.parent):
        (tmp_path / part).mkdir(parents=True)
    monkeypatch.setattr(results_page, "REPOSITORY", tmp_path)
    result.write(bench_results.result(label="new"), tmp_path / "mine.json")
    assert results_page.main([str(tmp_path / "mine.json")]) == 0
    assert "| new |" in (tmp_path / results_page.PAGE).read_text() and "new" in (tmp_path / results_page.HTML).read_text()
    assert results_page.main([str(tmp_path / "mine.json")]) == 1 and "is there already" in capsys.readouterr().err
