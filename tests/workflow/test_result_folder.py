"""The result folder: replaced in one step, finished by the next run after a kill, shared by several processes."""

import multiprocessing
import os
import signal
import sys
import time

import pytest

from gpu4d.errors import InputError
from gpu4d.io import leftovers
from gpu4d.workflow.report import output

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed by signals")


def write(out, text, overwrite=True):
    with output.folder(out, overwrite=overwrite) as new:
        (new / "recipe.toml").write_text(text)


def killed(job, *arguments):
    """Run a job in another process that is killed inside it."""
    child = os.fork()
    if child == 0:
        try:
            job(*arguments)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def leave_age(folder):
    for entry in os.scandir(folder):
        old = time.time() - 2 * leftovers.YOUNG
        os.utime(entry.path, (old, old))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot exchange two folders")
def test_a_result_is_there_at_any_time(tmp_path, monkeypatch):
    out = tmp_path / "res"
    write(out, "old", overwrite=False)
    for stage in ("before", "after"):

        def run(stage=stage):
            exchanged = output._exchanged
            monkeypatch.setattr(output, "_exchanged", lambda new, out: die() if stage == "before" else (exchanged(new, out), die()))
            write(out, "new")

        killed(run)
        assert (out / "recipe.toml").read_text() == ("old" if stage == "before" else "new")
    leave_age(tmp_path)
    write(out, "newest")
    assert os.listdir(tmp_path) == ["res"] and (out / "recipe.toml").read_text() == "newest"


@pytest.mark.parametrize("call", [1, 2])
def test_without_one_step_the_next_run_finishes_what_was_interrupted(tmp_path, monkeypatch, call):
    out = tmp_path / "res"
    write(out, "old", overwrite=False)
    monkeypatch.setattr(output, "_exchanged", lambda new, out: False)

    def run():
        calls, rename = [], os.rename
        monkeypatch.setattr(os, "rename", lambda a, b: (rename(a, b), calls.append(1), die() if len(calls) == call else None))
        write(out, "new")

    killed(run)
    assert out.exists() == (call == 2)
    with pytest.raises(InputError, match="exists"):
        write(out, "other", overwrite=False)
    assert (out / "recipe.toml").read_text() == ("old" if call == 1 else "new")
    leave_age(tmp_path)
    write(out, "newest")
    assert os.listdir(tmp_path) == ["res"] and (out / "recipe.toml").read_text() == "newest"


def test_a_move_that_fails_keeps_the_earlier_result(tmp_path, monkeypatch):
    out = tmp_path / "res"
    write(out, "old", overwrite=False)
    rename = os.rename

    def failing(a, b):
        if os.path.basename(a).startswith(".res.") and "old" not in str(a) and str(b) == str(out):
            raise PermissionError(13, "Permission denied")
        rename(a, b)

    monkeypatch.setattr(output, "_exchanged", lambda new, out: False)
    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(InputError, match=r"cannot be written \(Permission denied\)"):
        write(out, "new")
    assert os.listdir(tmp_path) == ["res"] and (out / "recipe.toml").read_text() == "old"


def test_a_result_that_another_process_puts_there_meanwhile(tmp_path, monkeypatch):
    """It comes between the two steps, so that neither the new nor the earlier result fits: nothing of them is left beside it."""
    out = tmp_path / "res"
    write(out, "old", overwrite=False)
    rename, others = os.rename, ["other"]

    def with_another_process(a, b):
        if str(b) == str(out) and others:
            out.mkdir()
            (out / "recipe.toml").write_text(others.pop())
        rename(a, b)

    monkeypatch.setattr(output, "_exchanged", lambda new, out: False)
    monkeypatch.setattr(os, "rename", with_another_process)
    write(out, "new")
    assert not others and os.listdir(tmp_path) == ["res"] and (out / "recipe.toml").read_text() == "new"


def test_a_result_that_goes_away_while_it_is_looked_at_holds_nothing_foreign(tmp_path, monkeypatch):
    """Another process replaces it between listing its files and looking at them."""
    out, ours = tmp_path / "res", output._is_ours
    write(out, "old", overwrite=False)

    def gone(entry):
        os.rename(out, tmp_path / "away")
        return ours(entry)

    monkeypatch.setattr(output, "_is_ours", gone)
    output.check_free(out, overwrite=True)
    monkeypatch.undo()
    monkeypatch.setattr(type(out), "iterdir", lambda self: iter(os.listdir(tmp_path / "nothing")))
    os.rename(tmp_path / "away", out)
    output.check_free(out, overwrite=True)


def _writer(out, number):
    for i in range(25):
        write(out, f"{number} {i} " + "x" * 500)


@pytest.mark.parametrize("in_one_step", [True, False])
def test_several_processes_write_one_result(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(output, "_exchanged", lambda new, out: False)
    out = tmp_path / "res"
    write(out, "0 0 " + "x" * 500)
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_writer, args=(out, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    missing = 0
    while any(writer.is_alive() for writer in writers):
        try:
            assert len((out / "recipe.toml").read_text()) > 500
        except FileNotFoundError:
            missing += 1
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert os.listdir(tmp_path) == ["res"] and len((out / "recipe.toml").read_text()) > 500
    if in_one_step and sys.platform == "linux":
        assert missing == 0, "a result is there at any time"
