"""Sweeps on workers of Dask give the bits of sweeps in this process, whichever worker had which rows, and also where one is lost."""

import importlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import DeviceError, InputError, MemoryBudgetError
from gpu4d.ptychography.bright_field_stack import BrightFieldStack
from gpu4d.streaming import cluster, cluster_shares, cluster_tasks
from gpu4d.streaming.cluster_shares import folding, share_out
from gpu4d.streaming.cluster_tasks import Job, merge_rows, reduce_rows
from gpu4d.testing.reductions import ReductionTests
from gpu4d.workflow import Recipe, run, workers
from gpu4d.workflow.workers import workers_of

planning = importlib.import_module("gpu4d.streaming.plan")  # its package gives the function of this name
SHAPE = (150, 6, 24, 20)  # more rows than groups of sums, so that a group has several rows


@pytest.fixture(scope="module")
def client(need):
    """A client of two workers with one thread each, in this process."""
    distributed = need("distributed")
    with (
        distributed.LocalCluster(n_workers=2, processes=False, threads_per_worker=1, dashboard_address=":0") as workers,
        workers.get_client() as one,
    ):
        yield one


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A file with a scan of counts."""
    name = tmp_path_factory.mktemp("scan") / "scan.npy"
    np.save(name, np.random.default_rng(7).poisson(3.0, SHAPE).astype(np.uint16))
    return name


def several():
    """Reductions of all kinds: sums whose order matters, maxima, values per position, lists, images of pixels."""
    rng = np.random.default_rng(1)
    return {
        "mean": gpu4d.MeanPattern(),
        "weighted": gpu4d.MeanPattern(weights=rng.random(SHAPE[:2]), origin=rng.normal(10, 1, (*SHAPE[:2], 2))),
        "largest": gpu4d.MaxPattern(),
        "com": gpu4d.CenterOfMass(),
        "images": gpu4d.VirtualImage({"bf": gpu4d.detectors.disk(4.0), "adf": gpu4d.detectors.annulus(4.0, 9.0)}),
        "disks": gpu4d.BraggDisks(gpu4d.probe.synthetic(SHAPE[2:], 3.0)),
        "rings": gpu4d.rings.RingStatistics((11.3, 9.1)),
        "stack": BrightFieldStack([3, 90, 211]),
    }


def bits(results):
    """The bytes of results."""
    arrays = {name: (r.pixels, r.sums, r.squares) if name == "rings" else r for name, r in results.items()}
    return {name: ReductionTests().bits(one) for name, one in arrays.items()}


@pytest.fixture
def small_tasks(monkeypatch):
    """Tasks of a scan row each, so that groups of rows have several."""
    monkeypatch.setattr(cluster_shares, "LEAST_BYTES", 1)
    monkeypatch.setattr(cluster_shares, "AT_LEAST", 1000)


def test_workers_give_the_bits_of_one_process(client, path, small_tasks):
    cube, done = gpu4d.open(path), []
    expected = bits(gpu4d.sweep(cube, several(), device="cpu"))
    found = gpu4d.sweep(cube, several(), client=client, memory="64 MB", progress=lambda n, total: done.append((n, total)))
    assert bits(found) == expected
    assert done[-1] == (900, 900) and len(done) == 150 and [n for n, _ in done] == sorted(n for n, _ in done)


def test_one_reduction_gives_one_result(client, path):
    cube = gpu4d.open(path)
    assert np.array_equal(gpu4d.sweep(cube, gpu4d.MaxPattern(), client=client), np.load(path).max((0, 1)))


def test_positions_that_are_left_out_and_corrections(client, path):
    where = np.random.default_rng(3).random(SHAPE[:2]) > 0.4
    where[10:40] = False  # whole tasks, and whole groups of rows, have nothing to do
    bad = np.zeros(SHAPE[2:], bool)
    bad[5, 7] = bad[11, 3] = True
    cube = gpu4d.open(path).corrected(bad_pixels=bad).crop(qx=(2, 22)).bin(detector=2)
    asked = {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass()}
    for mask in (where, np.zeros_like(where)):
        alone = gpu4d.sweep(cube, asked, where=mask, device="cpu")
        assert bits(gpu4d.sweep(cube, asked, where=mask, client=client)) == bits(alone)


def test_events_and_small_arrays_travel(client):
    patterns = np.random.default_rng(2).poisson(0.2, (9, 5, 16, 16)).astype(np.uint8)
    position, pixels = np.nonzero(patterns.reshape(45, -1))
    offsets = np.searchsorted(position, np.arange(46))
    counts = patterns.reshape(45, -1)[position, pixels]
    counted = gpu4d.DataCube(gpu4d.data.EventSource(offsets, pixels, (9, 5), (16, 16), counts, np.uint8))
    asked = {"mean": gpu4d.MeanPattern(), "com": gpu4d.CenterOfMass(), "disks": gpu4d.BraggDisks(gpu4d.probe.synthetic((16, 16), 3.0))}
    alone = bits(gpu4d.sweep(gpu4d.DataCube(patterns), asked, device="cpu"))
    assert bits(gpu4d.sweep(counted, asked, client=client)) == alone
    assert bits(gpu4d.sweep(gpu4d.DataCube(patterns), asked, client=client)) == alone


@pytest.mark.parametrize("threads", [1, 40, 300])
def test_any_division_and_any_order_of_merging(path, threads):
    """Without Dask: the functions that run on workers, for clusters of other sizes."""
    cube, named = gpu4d.open(path), several()
    job = Job.of(cube, named, None, "cpu", None)
    groups = share_out(SHAPE, 960, 1, threads, folding=bool(folding(named)))
    tasks = [rows for group in groups for rows in group.tasks]
    assert [row for rows in tasks for row in range(*rows)] == list(range(SHAPE[0])), "each row once, in order"
    assert any(len(group.tasks) > 1 for group in groups) == (threads > 1)
    rng, done = np.random.default_rng(threads), []
    for group in groups:
        states = [reduce_rows(rows, job) for rows in group.tasks]
        rng.shuffle(states)
        done.append(merge_rows(group.rows, states, job, list(named)) if len(states) > 1 else states[0])
    scan, _ = planning.scan_info(cube)
    for reduction in named.values():
        reduction.start(scan, "cpu")
    for i in rng.permutation(len(done)):
        for name, state in done[i].items():
            named[name].merge(state)
    assert bits({name: one.finish() for name, one in named.items()}) == bits(gpu4d.sweep(cube, several(), device="cpu"))


def test_a_state_carries_its_own_rows_alone(path):
    """What travels does not grow with the scan: neither maps of it, nor a pattern for every row where rows can be added."""
    for name, most in (("com", 2 * 8 * 6 * 6 + 1500), ("mean", 4 * 8 * 24 * 20), ("stack", 8 * 6 * 6 + 1500), ("disks", 6 * 6 * 70 * 28)):
        job = Job.of(gpu4d.open(path), {name: several()[name]}, None, "cpu", None)
        assert len(pickle.dumps(reduce_rows((30, 36), job))) < most, name


def test_tasks_are_neither_too_many_nor_too_large():
    rows = share_out((10_000, 1024, 256, 256), 1 << 17, 1, 256, folding=True)
    sizes = [last - first for group in rows for first, last in group.tasks]
    assert 8 * 256 <= len(sizes) + 256 and max(sizes) <= 5
    assert all(group.rows[0] % 157 == 0 for group in rows), "no task goes over the end of a group of rows that is added to one sum"
    few = [group.rows for group in share_out((512, 512, 128, 128), 1 << 15, 1, 2, folding=False)]
    assert all((last - first) * 512 << 15 <= 2 << 30 for first, last in few)
    chunked = [group.rows for group in share_out((512, 64, 64, 64), 1 << 13, 16, 4, folding=False)]
    assert all(first % 16 == 0 for first, _ in chunked), "chunks of the file are decoded once"


class Fails(gpu4d.MaxPattern):
    """Fails at a row."""

    error = InputError("row 77 has no patterns: give a scan that has")

    def update(self, frames, positions):
        if 77 in positions[:, 0]:
            raise self.error
        super().update(frames, positions)


class Needs(gpu4d.MaxPattern):
    def bytes_needed(self, scan, n_frames):
        return 1 << 60


class Twice(gpu4d.MaxPattern):
    def passes(self, scan, budget):
        return 2


def test_errors_of_workers_are_ours(client, path, tmp_path):
    cube = gpu4d.open(path)
    with pytest.raises(InputError, match="row 77 has no patterns") as caught:
        gpu4d.sweep(cube, Fails(), client=client)
    assert "\n" not in str(caught.value)
    needs = Needs()
    with pytest.raises(MemoryBudgetError, match="raise memory="):
        gpu4d.sweep(cube, needs, client=client)
    gone = tmp_path / "gone.npy"
    np.save(gone, np.load(path)[:4])
    scan = gpu4d.open(gone)
    gone.unlink()
    with pytest.raises(InputError, match=r"worker .*gone\.npy.*; every worker must see the file at the same path"):
        gpu4d.sweep(scan, gpu4d.MaxPattern(), client=client)
    time.sleep(0.2)
    assert not client.processing() or not any(client.processing().values()), "nothing of a failed sweep goes on"


def test_what_cannot_be_sent_is_refused_before_anything_runs(client, path, monkeypatch, tmp_path):
    cube, asked = gpu4d.open(path), gpu4d.MeanPattern()
    for options, words in (
        ({"client": 3}, "client is a int: need a distributed.Client, or the address"),
        ({"client": client, "keep": "device"}, "keep='device' with client="),
        ({"client": client, "trace": tmp_path / "t.json"}, "trace= with client="),
        ({"client": client, "device": ["cpu"]}, "each worker uses one device"),
        ({"client": client, "device": "gpu"}, "need"),
        ({"client": client, "memory": "lots"}, "memory"),
    ):
        with pytest.raises(InputError, match=words):
            gpu4d.sweep(cube, asked, **options)
    with pytest.raises(InputError, match="result needs several passes"):
        gpu4d.sweep(cube, Twice(), client=client)
    monkeypatch.setattr(cluster, "MOST_SENT", 1000)
    with pytest.raises(InputError, match="in the memory of this process, and at most 1 kB"):
        gpu4d.sweep(gpu4d.DataCube(np.ones((2, 2, 32, 32))), asked, client=client)
    at = np.arange(0, 200, 8)  # 24 events at each of 24 positions, whose numbers travel with the scan
    with pytest.raises(InputError, match=r"the scan holds .* in the memory of this process"):
        gpu4d.sweep(gpu4d.DataCube(gpu4d.data.EventSource(at, np.zeros(192, int), (4, 6), (4, 4))), asked, client=client)
    with pytest.raises(InputError, match="the reductions cannot be sent to other processes"):
        unsendable = gpu4d.MeanPattern()
        unsendable.own = (i for i in ())
        gpu4d.sweep(cube, unsendable, client=client)


def test_other_versions_and_several_kinds_of_devices(client, path, monkeypatch):
    cube, described = gpu4d.open(path), cluster_tasks.Machine
    kinds = itertools.cycle(["cpu", "cuda"])
    for machine, words in (
        (lambda version, device, process: described("0.0.1", device, process), "has gpu4d 0.0.1, the client .*: install the same version"),
        (lambda version, device, process: described(version, next(kinds), process), "some workers have cpu, others cuda"),
        (lambda version, device, process: 1 / 0, r"cannot use gpu4d .* \(division by zero\)"),
    ):
        monkeypatch.setattr(cluster_tasks, "Machine", machine)
        with pytest.raises(InputError, match=words):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), client=client)
    old = Job("1", "0.0.1", *[cluster_tasks.Pickled.of("a", cube)] * 2, None, "cpu", None)
    with pytest.raises(InputError, match=r"this process has gpu4d .*, the client 0\.0\.1"):
        reduce_rows((0, 1), old)


def test_a_class_that_only_the_caller_has(client, path, monkeypatch):
    """Its module is not on the workers, and neither Dask nor Python says what to do."""
    elsewhere = types.ModuleType("only_on_the_client")
    elsewhere.Mine = type("Mine", (gpu4d.MaxPattern,), {"__module__": "only_on_the_client"})
    with monkeypatch.context() as here:
        here.setitem(sys.modules, "only_on_the_client", elsewhere)
        job = Job.of(gpu4d.open(path), {"mine": elsewhere.Mine()}, None, "cpu", None)
    with pytest.raises(InputError, match=r"cannot make the reductions .*only_on_the_client.*: install their module there"):
        reduce_rows((0, 1), job)


def test_what_dask_raises_in_many_lines_is_said_in_one(client):
    """As Dask words it where a state cannot be pickled, and where the scheduler has no gpu4d: both need processes of their own."""
    lock = "Could not serialize object of type dict\nTraceback …\nTypeError: cannot pickle '_thread.lock' object\n"
    graph = (
        "Error during deserialization of the task graph. This frequently\noccurs if the Scheduler and Client have different environments."
    )
    for raised, words in (
        (TypeError(lock), r"the state of a reduction cannot be sent to other processes \(cannot pickle '_thread\.lock' object\)"),
        (RuntimeError(graph), r"the scheduler at .* cannot read the tasks: install gpu4d .* there"),
    ):
        with pytest.raises(InputError, match=words) as caught, cluster._in_our_words(client):
            raise raised
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="of a reduction"), cluster._in_our_words(client):
        raise TypeError("of a reduction")


def test_no_dask_no_scheduler_no_client(client, path, monkeypatch, need):
    cube, dask = gpu4d.open(path), need("dask")
    with dask.config.set({"distributed.comm.timeouts.connect": "300ms"}):
        with pytest.raises(DeviceError, match="no scheduler answers at 'tcp:"):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), client="tcp://127.0.0.1:9")
    for wrong in ("8786", "tcp://host", "http://host:8786"):
        with pytest.raises(InputError, match=f"'{wrong}' is no address of a scheduler"):
            gpu4d.sweep(cube, gpu4d.MeanPattern(), client=wrong)
    found = gpu4d.sweep(cube, gpu4d.MaxPattern(), client=client.scheduler.address)
    assert np.array_equal(found, np.load(path).max((0, 1)))
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'gpu4d\[distributed\]'"):
        gpu4d.sweep(cube, gpu4d.MeanPattern(), client="tcp://127.0.0.1:9")


def test_a_run_says_at_once_what_does_not_go_together(path, tmp_path, monkeypatch):
    def settings(**compute):
        recipe = Recipe()
        for name, value in compute.items():
            recipe.set(f"compute.{name}", value)
        return recipe

    both = settings(workers=2, scheduler="tcp://127.0.0.1:9")
    with pytest.raises(InputError, match=r"--workers 2 starts workers here, and --scheduler tcp:.* has its own"):
        run(path, tmp_path / "out", recipe=both)
    with pytest.raises(InputError, match=r"--trace .* shows one process"):
        run(path, tmp_path / "out", recipe=settings(workers=2), trace=tmp_path / "trace.json")
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--workers needs Dask: pip install 'gpu4d\[distributed\]'"):
        run(path, tmp_path / "out", recipe=settings(workers=2))
    assert not (tmp_path / "out").exists()


class Slow(gpu4d.CenterOfMass):
    """Takes its time, so that a worker can be killed in the middle of its rows."""

    def update(self, frames, positions):
        time.sleep(0.004)
        super().update(frames, positions)


class Kills(gpu4d.MaxPattern):
    """Ends the process of its worker, as the system does if memory runs out."""

    def update(self, frames, positions):
        if 77 in positions[:, 0]:
            os._exit(1)
        super().update(frames, positions)


@pytest.mark.slow
def test_a_killed_worker_changes_no_bit(need, path, small_tasks):
    need("distributed")
    dask, cube = need("dask"), gpu4d.open(path)
    killed, started = [], {}

    def kill(done, total):
        if done > total // 4 and not killed:
            victim = next(pid for address, pid in started.items() if client.processing().get(address))
            os.kill(victim, signal.SIGKILL)
            killed.append(victim)

    recipe = Recipe()
    recipe.set("compute.workers", 4)
    recipe.set("compute.device", "cpu")
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), workers_of(recipe) as client:
        started.update(client.run(os.getpid))
        assert len(started) == 4
        found = gpu4d.sweep(cube, {**several(), "com": Slow()}, client=client, progress=kill)
        assert killed and killed[0] not in client.run(os.getpid).values()
        with pytest.raises(DeviceError, match="2 workers died over the same rows: look into the log of tcp:"):
            gpu4d.sweep(cube, Kills(), client=client)
    assert bits(found) == bits(gpu4d.sweep(cube, several(), device="cpu"))


@pytest.mark.slow
def test_a_run_on_a_scheduler_of_its_own_gives_the_same_file(need, tmp_path):
    """As on a Slurm cluster: `dask scheduler` and two `dask worker` in processes of their own, and `gpu4d run --scheduler`."""
    need("distributed")
    h5py = need("h5py")
    scan = tmp_path / "scan.h5"
    gpu4d.save(scan, {"cube": gpu4d.simulate.bragg_scan((10, 12), (64, 64)).cube})
    address_file, dask = tmp_path / "scheduler.json", (sys.executable, "-m", "dask")
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    programs = [subprocess.Popen([*dask, "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", address_file], **silent)]
    try:
        worker = [*dask, "worker", "--nthreads", "1", "--no-dashboard", "--scheduler-file", address_file]
        programs += [subprocess.Popen(worker, cwd=tmp_path, **silent) for _ in range(2)]
        for _ in range(600):
            if address_file.exists():
                break
            time.sleep(0.1)
        address = json.loads(address_file.read_text())["address"]
        for name, flags in (("alone", []), ("shared", ["--scheduler", address])):
            command = [
                sys.executable,
                "-c",
                "from gpu4d.cli import main; main()",
                "run",
                scan,
                "-o",
                tmp_path / name,
                "--quiet",
                "--device",
                "cpu",
                *flags,
            ]
            subprocess.run(command, check=True, cwd=tmp_path)
    finally:
        for one in reversed(programs):
            one.terminate()
            one.wait(30)
    files = [h5py.File(tmp_path / name / "result.h5") for name in ("alone", "shared")]
    datasets = [{}, {}]
    for file, found in zip(files, datasets):
        file.visititems(lambda name, held, found=found: found.update({name: held[()]}) if isinstance(held, h5py.Dataset) else None)
        file.close()
    alone, shared = datasets
    only = "gpu4d/metadatabundle/settings/compute/scheduler"
    assert set(alone) ^ set(shared) == {only} and len(alone) > 50
    for name, value in alone.items():
        if "/log/" not in name and "/history/" not in name:  # these have times
            values = [np.asarray(one).ravel() for one in (value, shared[name])]
            pairs = [[bytes(v) if isinstance(v, bytes) else np.asarray(v).tobytes() for v in one] for one in values]
            assert pairs[0] == pairs[1], name
