"""What a run needs is compiled once, in a step of its own, and nothing else is."""

import subprocess
import sys

import numpy as np
import pytest
from own_process import importing

import gpu4d
from gpu4d.workflow import prepare as module
from gpu4d.workflow.prepare import JOBS, TITLE, Job, prepare
from gpu4d.workflow.record import Record
from gpu4d.workflow.stages import known_stages


class Watching:
    def __init__(self):
        self.seen = []

    def begin(self, stage):
        self.seen.append(stage)

    def advance(self, done, total):
        self.seen.append((done, total))

    def end(self, stage, seconds):
        self.seen.append("end")


@pytest.fixture
def calls(monkeypatch):
    """Jobs that only say that they were called, and on what."""
    called = []
    made = {name: Job(job.operation, job.shown_by, called.append) for name, job in JOBS.items()}
    monkeypatch.setattr(module, "JOBS", made)
    return called


def test_each_job_is_counted(calls, monkeypatch):
    monkeypatch.setattr(module, "is_kept", lambda entry: False)
    watching, cube = Watching(), gpu4d.DataCube(np.zeros((4, 5, 26, 40), "uint8"))
    prepare(("disks", "fits"), cube, Record(watching), "cpu")
    assert watching.seen == [TITLE, (0, 2), (1, 2), (2, 2), "end"]
    assert [c.dtype for c in calls] == ["uint8"] * 2 and {c.shape for c in calls} == {(1, 2, 22, 22)}, "26 = 2 · 13 has a long prime"


def test_nothing_is_said_if_there_is_nothing_to_do(calls, monkeypatch):
    monkeypatch.setattr(module, "is_kept", lambda entry: True)
    watching = Watching()
    prepare(tuple(JOBS), gpu4d.DataCube(np.zeros((4, 5, 16, 16), "uint8")), Record(watching))
    assert watching.seen == [] and calls == []


def test_stages_name_jobs_that_exist():
    named = [name for stage in known_stages() for name in stage.compiles]
    assert set(named) == set(JOBS)


@pytest.mark.parametrize("mask", [False, True])
def test_jobs_are_calls_that_work(mask):
    cube = gpu4d.DataCube(np.zeros((4, 5, 32, 32), "uint16"))
    if mask:
        cube.detector_mask = np.arange(1024).reshape(32, 32) != 100
    for name, job in JOBS.items():
        job.call(module._small_scan(cube))
        assert module._is_done(job), name


def run(folder, kept, *arguments):
    code = "import blank_pictures; blank_pictures.render_none(); "
    code += f"from gpu4d.cli import main; main({['run', *arguments, '--overwrite']!r})"
    environment = {**importing(), "NUMBA_CACHE_DIR": str(kept)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_scan_without_disks_compiles_no_search_of_disks(tmp_path, thin):
    np.save(tmp_path / "thin.npy", thin.cube.source.array)
    said = run(tmp_path, tmp_path / "kept", "thin.npy")
    assert said.count(TITLE) == 1, "sums are compiled"
    assert TITLE not in run(tmp_path, tmp_path / "kept", "thin.npy"), "the second time nothing is"
    kept = {file.name.split(".py")[0] for file in (tmp_path / "kept").rglob("*.nbi")}
    assert "frame_reductions._reduce_narrow_counts" in kept
    assert not kept & {"find_disks._find", "poisson_fit._fit_all"}
