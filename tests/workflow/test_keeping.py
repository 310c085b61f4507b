"""What is kept of a run: only what changed is computed again, results are the same to the last bit, and nothing kept breaks a run."""

import os

import h5py
import numpy as np
import pytest
from kept_runs import KNOWN, entries, killed, no_pictures, same, start
from recipes_in_tests import recipe

import gpu4d
from gpu4d.workflow import run
from gpu4d.workflow.content import BLOCK, WHOLE
from gpu4d.workflow.keeping import identity_of, open_store, store
from gpu4d.workflow.keeping.effects import content_digest
from gpu4d.workflow.keeping.watching import Watch, WatchedRecipe, unwatch_calibration, watch_calibration


def said(result, word):
    """Titles of the stages of which the log says the word: kept or computed."""
    lines = [line.partition("  ")[2] for line in result.record.log]
    start = {"kept": "kept from an earlier run: ", "computed": "computed: "}[word]
    return {line.removeprefix(start).split(", because")[0] for line in lines if line.startswith(start)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a scan, and one for what is kept."""
    root = tmp_path_factory.mktemp("keeping")
    made = gpu4d.simulate.bragg_scan((6, 5), (64, 64), spacing=14.0, radius=4.0, dose=80.0, strain_size=0.01, seed=3)
    with h5py.File(root / "scan.h5", "w") as file:
        file["scan"] = made.cube.source.array
    return root


@pytest.fixture(scope="module")
def kept(place):
    """Runs with the keyword settings and without pictures; what is kept stays from one run to the next."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPU4D_CACHE", str(place / "cache"))
        patch.setattr("gpu4d.workflow.pipeline.draw", no_pictures)

        def one(name, cache=True, **settings):
            return run(place / "scan.h5", place / name, recipe=recipe(**{**KNOWN, **settings}), overwrite=True, cache=cache)

        one.first = one("first")
        yield one


def test_the_same_run_again_computes_nothing_and_gives_the_same_bits(kept, place):
    again = kept("again")
    kept("without", cache=False)
    ran = {stage for stage, reason in again.state.reasons.items() if reason.wanted}
    assert len(again.kept) == len(ran) > 10 and not said(again, "computed")
    assert not any(step.name.startswith("pass") for step in again.record.stages), "the scan is not read"
    assert same(place / "first", place / "again") and same(place / "first", place / "without")
    first = kept.first.record
    assert (again.record.decisions, again.record.gates, again.record.figures, again.record.warnings) == (
        first.decisions, first.gates, first.figures, first.warnings,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "computed"),
    [
        ({"images__adf_inner": 1.6}, {"virtual images"}),
        ({"strain__max_strain": 0.05}, {"strain", "lattice and calibration against each other"}),
    ],
    ids=["images", "strain"],
)
def test_a_setting_is_followed_by_its_dependants_alone(kept, settings, computed):
    changed = kept("changed", **settings)
    assert said(changed, "computed") == computed
    assert len(changed.kept) > 10 and not set(changed.kept) & computed
    line = next(line for line in changed.record.log if "computed: " in line)
    assert next(iter(settings)).replace("__", ".") in line


def test_a_new_scan_step_is_in_every_result_and_disks_are_not_searched_again(kept, place):
    """The step reaches images through the pass over the scan, in which they are summed."""
    changed = kept("changed", calibration__r_pixel=21.0)
    assert "Bragg disks" in changed.kept and "virtual images" in said(changed, "computed")
    assert changed.state["bf"].pixel_size == changed.state["com"].pixel_size == 21.0
    kept("plain", cache=False, calibration__r_pixel=21.0)
    assert same(place / "changed", place / "plain")


def test_a_kept_gate_stops_a_run_as_it_did_and_follows_its_limits(kept):
    limits = {"gates__peak_count_fail": [200, 300], "gates__peak_count_warn": [200, 300]}
    first, again = (kept("stopped", gates__on_fail="stop", **limits) for _ in range(2))
    assert first.stopped and again.stopped and not said(again, "computed")
    assert "strain" not in again.state and first.record.warnings == again.record.warnings
    goes_on = kept("goes-on", gates__on_fail="continue", **limits)
    assert not goes_on.stopped and "strain" in goes_on.state and not [line for line in goes_on.record.warnings if "stopped" in line]
    assert [gate.status for gate in goes_on.record.gates if gate.key == "peak_count"] == ["fail"]
    assert [gate.status for gate in kept("usual").record.gates if gate.key == "peak_count"] != ["fail"]


@pytest.mark.slow
def test_an_equal_result_ends_the_chain(kept):
    """The spacing of disks is far below their distance: the trial and the disks are computed, and what follows sees no change."""
    changed = kept("changed", bragg__min_spacing=3.0)
    assert "Bragg disks" in said(changed, "computed") and "strain" in changed.kept


def test_damaged_entries_are_not_used(kept, place):
    files = sorted((place / "cache").rglob("*.kept"))
    for number, path in enumerate(files):
        whole = bytearray(path.read_bytes())
        if number % 2:
            whole[-40] ^= 1
        path.write_bytes(whole if number % 2 else whole[: len(whole) // 2])
    again = kept("again")
    assert not again.kept and same(place / "first", place / "again")


def test_another_scan_in_the_same_file_is_noticed(kept, place):
    path = place / "scan.h5"
    about, before = os.stat(path), path.read_bytes()
    try:
        with h5py.File(path, "a") as file:
            file["scan"][2, 2] = file["scan"][2, 3]
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        changed = kept("changed")
        assert not changed.kept and not same(place / "first", place / "changed")
    finally:
        path.write_bytes(before)


def test_a_folder_that_cannot_be_written_stops_no_run(kept, place, monkeypatch):
    (place / "no folder").write_text("")
    monkeypatch.setenv("GPU4D_CACHE", str(place / "no folder"))
    done = kept("again")
    assert not done.kept and same(place / "first", place / "again")
    assert any("not kept for later runs" in line for line in done.record.log)
    assert not done.record.warnings or done.record.warnings == kept.first.record.warnings


@pytest.mark.slow
def test_pictures_of_kept_results_are_the_same(place, monkeypatch):
    """Also after a setting has changed that some of them follow from."""
    monkeypatch.setenv("GPU4D_CACHE", str(place / "drawn"))
    for name, cache, inner in (("a", True, 1.2), ("b", True, 1.6), ("c", True, 1.2), ("d", False, 1.2), ("e", False, 1.6)):
        run(place / "scan.h5", place / f"drawn_{name}", recipe=recipe(**{**KNOWN, "images__adf_inner": inner}), cache=cache)
    assert same(place / "drawn_a", place / "drawn_c") and same(place / "drawn_a", place / "drawn_d")
    assert same(place / "drawn_b", place / "drawn_e") and not same(place / "drawn_a", place / "drawn_b")


# ---------------------------------------------------------------- killed


def test_a_killed_run_goes_on_where_it_was(kept, place):
    cache = place / "killed"
    assert killed(start(place, cache, "killed_out"), cache, number=30) and not (place / "killed_out").exists()
    again = start(place, cache, "killed_out")
    again.join()
    assert again.exitcode == 0
    with h5py.File(place / "killed_out" / "result.h5") as file:
        log = file["gpu4d/metadatabundle/log/lines"]
        lines = [str(log[name][()]) for name in log]
    assert sum("kept from an earlier run" in line for line in lines) >= 5
    assert same(place / "first", place / "killed_out")


@pytest.mark.parametrize("moments", [pytest.param(8, marks=pytest.mark.slow), pytest.param(50, marks=pytest.mark.exhaustive)])
def test_runs_killed_at_any_moment_end_in_the_same_bits(kept, place, moments):
    """Each run is killed, and the next one goes on, until one ends by itself. Then a new chain begins with nothing kept."""
    kills, chain, numbers = 0, 0, np.random.default_rng(moments)
    while kills < moments:
        cache, out = place / f"chain {moments} {chain}", f"chain_out_{moments}_{chain}"
        while True:
            process = start(place, cache, out)
            by_time = numbers.random() < 0.5
            when = {"after": numbers.uniform(0, 2)} if by_time else {"number": entries(cache) + int(numbers.integers(1, 12))}
            if not killed(process, cache, **when):
                break
            kills += 1
            assert not (place / out).exists() or (place / out / "report.html").exists(), "there is a whole result or none"
        assert process.exitcode == 0 and same(place / "first", place / out)
        chain += 1


@pytest.mark.slow
def test_two_runs_at_once_share_what_they_keep(kept, place):
    cache = place / "shared"
    both = [start(place, cache, f"both_{i}") for i in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert same(place / "both_0", place / "both_1") and same(place / "first", place / "both_0")
    assert not list(cache.rglob("*.new")), "nothing unfinished is left"


# ---------------------------------------------------------------- the store


def filled(folder, sizes, limit):
    made = store.Store(folder, limit)
    for number, size in enumerate(sizes):
        made.put("scan", "stage.ask", f"{number:03}", {"scan file": "a.h5"}, lambda file, size=size: file.write(bytes(size)))
        path = folder / "scan" / f"stage.ask.{number:03}.kept"
        os.utime(path, (number, number))
    return made


def test_the_bound_is_kept_and_the_oldest_goes_first(tmp_path, monkeypatch):
    made = filled(tmp_path, [1000] * 10, 5000)
    os.utime(tmp_path / "scan" / "stage.ask.001.kept", (99, 99))  # it was used again
    made.tidy()
    left = sorted(path.name.split(".")[2] for path in (tmp_path / "scan").iterdir())
    assert sum(path.stat().st_size for path in (tmp_path / "scan").iterdir()) <= 5000
    assert left == ["001", "007", "008", "009"]
    with pytest.raises(OSError, match="half"):
        filled(tmp_path, [3000], 5000)
    monkeypatch.setattr(store, "LEAST_FREE", 1 << 62)
    with pytest.raises(OSError, match="free"):
        filled(tmp_path, [10], 5000)
    assert not list(tmp_path.rglob("*.new"))


def test_the_content_of_an_entry_is_given_back_or_nothing(tmp_path):
    made = store.Store(tmp_path, 10_000)
    made.put("scan", "stage.ask", "key", {"reads": {"a": "1"}}, lambda file: file.write(b"payload\nof two lines"))
    (entry,) = made.entries("scan", "stage.ask")
    assert entry.head == {"reads": {"a": "1"}} and bytes(made.read(entry)) == b"payload\nof two lines"
    assert entry.path.parent.stat().st_mode & 0o077 == 0, "others can neither read nor write it"
    whole = entry.path.read_bytes()
    for wrong in (whole[:-1], whole.replace(b"two", b"six"), b""):
        entry.path.write_bytes(wrong)
        assert made.read(entry) is None and not entry.path.exists()
        entry.path.write_bytes(whole)
    assert made.clear()[0] == 1 and made.entries("scan", "stage.ask") == []


def test_large_files_are_identified_by_blocks_and_time(tmp_path):
    path = tmp_path / "large.bin"
    with open(path, "wb") as file:
        file.truncate(WHOLE + 10 * BLOCK)
    about = os.stat(path)
    before, exact = identity_of(path), identity_of(path, exact=True)
    with open(path, "r+b") as file:
        file.seek(3 * BLOCK // 2 + WHOLE // 2)
        file.write(b"x")
    assert identity_of(path) != before, "the time of the last change counts"
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert identity_of(path, exact=True) != exact
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert identity_of(path) != before, "the end is read"


# ---------------------------------------------------------------- watching


def test_a_watch_sees_settings_and_calibration_fields_and_changes_nothing():
    given = recipe(**KNOWN)
    watch = Watch(str)
    watched = WatchedRecipe(given, watch)
    calibration = gpu4d.Calibration(q_pixel=0.02, energy=200e3)
    history = list(calibration.history)
    watch_calibration(calibration, watch)
    watch.begin()
    assert watched.images.adf_inner == 1.2 and watched["bragg"].power == 0.85 and "images.adf_inner" in watched.given
    assert calibration.q_pixel == 0.02 and calibration.how_known("energy") == "given"
    calibration.set(semiangle=3.0, how="test")
    assert calibration.semiangle == 3.0
    assert set(watch.reads) >= {
        "setting images.adf_inner",
        "setting bragg.power",
        "given images.adf_inner",
        "calibration q_pixel",
        "how energy",
    }
    assert "calibration semiangle" not in watch.reads and "calibration energy" not in watch.reads and "history " not in watch.reads
    assert type(calibration.copy()) is gpu4d.Calibration
    unwatch_calibration(calibration)
    assert type(calibration) is gpu4d.Calibration and type(calibration._values) is dict and calibration.history[:2] == history


def test_digests_tell_results_apart():
    one = gpu4d.simulate.bragg_scan((2, 2), (32, 32), seed=1).cube
    image = gpu4d.sweep(one, gpu4d.MeanPattern())
    other = gpu4d.sweep(one, gpu4d.MeanPattern())
    assert content_digest(image, {}) == content_digest(other, {})
    other.data = other.data + np.float64(1e-9)
    assert content_digest(image, {}) != content_digest(other, {})


def test_off_keeps_nothing(monkeypatch):
    monkeypatch.setenv("GPU4D_CACHE", "off")
    assert open_store() is None
