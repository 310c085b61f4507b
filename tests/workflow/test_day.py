"""A day's folder, unattended: `gpu4d batch` gives every scan the stages that suit it, reports the bad files, and goes on after kill -9."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from day_of_scans import FAILED, SCANS, SKIPPED, Expected, write_day
from kept_runs import same
from own_process import importing

from gpu4d.cli import run_command
from gpu4d.workflow.batch import one_run

pytestmark = pytest.mark.slow
# A run whose pictures are made and not rendered, which takes most of its time. `test_batch` and `test_run` have real ones.
BLANK = "import blank_pictures; blank_pictures.render_none(); from gpu4d.cli import main; main()"
AS_A_PROCESS = f"from gpu4d.workflow.batch import one_run; one_run.COMMAND = ('-c', {BLANK!r}); from gpu4d.cli import main; main()"
CUT = ("atoms_float.h5", "lorentz.h5", "raw_frames.h5", "shutter_closed.npy")  # scans of the batch that is killed: the quickest ones


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a day of scans, and its batch: exit code and what was said."""
    root = tmp_path_factory.mktemp("day")
    (root / "day").mkdir()
    write_day(root / "day")
    return root


@pytest.fixture(scope="module")
def batch(place):
    """The day's batch: exit code, what the command printed, batch.json, and its folder."""
    return Batch(place, [str(place / "day"), "--energy", "200keV", "--no-cache"])


class Batch:
    """A batch that was made: its exit code, the table it printed, its folder, and the entries of batch.json by name."""

    def __init__(self, root, arguments):
        self.out = root / "out"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one_run, "COMMAND", ("-c", BLANK))
            patch.setenv("PYTHONPATH", importing()["PYTHONPATH"])
            patch.setenv("COLUMNS", "300")
            with contextlib.redirect_stdout(io.StringIO()) as said:
                self.code = run_command(["batch", *arguments, "-o", str(self.out)])
        self.table = said.getvalue()
        entries = json.loads((self.out / "batch.json").read_text(encoding="utf-8"))["files"]
        self.entries = {entry["name"]: entry for entry in entries}

    def check(self, name: str, expected: Expected) -> None:
        """Compare a scan that was analysed with what physics says of it."""
        entry = self.entries[name]
        assert (entry["status"], entry["technique"]) == ("done", expected.technique), f"{name}: {entry}"
        assert expected.says in entry["headline"], f"{name}: {entry['headline']}"
        folder = self.out / entry["folder"]
        with h5py.File(folder / "result.h5") as file:
            made = set(file["gpu4d"])
        assert set(expected.makes) <= made and not set(expected.without) & made, f"{name}: {sorted(made)}"
        report = (folder / "report.html").read_text(encoding="utf-8")
        assert report.rstrip().endswith("</html>") and expected.says in report, name
        assert entry["pictures"] and all((folder / f"{picture}.png").is_file() for picture in entry["pictures"]), name
        assert {"recipe.toml", "methods.txt", "references.bib"} <= {path.name for path in folder.iterdir()}, name
        assert entry["gates"][1] > 0, f"{name}: no quality gate was looked at"


@pytest.mark.parametrize("name", SCANS)
def test_each_scan_gets_what_suits_it(batch, name):
    batch.check(name, SCANS[name])


def test_every_file_is_accounted_for(batch, place):
    assert set(batch.entries) == {*SCANS, *FAILED, *SKIPPED}
    assert len(list((place / "day").iterdir())) >= 15 and len({SCANS[name].technique for name in SCANS}) == 4
    assert batch.code == 1, "something failed"


def test_bad_files_are_reported_with_their_reason_everywhere(batch):
    page = (batch.out / "index.html").read_text(encoding="utf-8")
    summary = f"{len(SCANS)} analysed, {len(FAILED)} failed, {len(SKIPPED)} skipped"
    assert summary in batch.table and summary in page
    for status, kind in (("failed", FAILED), ("skipped", SKIPPED)):
        for name, expected in kind.items():
            entry = batch.entries[name]
            assert entry["status"] == status and expected.says in entry["error"] and not entry["technique"], f"{name}: {entry}"
            (line,) = (line for line in batch.table.splitlines() if line.startswith(f"{name} "))
            assert status in line and expected.says in line, line
            assert name in page and expected.says in page
    assert max(page.index(name) for name in FAILED) < page.index("alloy.h5"), "failures come first"
    for name in SCANS:
        assert f'href="{batch.entries[name]["folder"]}/report.html"' in page, name
    assert page.count("data:image/png;base64,") == len(SCANS)
    assert not [path.name for path in batch.out.iterdir() if path.name.startswith(".")], "nothing unfinished is left"


def started(root, out):
    """Start a batch of the quick scans in a process group of its own."""
    environment = importing() | {"GPU4D_CACHE": str(root / "cache")}
    command = [
        sys.executable,
        "-c",
        AS_A_PROCESS,
        "batch",
        *(str(root / "day" / name) for name in CUT),
        "--energy",
        "200keV",
        "-o",
        str(out),
    ]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True)


def until_it_analyses(process, name, out):
    """Wait until a batch is in the middle of a scan: the folder of its result has begun to be written."""
    said = []
    for line in process.stderr:
        said.append(line)
        if f"{name} …" in line:
            break
    else:
        pytest.fail(f"it ended before {name}: {said}")
    end = time.monotonic() + 120
    while not list(out.glob(f".{Path(name).stem}.*")):
        assert process.poll() is None and time.monotonic() < end, f"the run of {name} does not begin: {said}"
        time.sleep(0.005)
    return said


def test_a_batch_that_is_killed_goes_on_and_ends_in_the_same_bits(batch, place):
    """First the batch alone is killed, and the run that it had started ends by itself. Then both are, as when a machine stops."""
    out, groups = place / "killed", []
    try:
        first = started(place, out)
        groups.append(first.pid)
        until_it_analyses(first, "lorentz.h5", out)
        first.kill()
        first.communicate()
        done = json.loads((out / "batch.json").read_text())["files"]
        assert [(entry["name"], entry["status"]) for entry in done] == [("atoms_float.h5", "done")]
        second = started(place, out)
        groups.append(second.pid)
        said = until_it_analyses(second, "raw_frames.h5", out)
        assert any("atoms_float.h5: unchanged" in line for line in said), said
        os.killpg(second.pid, signal.SIGKILL)
        second.communicate()
        last = started(place, out)
        groups.append(last.pid)
        _, said = last.communicate(timeout=300)
        assert last.returncode == 0, said
    finally:
        for group in groups:  # also what a killed batch had started
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                pass
    status = {entry["name"]: entry["status"] for entry in json.loads((out / "batch.json").read_text())["files"]}
    assert status == {"atoms_float.h5": "unchanged", "lorentz.h5": "unchanged", "raw_frames.h5": "done", "shutter_closed.npy": "done"}
    for name in CUT:
        assert same(out / Path(name).stem, batch.out / Path(name).stem), name


# ---------------------------------------------------------------- files that others made

SHARED = {
    "au_nbed_strain.h5:/poisson_5e3": Expected("bragg", "train", ("strain", "braggvectors"), ("dpc_phase",)),
    "orientation.h5": Expected("bragg", "everal grains or phases", ("braggvectors",), ("dpc_phase",)),
    "polycrystal_rings.h5": Expected("images", "many small crystals", ("mean_pattern",), ("strain", "dpc_phase")),
    "amorphous_strain.h5": Expected("amorphous", "amorphous", ("mean_pattern",), ("strain", "dpc_phase")),
    "pn_junction_dpc.h5": Expected("dpc", "hase", ("com", "bf"), ("strain",)),
    "skyrmion_dpc.h5:/forward_poisson_20000": Expected("dpc", "hase", ("com", "bf"), ("strain",)),
}


@pytest.mark.shared
@pytest.mark.exhaustive
def test_a_folder_of_shared_scans(shared_data, tmp_path):
    """Links to small files, two of them cut short and empty. Other scans of a file are in the folder, too, and are not looked at."""
    day = tmp_path / "day"
    (day / "later").mkdir(parents=True)
    for number, name in enumerate(SHARED):
        file, _, dataset = name.partition(":")
        if not dataset:
            (day / ("later" if number % 2 else ".") / file).symlink_to(shared_data / file)
            continue
        with h5py.File(shared_data / file) as source, h5py.File(day / file, "w") as target:
            source.copy(dataset, target)
    (day / "cut.h5").write_bytes((shared_data / "orientation.h5").read_bytes()[:100_000])
    (day / "empty.blo").write_bytes(b"")
    batch = Batch(tmp_path, [str(day), "-r", "--no-cache"])
    assert batch.code == 1
    names = {entry["name"].removeprefix("later/"): name for name, entry in batch.entries.items()}
    for name, expected in SHARED.items():
        batch.check(names[name.partition(":")[0]], expected)
    bad = {name: entry["error"] for name, entry in batch.entries.items() if entry["status"] == "failed"}
    assert set(bad) == {"cut.h5", "empty.blo"} and "truncated" in bad["cut.h5"] and "empty" in bad["empty.blo"]
