"""Notebooks that are executed: bars, cards and pictures, and the notebook of `gpu4d init`."""

import io
import json
import sys

import numpy as np
import pytest

import gpu4d
from gpu4d.streaming import progress
from gpu4d.streaming.notebook_bars import NotebookBars, in_notebook

CUBE = "import numpy as np, gpu4d\ncube = gpu4d.DataCube(np.ones((8, 8, 16, 16), 'uint16'))"


@pytest.fixture
def execute(checkout, tmp_path, monkeypatch, need):
    """Executes cells in a kernel, and returns the outputs of each."""
    for name in ("nbclient", "nbformat", "ipykernel"):
        need(name)
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # of the tests: a kernel chooses that of notebooks

    def run(cells, folder=tmp_path):
        book = cells if not isinstance(cells, list) else nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
        nbformat.validate(book)
        NotebookClient(book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
        return [cell.outputs for cell in book.cells if cell.cell_type == "code"]

    return run


def shown(outputs, kind):
    return [one.data[kind] for one in outputs if one.output_type in ("display_data", "execute_result") and kind in one.data]


@pytest.mark.slow
def test_bars_cards_and_pictures(execute):
    stage = "first & second"
    lines = [f"bars.begin({stage!r})", "bars.advance(3, 4)", f"bars.end({stage!r}, 2.0)"]
    kept = "\n    ".join(["from gpu4d.workflow.terminal import watcher\nwith watcher() as bars:", *lines])
    cube, card, sweep, own, mine, panels, bars = execute(
        [
            CUBE,
            "cube",
            "mean = gpu4d.sweep(cube, gpu4d.MeanPattern(), progress=True)",
            "gpu4d.plot.image(np.eye(8))",
            "import matplotlib.pyplot as plt\nfigure, ax = plt.subplots()\ngpu4d.plot.image(np.eye(8), ax=ax);",
            "gpu4d.plot.wave(np.ones((8, 8)) * 1j)",
            kept,
        ]
    )
    assert not cube
    assert "8 × 8 positions" in shown(card, "text/html")[0]
    assert len(sweep) == 1 and shown(sweep, "text/html") == [""], "the bar of a sweep is removed when it is done"
    assert len(shown(own, "image/png")) == len(shown(mine, "image/png")) == len(shown(panels, "image/png")) == 1, "each picture once"
    (bar,) = shown(bars, "text/html")
    assert 'value="1.0000"' in bar and "first &amp; second" in bar and "2.0 s" in bar


@pytest.mark.slow
def test_the_notebook_of_a_workspace_runs(execute, tmp_path):
    import nbformat

    from gpu4d.workflow.workspace import NOTEBOOK, make_workspace

    make_workspace(tmp_path)
    outputs = execute(nbformat.read(tmp_path / NOTEBOOK, as_version=4))
    assert "24 × 24 positions" in shown(outputs[0], "text/html")[0]
    assert any("quality gates" in text for one in outputs for text in shown(one, "text/html"))
    assert sum(len(shown(one, "image/png")) for one in outputs) >= 2
    assert "exx" in shown(outputs[-1], "text/html")[0], "the strain of the simulated crystal"


class Handle:
    """Stands for IPython's: keeps what is shown."""

    def __init__(self):
        self.texts = []

    def update(self, html):
        self.texts.append(html.data)


@pytest.fixture
def displayed(monkeypatch):
    """A notebook's display, without a notebook."""
    from types import ModuleType, SimpleNamespace

    handle = Handle()
    display = ModuleType("IPython.display")
    display.HTML = lambda text: SimpleNamespace(data=text)
    display.display = lambda *_, **__: handle
    package = ModuleType("IPython")
    package.display = display
    package.get_ipython = lambda: SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return handle


def test_a_sweep_counts_all_patterns_on_its_bar(displayed):
    assert in_notebook()
    gpu4d.sweep(gpu4d.DataCube(np.ones((6, 7, 8, 8), "uint16")), gpu4d.MeanPattern(), progress=True)
    assert any("42/42" in text and 'value="1.0000"' in text for text in displayed.texts)
    assert displayed.texts[-1] == ""


def test_bars_of_stages_stay(displayed):
    with NotebookBars() as bars:
        bars.begin("open")
        bars.advance(1, 2)
        bars.end("open", 75.0)
        bars.begin("fit")
    assert displayed.texts[-1].count("<progress") == 2 and "1:15" in displayed.texts[-1]
    assert 'max="1"></progress>' in displayed.texts[-1], "a bar of unknown length moves by itself"


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_has_a_bar_and_a_log_has_none(terminal, monkeypatch):
    class Stream(io.StringIO):
        def isatty(self):
            return terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    gpu4d.sweep(gpu4d.DataCube(np.ones((4, 4, 8, 8))), gpu4d.MeanPattern(), progress=True)
    assert bool(stream.getvalue()) == terminal
    monkeypatch.setattr(sys, "stderr", None)
    assert progress._bars() is None, "a program without an output for errors"


def test_ipython_is_not_imported(checkout):
    import subprocess

    code = "import sys, gpu4d; from gpu4d.streaming.notebook_bars import in_notebook; print(in_notebook(), 'IPython' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert done.stdout == "False False\n", done.stderr


def test_the_notebook_is_valid(tmp_path):
    from gpu4d.workflow.workspace import notebook

    book = json.loads(notebook())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5) and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            compile("".join(cell["source"]), "cell", "exec")
            assert cell["outputs"] == [] and cell["execution_count"] is None
