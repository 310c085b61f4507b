"""A folder of files of several kinds: what is found, each analysed apart, failures reported, unchanged scans not analysed again."""

import json
import os
import re
import shlex
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from kept_runs import tiny_scan

import gpu4d
from gpu4d.cli import run_command
from gpu4d.errors import InputError
from gpu4d.workflow import content
from gpu4d.workflow.batch import many, plan_batch, plan_table
from gpu4d.workflow.batch.arriving import Arrivals, is_written
from gpu4d.workflow.batch.find import files_of, folders_not_looked_into, look_at
from gpu4d.workflow.batch.many import BatchOptions, run_batch
from gpu4d.workflow.batch.one_run import DONE, FAILED, SKIPPED, UNCHANGED, WAITING, Outcome, analyse_apart
from gpu4d.workflow.batch.overview import page, read_table, table
from gpu4d.workflow.recipe import Recipe


@pytest.fixture
def day(tmp_path):
    """A folder with two scans in one file, one in another, a damaged file, an empty one and notes."""
    folder = tmp_path / "day"
    folder.mkdir()
    scan = tiny_scan()
    np.save(folder / "one.npy", scan)
    with h5py.File(folder / "two.h5", "w") as file:
        file["first"], file["second"], file["matrix"] = scan, scan, np.zeros((3, 3))
    whole = (folder / "two.h5").read_bytes()
    (folder / "cut.h5").write_bytes(whole[: len(whole) // 3])
    (folder / "empty.mib").write_bytes(b"")
    (folder / "notes.txt").write_text("Tuesday\n")
    (folder / ".hidden.npy").write_text("")
    return folder


@pytest.fixture
def quick(monkeypatch):
    """Runs that take no time: each is noted, and leaves a result."""
    calls = []

    def made(found, out, recipe, cache=True, timeout=None, exact=False):
        calls.append(found.name)
        out.mkdir(exist_ok=True)
        (out / "result.h5").write_bytes(b"")
        failed = found.path.stem in ("bad", "cut")
        status, error = (FAILED, "it is bad") if failed else (DONE, "")
        return Outcome(found.name, str(found.path), status, "images", "Images only.", [1, 2], 0.5, out.name, error)

    monkeypatch.setattr(many, "analyse_apart", made)
    return calls


def by_name(found):
    return {one.name: one for one in found}


def test_each_scan_is_found_once_and_others_have_a_reason(day, tmp_path):
    found = by_name(look_at(files_of([str(day)], tmp_path / "out")))
    assert set(found) == {"one.npy", "two.h5:/first", "two.h5:/second", "cut.h5", "empty.mib", "notes.txt"}
    assert found["one.npy"].format == "npy" and not found["one.npy"].error
    assert "text file" in found["notes.txt"].skipped
    assert not found["cut.h5"].skipped and "empty" in found["empty.mib"].error, "files that should be scans are no notes: they fail"


def test_files_beside_a_scan_are_not_a_second_scan(tmp_path, shared_data):
    import zipfile

    with zipfile.ZipFile(sorted((shared_data / "vendor" / "quantumdetector").glob("*.zip"))[0]) as archive:
        names = [name for name in archive.namelist() if name.startswith("Single_") and "CounterDepth_6_" in name]
        archive.extractall(tmp_path, names)
    assert len(names) == 4
    found = look_at(files_of([str(tmp_path)], tmp_path / "out"))
    assert sorted(one.path.suffix for one in found if one.skipped) == [".hdr", ".hdr"]
    assert all("belongs to" in one.skipped for one in found if one.skipped)
    for vendor, suffix in (("arina", "_master.h5"), ("mrc", ".mrc")):
        looked = look_at(files_of([str(shared_data / "vendor" / vendor)], tmp_path / "out"))
        scans = [one.path for one in looked if one.format]
        assert scans and len({path.stem.partition("_data_")[0] for path in scans}) == len(scans), vendor
        assert all(path.name.endswith(suffix) for path in scans)


def test_files_of_one_series_are_one_scan(tmp_path):
    """Each file of a series is recognised, and opening any of them opens all."""
    import day_of_scans

    scan = day_of_scans.crystal(1, (32, 32), (4, 4)).astype("uint8")
    day_of_scans.merlin(tmp_path / "s.mib", scan)
    whole = (tmp_path / "s.mib").read_bytes()
    (tmp_path / "s.mib").unlink()
    for number in range(2):
        (tmp_path / f"s_{number + 1}.mib").write_bytes(whole[number * len(whole) // 2 : (number + 1) * len(whole) // 2])
    first, second = look_at(files_of([str(tmp_path)], tmp_path / "out"))
    assert first.about.startswith("4×4×32×32") and second.skipped == "belongs to s_1.mib"


def test_patterns_and_files_may_be_named_and_results_are_not_inputs(day, tmp_path):
    out = tmp_path / "day" / "out"
    (out / "one").mkdir(parents=True)
    (out / "one" / "report.html").write_text("")
    np.save(out / "inside.npy", np.zeros((2, 2, 8, 8)))
    assert {p.name for p in files_of([str(day / "*.npy"), str(day / "one.npy"), str(day / "**" / "*.npy")], out)} == {"one.npy"}
    with pytest.raises(InputError, match="no such file"):
        files_of([str(day / "nothing.h5")], out)


def test_folders_under_a_folder_are_looked_into_if_asked(tmp_path):
    """Names are paths under the folder. Hidden folders, results and links to folders are left out."""
    day, out = tmp_path / "day", tmp_path / "day" / "out"
    for folder in (".", "a", "a/deep", "b", ".hidden", "result", "batch", "out"):
        (day / folder).mkdir(parents=True, exist_ok=True)
        np.save(day / folder / "scan.npy", tiny_scan())
    (day / "result" / "report.html").write_text("")
    (day / "batch" / "batch.json").write_text("{}")
    (day / "linked").symlink_to(day / "a")
    assert list(files_of([str(day)], out).values()) == ["scan.npy"]
    assert list(files_of([str(day)], out, recursive=True).values()) == ["a/deep/scan.npy", "a/scan.npy", "b/scan.npy", "scan.npy"]
    assert [path.name for path in folders_not_looked_into([str(day)], out)] == ["a", "b", "linked"]
    two = files_of([str(day / "a"), str(day / "b" / "*.npy")], out)
    assert list(two.values()) == ["a/scan.npy", "b/scan.npy"], "scans of several folders have the folder's name"
    assert list(files_of([str(day / "*" / "*.npy")], out).values()) == ["a/scan.npy", "b/scan.npy", "linked/scan.npy"]


def test_results_of_scans_of_one_name_do_not_replace_each_other(tmp_path, quick):
    day = tmp_path / "day"
    for folder in ("a", "b"):
        (day / folder).mkdir(parents=True)
        np.save(day / folder / "scan.npy", tiny_scan())
    np.save(day / "a_scan.npy", tiny_scan())
    outcomes = run_batch([str(day)], tmp_path / "out", Recipe(), BatchOptions(recursive=True), say=str)
    assert [one.name for one in outcomes] == ["a/scan.npy", "a_scan.npy", "b/scan.npy"]
    assert [one.folder for one in outcomes] == ["a_scan", "a_scan_npy", "b_scan"]


def test_results_of_an_earlier_batch_in_the_folder_stay_in_its_table(tmp_path, quick):
    """Also if a batch that goes on is ended before it has come to them: the next one does not analyse them again."""
    for name in ("a", "b", "c"):
        np.save(tmp_path / f"{name}.npy", tiny_scan())
    out = tmp_path / "out"
    run_batch([str(tmp_path / "*.npy")], out, Recipe(), say=str)
    run_batch([str(tmp_path / "a.npy")], out, Recipe(), say=str)
    assert {one.name for one in read_table(out)} == {"a.npy", "b.npy", "c.npy"} and "b.npy" in (out / "index.html").read_text()
    run_batch([str(tmp_path / "*.npy")], out, Recipe(), say=str)
    assert len(quick) == 3, "nothing was analysed a second time"
    (out / "b" / "result.h5").unlink()
    run_batch([str(tmp_path / "a.npy")], out, Recipe(), say=str)
    assert {one.name for one in read_table(out)} == {"a.npy", "c.npy"}, "a result that is gone is not listed"


def test_a_scan_is_analysed_again_if_a_file_beside_it_changes(tmp_path, quick):
    """The patterns of an .xml file, for example, are in a .raw file."""
    np.save(tmp_path / "one.npy", tiny_scan())
    (tmp_path / "one.xml").write_text("<a/>")
    for text in ("<a/>", "<b/>", "<b/>"):
        (tmp_path / "one.xml").write_text(text)
        run_batch([str(tmp_path / "one.npy")], tmp_path / "out", Recipe(), say=str)
    assert quick == ["one.npy"] * 2


def test_exact_sees_a_change_that_hides_between_the_blocks(tmp_path, quick, monkeypatch):
    """Of a large file blocks are compared. Here every file is large, and blocks are small."""
    monkeypatch.setattr(content, "WHOLE", 0)
    monkeypatch.setattr(content, "BLOCK", 1)
    monkeypatch.setattr(content, "BLOCKS", 2)
    path, scan = tmp_path / "one.npy", tiny_scan()
    changed = scan.copy()
    changed[1, 1, 1, 1] += 1

    def analysed(values, exact):
        np.save(path, values)
        os.utime(path, (1, 1))
        run_batch([str(path)], tmp_path / f"out{exact}", Recipe(), BatchOptions(exact=exact), say=str)
        return len(quick)

    assert [analysed(values, False) for values in (scan, changed)] == [1, 1]
    assert [analysed(values, True) for values in (scan, changed, changed)] == [2, 3, 3]


def test_a_plan_says_what_would_be_done_and_writes_nothing(day, tmp_path, quick):
    out, said = tmp_path / "out", []
    (day / "evening").mkdir()
    np.save(day / "one.npy", tiny_scan())
    planned = {one.name: one.status for one in plan_batch([str(day)], out, Recipe(), say=said.append)}
    assert planned == {
        "one.npy": WAITING, "two.h5:/first": WAITING, "two.h5:/second": WAITING,
        "cut.h5": FAILED, "empty.mib": FAILED, "notes.txt": SKIPPED,
    }  # fmt: skip
    assert not quick and not out.exists() and "evening" in said[0] and "--recursive" in said[0]
    run_batch([str(day / "one.npy")], out, Recipe(), say=str)
    text = plan_table(plan_batch([str(day)], out, Recipe(), say=str))
    assert "2 to analyse, 1 done before, 2 cannot be opened, 1 skipped" in text and quick == ["one.npy"]
    assert re.search(r"two\.h5:/first +analyse +hdf5 3×4×16×16 uint8", text) and re.search(r"notes\.txt +skip +not a scan", text)


def test_a_batch_goes_on_after_failures_and_says_what_became_of_each(day, tmp_path, quick, capsys):
    lines = []
    outcomes = run_batch([str(day)], tmp_path / "out", Recipe(), say=lines.append)
    status = {one.name: one.status for one in outcomes}
    assert status == {
        "one.npy": DONE, "two.h5:/first": DONE, "two.h5:/second": DONE, "cut.h5": FAILED, "empty.mib": FAILED, "notes.txt": SKIPPED,
    }  # fmt: skip
    assert len({one.folder for one in outcomes if one.status == DONE}) == 3
    text = table(outcomes)
    assert "3 analysed, 2 failed, 1 skipped" in text and re.search(r"one\.npy +images +1/2 +0\.5 +Images only\.", text)
    saved = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert [entry["name"] for entry in saved["files"]] == [one.name for one in outcomes]
    assert read_table(tmp_path / "out") == outcomes


def test_scans_that_are_done_are_not_analysed_again_unless_something_changed(day, tmp_path, quick):
    out = tmp_path / "out"
    (day / "cut.h5").unlink()
    run_batch([str(day)], out, Recipe(), say=str)
    assert len(quick) == 3
    again = run_batch([str(day)], out, Recipe(), say=str)
    assert len(quick) == 3 and sum(one.status == UNCHANGED for one in again) == 3
    np.save(day / "one.npy", tiny_scan() + 1)
    run_batch([str(day)], out, Recipe(), say=str)
    assert quick[3:] == ["one.npy"]
    other = Recipe()
    other.set("images.bf_radius", 0.5)
    run_batch([str(day)], out, other, say=str)
    assert len(quick) == 7, "the settings are others"
    (out / "two_first" / "result.h5").unlink()
    run_batch([str(day)], out, other, say=str)
    assert quick[7:] == ["two.h5:/first"], "its result is gone"
    run_batch([str(day)], out, other, BatchOptions(again=True), say=str)
    assert len(quick) == 11


def test_it_stops_at_the_first_failure_if_asked(tmp_path, quick):
    for name in ("bad", "later"):
        np.save(tmp_path / f"{name}.npy", tiny_scan())
    outcomes = run_batch([str(tmp_path / "*.npy")], tmp_path / "out", Recipe(), BatchOptions(stop_on_error=True), say=str)
    assert [one.status for one in outcomes] == [FAILED] and quick == ["bad.npy"]


def test_no_files_are_an_error(tmp_path):
    with pytest.raises(InputError, match="no files"):
        run_batch([str(tmp_path)], tmp_path / "out", Recipe())


# ---------------------------------------------------------------- files that arrive


def test_a_file_is_taken_when_it_has_stopped_growing(tmp_path):
    path, arrivals = tmp_path / "scan.raw", Arrivals(still=0.05)
    path.write_bytes(bytes(10))
    assert not arrivals.settled(path)
    time.sleep(0.06)
    path.write_bytes(bytes(20))
    assert not arrivals.settled(path), "it grew"
    time.sleep(0.06)
    assert arrivals.settled(path)


def test_a_scan_in_several_files_waits_for_all_of_them(tmp_path):
    """The master file of a detector is written first, and the files with its frames grow."""
    master, frames, other = tmp_path / "scan_master.h5", tmp_path / "scan_data_000001.h5", tmp_path / "another.h5"
    arrivals = Arrivals(0.05)
    for path in (master, frames, other):
        path.write_bytes(bytes(10))
    assert not arrivals.settled(master)
    time.sleep(0.06)
    other.write_bytes(bytes(20))
    assert arrivals.settled(master), "another scan is no part of it"
    frames.write_bytes(bytes(20))
    assert not arrivals.settled(master), "its frames grew"
    time.sleep(0.06)
    assert arrivals.settled(master)


def test_an_hdf5_file_that_is_open_for_writing_waits(tmp_path):
    path = tmp_path / "scan.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["scan"] = tiny_scan()
        file.swmr_mode = True
        file.flush()
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); from pathlib import Path\n"
        code += f"from gpu4d.workflow.batch.arriving import is_written; sys.exit(40 + is_written(Path({str(path)!r})))"
        assert in_another_process(code) == 41
    assert not is_written(path)


def in_another_process(code):
    import subprocess
    import sys

    return subprocess.run([sys.executable, "-c", code]).returncode


def test_watching_takes_files_as_they_arrive_and_ends_when_idle(tmp_path, quick):
    folder = tmp_path / "day"
    folder.mkdir()
    np.save(folder / "early.npy", tiny_scan())
    arrives = threading.Timer(0.4, lambda: np.save(folder / "late.npy", tiny_scan()))
    arrives.start()
    outcomes = run_batch([str(folder)], tmp_path / "out", Recipe(), BatchOptions(watch=True, every=0.1, until_idle=1.0), say=str)
    arrives.join()
    assert quick == ["early.npy", "late.npy"] and [one.status for one in outcomes] == [DONE, DONE]


# ---------------------------------------------------------------- processes of their own


def test_a_process_that_is_ended_is_a_failure_with_its_signal(tmp_path, monkeypatch):
    np.save(tmp_path / "one.npy", tiny_scan())
    (tmp_path / "r.toml").write_text("")
    (found,) = look_at({tmp_path / "one.npy": "one.npy"})
    monkeypatch.setattr("gpu4d.workflow.batch.one_run.COMMAND", ("-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    outcome = analyse_apart(found, tmp_path / "out", tmp_path / "r.toml")
    assert outcome.status == FAILED and "SIGKILL" in outcome.error and "memory" in outcome.error
    monkeypatch.setattr("gpu4d.workflow.batch.one_run.COMMAND", ("-c", "import time; time.sleep(60)"))
    outcome = analyse_apart(found, tmp_path / "out", tmp_path / "r.toml", timeout=0.3)
    assert outcome.status == FAILED and "longer than 0.3 s" in outcome.error and outcome.seconds < 30


def test_a_run_that_stops_at_a_gate_is_no_success(tmp_path, monkeypatch):
    np.save(tmp_path / "one.npy", tiny_scan())
    (tmp_path / "r.toml").write_text("")
    (found,) = look_at({tmp_path / "one.npy": "one.npy"})
    said = {"headline": "Images only. 1 of 2 quality gates passed.", "gates": [{"passed": True}, {"passed": False}], "stopped": "Sharpness"}
    monkeypatch.setattr("gpu4d.workflow.batch.one_run.COMMAND", ("-c", f"print({json.dumps(json.dumps(said))}); raise SystemExit(3)"))
    outcome = analyse_apart(found, tmp_path / "out", tmp_path / "r.toml")
    assert outcome.status == FAILED and "Sharpness" in outcome.error and outcome.gates == [1, 2] and outcome.headline == "Images only."


def test_the_command_analyses_a_folder_and_tells_failures(tmp_path, monkeypatch, capfd):
    """One scan, in a real process; a file that is none."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(gpu4d.__file__).parents[1]))
    os.mkdir("day")
    np.save("day/tiny.npy", tiny_scan())
    Path("day/empty.h5").write_bytes(b"")
    assert run_command(["batch", "day", "-o", "out", "--energy", "200e3", "--no-cache"]) == 1
    said = capfd.readouterr()
    assert re.search(r"tiny\.npy +images", said.out) and "empty.h5" in said.out and "1 analysed, 1 failed" in said.out
    text = Path("out/index.html").read_text()
    assert 'href="tiny/report.html"' in text and "data:image/png;base64," in text and Path("out/tiny/report.html").is_file()
    assert text.index("empty.h5") < text.index("tiny.npy"), "failures come first"
    assert not re.search(r"(https?:)?//[a-z]", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)), "something outside is referred to"
    assert run_command(["batch", "day", "-o", "out", "--until-idle", "3"]) == 1
    assert "--watch" in capfd.readouterr().err


def test_the_page_shows_names_as_they_are(tmp_path):
    odd = Outcome("<b>&.h5", "x", DONE, "images", "A <i>headline</i>", [1, 1], 1.0, "a b#c")
    text = page(tmp_path, [odd], "Batch", "versions")
    assert "&lt;b&gt;&amp;.h5" in text and "A &lt;i&gt;" in text and 'href="a%20b%23c/report.html"' in text


def test_the_cache_is_listed_bounded_and_cleared(tmp_path, monkeypatch, capfd):
    from gpu4d.workflow.keeping.store import open_store

    monkeypatch.setenv("GPU4D_CACHE", str(tmp_path))
    for number in range(3):
        open_store().put(f"scan{number}", "stage.ask", "key", {"scan file": f"{number}.h5"}, lambda file: file.write(bytes(1000)))
    assert run_command(["cache"]) == 0
    listed = capfd.readouterr().out
    assert all(f"{number}.h5" in listed for number in range(3)) and "at most 5 GB" in listed
    assert run_command(["cache", "--limit", "2500"]) == 0 and open_store().limit == 2500
    capfd.readouterr()
    assert run_command(["cache", "list"]) == 0 and capfd.readouterr().out.count("entries") == 2
    assert run_command(["cache", "clear"]) == 0 and "removed 2 entries" in capfd.readouterr().out
    assert run_command(["cache", "--limit", "much"]) == 1 and "need bytes" in capfd.readouterr().err
    monkeypatch.setenv("GPU4D_CACHE", "off")
    assert run_command(["cache", "list"]) == 1 and "GPU4D_CACHE" in capfd.readouterr().err


def test_the_commands_of_the_page_are_accepted(monkeypatch, tmp_path):
    from gpu4d.cli import _commands

    text = (Path(__file__).parents[2] / "docs" / "how-to" / "batch.md").read_text(encoding="utf-8")
    lines = re.findall(r"^gpu4d .*$", text, re.M) + re.findall(r"`(gpu4d (?:run scan|cache)[^`]*)`", text)
    assert len(lines) >= 7
    monkeypatch.chdir(tmp_path)
    group = _commands()
    for _, name, *arguments in map(shlex.split, lines):
        context = group.commands[name].make_context(name, arguments)
        if name == "cache" and context._protected_args:
            assert context._protected_args[0] in group.commands["cache"].commands
