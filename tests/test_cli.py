"""The command line: what it accepts, and the one line it says when something cannot be done."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
from own_process import importing

import gpu4d
from gpu4d.cli import run_command


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A small file a run can analyse in a second: a phase object, as a list of patterns would be written."""
    made = gpu4d.simulate.phase_object_scan((10, 12), (32, 32), r_pixel=0.5, semiangle=32.0, dose=1e5, seed=3)
    path = tmp_path_factory.mktemp("scan") / "object.h5"
    with h5py.File(path, "w") as file:
        file["scan"] = made.cube.source.array
        file["flat"] = made.cube.source.array[0, 0]
        file["mask"] = np.ones((31, 32))
    return path


KNOWN = ["--energy", "80e3", "--semiangle", "25", "--r-pixel", "0.5"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def last_line(err):
    """The one line of an error. Before it, standard error has only the stages that were done, with their times."""
    *stages, line = err.splitlines(keepends=True)
    assert all(re.fullmatch(r".+: \d+\.\d s\n", stage) for stage in stages), f"not one line: {err!r}"
    assert line.startswith("gpu4d: ") and line.endswith("\n"), err
    return line


def refused(capfd, *arguments):
    """Run a command that must fail; the one line it says."""
    before = sorted(os.listdir("."))
    code = run_command([str(a) for a in arguments])
    out, err = capfd.readouterr()
    assert code == 1, f"exit code {code}, said {out} {err}"
    assert out == ""
    assert sorted(os.listdir(".")) == before, "something was left behind"
    return last_line(err)


def test_run_leaves_everything(scan, capfd, here):
    assert run_command(["run", str(scan), "--dataset", "/scan", *KNOWN]) == 0
    out, err = capfd.readouterr()
    assert "object-gpu4d/report.html" in out and re.match(r"open: \d+\.\d s\npass 1: [^\n]*: \d+\.\d s\n", err)
    left = {p.name for p in (here / "object-gpu4d").iterdir()}
    assert {"result.h5", "report.html", "recipe.toml", "bf.png", "mean_pattern.png", "dpc_phase.png"} <= left
    assert os.listdir(here) == ["object-gpu4d"], "the passing folder is gone"


def test_an_existing_result_is_replaced_only_when_told(scan, capfd, here, blank_pictures):
    arguments = ["run", str(scan), *KNOWN, "--dataset", "scan", "-o", "out"]
    assert run_command(arguments) == 0
    capfd.readouterr()
    first = (here / "out" / "report.html").read_text()
    assert "--overwrite" in refused(capfd, *arguments)
    assert (here / "out" / "report.html").read_text() == first
    refused(capfd, *arguments, "--overwrite", "--scan-shape", "7,7")
    assert (here / "out" / "report.html").read_text() == first, "a run that fails must leave the earlier result alone"
    assert run_command([*arguments, "--overwrite", "--bundle"]) == 0
    assert (here / "out" / "report.html").read_text() != first
    assert os.listdir(here) == ["out"]
    with h5py.File(here / "out" / "result.h5") as file, h5py.File(scan) as raw:
        stored = file["gpu4d/datacube/data"]
        assert not stored.is_virtual and stored.dtype == raw["scan"].dtype, "--bundle: the scan itself"
        np.testing.assert_array_equal(np.asarray(gpu4d.open(here / "out" / "result.h5")), raw["scan"])


def test_foreign_files_are_never_deleted(scan, capfd, here):
    (here / "out").mkdir()
    (here / "out" / "thesis.tex").write_text("years of work")
    line = refused(capfd, "run", scan, "--dataset", "scan", "-o", "out", "--overwrite")
    assert "thesis.tex" in line and (here / "out" / "thesis.tex").read_text() == "years of work"


def test_the_input_is_never_replaced(scan, capfd, here):
    (here / "data").mkdir()
    inside = here / "data" / "result.h5"
    inside.write_bytes(scan.read_bytes())
    line = refused(capfd, "run", inside, "--dataset", "scan", "-o", "data", "--overwrite")
    assert "holds the input" in line and inside.read_bytes() == scan.read_bytes()


@pytest.fixture
def bad(here, scan):
    """Files that cannot be analysed, by name."""
    (here / "folder.h5").mkdir()
    (here / "text.h5").write_text("this is not HDF5\n" * 50)
    (here / "empty.h5").write_bytes(b"")
    with h5py.File(here / "plane.h5", "w") as file:
        file["image"] = np.ones((16, 16))
    with h5py.File(here / "two.h5", "w") as file:
        file["a"] = file["b"] = np.ones((4, 4, 8, 8), "u2")
    with h5py.File(here / "list.h5", "w") as file:
        file["patterns"] = np.ones((12, 8, 8), "u2")
    (here / "short.h5").write_bytes(scan.read_bytes()[: scan.stat().st_size // 2])
    np.save(here / "short.npy", np.ones((8, 8, 16, 16), "u2"))
    with open(here / "short.npy", "r+b") as file:
        file.truncate(5000)
    return here


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["missing.h5"], ["missing.h5", "no such file"]),
        (["folder.h5"], ["folder.h5", "directory"]),
        (["text.h5"], ["text.h5", "text file"]),
        (["empty.h5"], ["empty"]),
        (["plane.h5"], ["image", "16"]),
        (["two.h5"], ["a", "b", "--dataset"]),
        (["two.h5", "--dataset", "c"], ["'c'", "a", "b"]),
        (["list.h5", "--scan-shape", "5,3"], ["12", "15"]),
        (["list.h5"], ["scan"]),
        (["two.h5", "--dataset", "a", "--scan-shape", "3,5"], ["3,5", "15", "16"]),
        (["short.h5", "--dataset", "scan"], ["short.h5"]),
        (["short.npy"], ["short.npy"]),
    ],
)
@pytest.mark.parametrize("command", ["run", "info"])
def test_files_that_cannot_be_read(bad, capfd, command, arguments, says):
    line = refused(capfd, command, *arguments)
    assert all(word in line for word in says), line
    assert "unexpected" not in line, "an error we know of must be said in our own words"


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--probe", "SCAN:/mask"], ["probe", "(31, 32)", "(32, 32)"]),
        (["--probe", "SCAN:/nothing"], ["nothing"]),
        (["--probe", "nowhere.npy"], ["nowhere.npy"]),
        (["--memory", "1 kB"], ["needs", "free", "allows"]),
        (["--memory", "lots"], ["'lots'", "512 MB"]),
        (["--device", "cuda:9"], ["cuda:9", "cpu"]),
        (["--device", "tpu"], ["'tpu'", "cuda:N"]),
        (["--device", "cuda:0,cuda:1,cuda:0"], ["cuda:0"]),
        (["--device", "cpu,cpu"], ["'cpu,cpu'", "twice"]),
        (["--device", "auto,cpu"], ["'auto,cpu'", "alone"]),
        (["--trace", "nowhere/t.json"], ["nowhere", "choose another place"]),
        (["--trace", "SCAN"], ["SCAN", "--overwrite"]),
        (["--trace", "SCAN", "--overwrite"], ["SCAN", "is not a trace"]),
        (["--trace", "out/t.json", "-o", "out"], ["t.json", "result folder"]),
        (["--trace", "."], ["folder", "name of a file"]),
        (["--energy", "-3"], ["--energy -3", "eV"]),
        (["--energy", "nan"], ["--energy", "eV"]),
        (["--energy", "high"], ["--energy", "high", "keV"]),
        (["--energy", "300"], ["--energy 300", "did you mean 300e3"]),
        (["--semiangle", "0.00103"], ["--semiangle 0.00103", "did you mean 1.03"]),
        (["--r-pixel", "5e-10"], ["--r-pixel", "did you mean 5"]),
        (["--scan-shape", "12"], ["--scan-shape 64,64"]),
        (["--recipe", "none.toml"], ["none.toml", "gpu4d recipe new"]),
        (["--colour", "red"], ["--colour"]),
        (["-o", "/proc/nowhere/out"], ["/proc/nowhere/out", "cannot be written"]),
        (["-o", "SCAN/out"], ["cannot be written"]),
    ],
)
def test_settings_that_cannot_be_used(scan, capfd, flags, says):
    line = refused(capfd, "run", scan, "--dataset", "scan", *(f.replace("SCAN", str(scan)) for f in flags))
    assert all(word.replace("SCAN", str(scan)) in line for word in says), line
    assert "unexpected" not in line


def test_a_mask_of_the_wrong_shape(scan, capfd, here):
    recipe = here / "r.toml"
    for setting, need in (("detector_mask", "(32, 32)"), ("scan_mask", "(10, 12)")):
        recipe.write_text(f'[input]\n{setting} = "{scan}:/mask"\n')
        line = refused(capfd, "run", scan, "--dataset", "scan", "--recipe", recipe)
        assert "(31, 32)" in line and need in line


def test_no_file_at_all(capfd):
    assert "FILE" in refused(capfd, "run")
    assert "nosuch" in refused(capfd, "nosuch")


def test_a_full_disk_leaves_nothing(scan, here):
    """Files may not grow beyond 100 kB: PNGs fit at first, the result does not."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"from gpu4d.cli import main; main(['run', {str(scan)!r}, '--dataset', 'scan', *{KNOWN!r}, '-o', 'deep/out'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    line = last_line(done.stderr)
    assert "deep/out" in line and "cannot be written" in line
    assert os.listdir(here) == [], "neither the folder nor its new parent is left"
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
def test_a_demo_on_a_full_disk_leaves_nothing(here):
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000));"
        "from gpu4d.cli import main; main(['demo'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert done.returncode == 1, done.returncode
    assert "gpu4d-demo cannot be written (File too large)" in last_line(done.stderr)
    assert os.listdir(here) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_nothing(scan, here, how):
    """Stopped in the middle of its work, as Ctrl-C does, a run says one line and cleans up."""
    code = (
        "import time, blank_pictures, gpu4d.workflow.pipeline as p\n"
        "blank_pictures.render_none()\n"
        "def slow(*_):\n    open('started', 'w').close(); time.sleep(300)\n"
        "p.save_results = slow\n"
        f"from gpu4d.cli import main; main(['run', {str(scan)!r}, '--dataset', 'scan', '-o', 'out'])"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=here, env=importing(), **pipes)
    deadline = time.monotonic() + 240
    while not (here / "started").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "stopped" in last_line(err)
    assert os.listdir(here) == ["started"]


def test_info_says_what_is_inside(scan, capfd):
    assert run_command(["info", str(scan), "--dataset", "scan"]) == 0
    out = capfd.readouterr().out
    command = f"gpu4d run {scan} --dataset scan --energy EV --semiangle MRAD --r-pixel Å"
    for word in ("10×12 scan positions", "32×32 detector pixels", "uint16", "can analyse it", "known      nothing", command):
        assert word in out, out
    assert "tiles of" not in out
    assert run_command(["info", str(scan), "--dataset", "scan", "--memory", "64MB", "--plan"]) == 0
    out = capfd.readouterr().out
    for word in ("10×12 scan positions", "tiles of", "64 MB", "1 pass"):
        assert word in out, out
    assert f"{10 * 12 * 32 * 32 * 2 / 1e3:.3g} kB to read" in out and "page cache" in out


@pytest.mark.parametrize(
    "flags, says", [(["--memory", "1 kB"], ["needs", "is free", "allows 1 kB"]), (["--device", "cuda:9"], ["cuda:9", "cpu"])]
)
def test_info_says_in_one_line_that_nothing_fits(scan, capfd, flags, says):
    line = refused(capfd, "info", scan, "--dataset", "scan", *flags)
    assert all(word in line for word in says), line


def tracks(path):
    """What a trace holds: names of spans by track."""
    events = json.loads(path.read_text())["traceEvents"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    found = {name: [] for name in names.values()}
    for e in events:
        if e["ph"] == "X":
            found[names[e["tid"]]].append(e["name"])
    return found


def test_a_run_leaves_a_trace(scan, capfd, here, blank_pictures):
    with h5py.File(here / "chunked.h5", "w") as file, h5py.File(scan) as plain:
        file.create_dataset("scan", data=plain["scan"], chunks=(1, 12, 32, 32), compression="gzip")
    assert run_command(["run", "chunked.h5", *KNOWN, "-o", "out", "--trace", "t.json"]) == 0
    assert "trace: t.json" in capfd.readouterr().out
    found = tracks(here / "t.json")
    assert len(found["passes"]) >= 2 and "mean_pattern" in found["passes"][0] and "com" in found["passes"][0]
    assert any(name == "bf" or " bf" in name for name in found["passes"][1:])
    assert any(name.startswith("read ") for name in found) and any(name.startswith("cpu compute ") for name in found)
    read = sorted(name for track, spans in found.items() if track.startswith("read ") for name in spans)
    assert set(read) == {f"read rows {i}…{i + 1}, columns 0…11" for i in range(0, 10, 2)}, "every tile, by name"
    assert next(iter(found)) == "passes", "what holds the others is drawn first"
    assert "--overwrite" in refused(capfd, "run", "chunked.h5", "-o", "other", "--trace", "t.json")
    assert run_command(["run", "chunked.h5", *KNOWN, "-o", "out", "--trace", "t.json", "--overwrite"]) == 0


def test_a_run_that_fails_leaves_its_trace(scan, capfd, here, monkeypatch, blank_pictures):
    import gpu4d.workflow.pipeline as pipeline

    def fail(*_):
        raise gpu4d.errors.InputError("as asked")

    monkeypatch.setattr(pipeline, "save_results", fail)
    assert run_command(["run", str(scan), "--dataset", "scan", *KNOWN, "-o", "out", "--trace", "t.json"]) == 1
    assert last_line(capfd.readouterr().err) == "gpu4d: as asked\n"
    assert os.listdir(here) == ["t.json"] and len(tracks(here / "t.json")["passes"]) >= 2


def test_devices(capfd):
    assert run_command(["devices"]) == 0
    assert "threads" in capfd.readouterr().out


def test_recipe_commands(capfd, here):
    assert run_command(["recipe", "new", "r.toml"]) == 0
    assert run_command(["recipe", "check", "r.toml"]) == 0
    assert "is valid" in capfd.readouterr().out
    assert "--overwrite" in refused(capfd, "recipe", "new", "r.toml")
    assert run_command(["recipe", "new"]) == 0
    assert capfd.readouterr().out == (here / "r.toml").read_text()
    assert run_command(["recipe", "explain", "--only", "bragg.power"]) == 0
    out = capfd.readouterr().out
    assert "bragg.power = 0.85" in out and "0.8 – 0.95" in out and "dpc" not in out
    assert "sections are" in refused(capfd, "recipe", "explain", "--only", "brag")
    (here / "r.toml").write_text("[bragg]\npowr = 0.9\n")
    assert "did you mean 'power'" in refused(capfd, "recipe", "check", "r.toml")


def test_help_imports_nothing_heavy():
    code = "import sys; from gpu4d.cli import run_command; run_command(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "demo" in done.stdout and not loaded & {"numba", "matplotlib", "h5py", "scipy", "rich.progress", "cupy", "dask"}


def test_help_without_arguments(capfd):
    assert run_command([]) == 0
    assert "Commands" in capfd.readouterr().out


def test_a_missing_extra_is_named(capfd, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "rich" else found(name, *rest))
    assert "rich" in refused(capfd, "devices") and run_command(["devices"]) == 1
    assert "pip install 'gpu4d[app]'" in capfd.readouterr().err


def test_debug_shows_the_traceback():
    code = "from gpu4d.cli import main; main(['run', 'missing.h5', '--debug'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr and "missing.h5" in done.stderr


def command(*arguments, **options):
    code = f"import blank_pictures; blank_pictures.render_none(); from gpu4d.cli import main; main({list(arguments)!r})"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=importing(), **options)


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_output_ends_no_run(scan, here, closed):
    """As after `>&-` in a shell."""
    done = command("run", str(scan), "--dataset", "scan", "-o", "out", stdout=subprocess.PIPE, preexec_fn=lambda: os.close(closed))
    assert done.returncode == 0 and (here / "out" / "report.html").exists(), done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_output_says_that_the_results_are_there(scan, here):
    with open("/dev/full", "w") as full:
        done = command("run", str(scan), "--dataset", "scan", "-o", "out", stdout=full)
    line = last_line(done.stderr)
    assert done.returncode == 1 and "results are complete in out" in line and (here / "out" / "result.h5").exists()


def test_a_name_that_is_no_text(scan, here):
    """Bytes that are not UTF-8, as a file from another system may have."""
    odd = os.fsencode(str(here)) + b"/caf\xe9.h5"
    os.symlink(scan, odd)
    done = command("run", os.fsdecode(odd), "--dataset", "scan", "-o", "out", stdout=subprocess.PIPE)
    assert done.returncode == 0, done.stderr
    assert "caf" in (here / "out" / "report.html").read_text()
    assert run_command(["recipe", "check", "out/recipe.toml"]) == 0


def test_ctrl_c_in_a_callback_is_not_lost(here):
    """The compiler calls back into Python. An error raised there is ignored, so the signal has to come again."""
    code = (
        "import ctypes, os, signal, time, gpu4d.cli as cli\n"
        "call = ctypes.CFUNCTYPE(None)(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.01)))\n"
        "def work(_):\n    call()\n    [time.sleep(0.1) for _ in range(3000)]\n    return 0\n"
        "cli._carry_out = work\n"
        "cli.main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)  # a lost signal: 300 s
    assert done.returncode == 1 and "stopped" in last_line(done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_ctrl_c_while_a_thread_compiles(here):
    """Nothing can stop the compiler, and the main thread waits for it. The process ends all the same, and leaves nothing."""
    code = (
        "import os, signal, threading, time, gpu4d.cli as cli\n"
        "from gpu4d.io import leftovers\n"
        "from numba.core.compiler_lock import global_compiler_lock as lock\n"
        "def compiling():\n    with lock:\n        os.kill(os.getpid(), signal.SIGINT)\n        time.sleep(300)\n"
        "def work(_):\n"
        "    os.mkdir('unfinished')\n"
        "    with leftovers.held('unfinished', unfinished=True):\n"
        "        try:\n            threading.Thread(target=compiling).start()\n            time.sleep(300)\n"
        "        finally:\n            time.sleep(300)\n"
        "cli._carry_out = work\n"
        "cli.main([])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)  # the thread's lock: 300 s
    assert done.returncode == 1 and "stopped" in last_line(done.stderr)
    assert os.listdir(here) == []


def test_flags_are_settings(scan, capfd, here, blank_pictures):
    """What flags give is in the recipe that the run leaves, and in the JSON."""
    flags = ["--rotation", "17", "--no-transpose", "--technique", "dpc", "--crop", "0,9,1,11", "--bin", "2"]
    assert run_command(["run", str(scan), "--dataset", "scan", *KNOWN, *flags, "--quiet", "--json", "-o", "out"]) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert err == "" and result["folder"] == "out" and "dpc_phase" in result["results"]
    recipe = gpu4d.workflow.Recipe.load("out/recipe.toml")
    assert (recipe.calibration.rotation_degrees, recipe.calibration.transpose) == (17, False)
    assert (recipe.analysis.technique, recipe.input.crop_scan, recipe.input.bin_detector) == ("dpc", [0, 9, 1, 11], 2)
    with h5py.File("out/result.h5") as file:
        assert file["gpu4d/bf/data"].shape == (9, 10)
    assert "rx1 ≤ 10" in refused(capfd, "run", str(scan), "--dataset", "scan", "--crop", "0,99,0,9")


def test_completion(capfd):
    for shell in ("bash", "zsh", "fish"):
        assert run_command(["completion", shell]) == 0
        assert "_GPU4D_COMPLETE" in capfd.readouterr().out


def test_lines_are_as_wide_as_the_terminal(scan, capfd, monkeypatch, blank_pictures):
    monkeypatch.setenv("COLUMNS", "60")
    assert run_command(["run", str(scan), "--dataset", "scan", *KNOWN, "-o", "out"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) > 8 and max(map(len, lines)) <= 60


def test_convert_says_what_it_wrote_and_refuses_in_one_line(scan, capfd):
    assert run_command(["convert", str(scan), "part.zarr", "--dataset", "/scan", "--crop", "0,5,2,9", "--bin", "2", "--codec", "zstd"]) == 0
    out, _ = capfd.readouterr()
    assert "zarr, codec zstd" in out and re.search(r"checksum [0-9a-f]{32}, read back and compared", out)
    with h5py.File(scan) as file:
        expected = file["scan"][:5, 2:9].reshape(5, 7, 16, 2, 16, 2).sum((3, 5))
    np.testing.assert_array_equal(np.asarray(gpu4d.open("part.zarr")), expected)
    assert "--codec" in refused(capfd, "convert", scan, "a.h5", "--codec", "gzip")
    assert "exists; choose another name" in refused(capfd, "convert", scan, "part.zarr", "--dataset", "/scan")
    assert "four whole numbers" in refused(capfd, "convert", scan, "a.h5", "--dataset", "/scan", "--crop", "1,2")
