"""Compare a sweep on two single-threaded workers of Dask with one, and measure what Dask's scheduler takes for a task.

    python benchmarks/workers.py [--patterns 4096] [--rounds 5] [--json FILE]

Writes a scan of Bragg disks into a temporary file, and checks that workers find the disks of this process to the last bit before anything
is timed. Sweeps with one worker and with two follow each other in every round. The ratio of a round is not disturbed by what the machine
does in other rounds, and the median of the ratios is shown. Two workers need two free cores: the load of the machine is shown too. On a
busy machine look at the ratio of processor times instead: that of the one worker to that of the busier of two.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpu4d
from gpu4d.streaming.cluster_tasks import part_of

DETECTOR = (128, 128)
TASKS = 2000  # tasks that do nothing, whose time is that of Dask


def run(patterns: int = 4096, rounds: int = 5) -> dict[str, Any]:
    """Check, then measure.

    Parameters
    ----------
    patterns : int
        Of the scan.
    rounds : int
        Sweeps with each number of workers, after one that is not counted.

    Returns
    -------
    dict
        Seconds of each sweep, the ratios of rounds and their median, and seconds of the scheduler for a task.
    """
    from distributed import LocalCluster

    options: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": logging.ERROR}
    with tempfile.TemporaryDirectory() as folder:
        cube, reduction = _scan(Path(folder) / "scan.npy", patterns)
        with LocalCluster(n_workers=1, **options) as one, LocalCluster(n_workers=2, **options) as two:
            with one.get_client() as single, two.get_client() as pair:
                _check(cube, reduction, single, pair)
                seconds: dict[str, list[float]] = {"one worker": [], "two workers": []}
                busy: dict[str, list[float]] = {"one worker": [], "two workers": []}
                for _ in range(rounds):
                    for name, client in (("one worker", single), ("two workers", pair)):
                        before, start = client.run(time.process_time), time.perf_counter()
                        gpu4d.sweep(cube, reduction(), client=client)
                        seconds[name].append(time.perf_counter() - start)
                        busy[name].append(max(after - before[at] for at, after in client.run(time.process_time).items()))
                overhead = min(_scheduling(single) for _ in range(3))
    ratios = [alone / together for alone, together in zip(*seconds.values())]
    processor = statistics.median(alone / together for alone, together in zip(*busy.values()))
    ratio = statistics.median(ratios)
    return {**seconds, "ratios": ratios, "ratio": ratio, "processor": processor, "scheduling": overhead, "load": os.getloadavg()[0]}


def _scan(path: Path, patterns: int) -> tuple[gpu4d.DataCube, Any]:
    """Write a scan of Bragg disks, and return it with a function that makes the reduction."""
    few = gpu4d.simulate.bragg_scan((8, 8), DETECTOR)
    rows = max(16, patterns // 64)
    np.save(path, np.tile(np.asarray(few.cube), (rows // 8, 8, 1, 1)))
    probe = gpu4d.probe.synthetic(DETECTOR, 6.0)
    return gpu4d.open(path), lambda: gpu4d.BraggDisks(probe, refine="correlation")


def _check(cube: gpu4d.DataCube, reduction: Any, *clients: Any) -> None:
    """Compare the disks of workers with those of this process, bit by bit. This also compiles the code of every worker."""
    expected = gpu4d.sweep(cube, reduction(), device="cpu")
    for client in clients:
        found = gpu4d.sweep(cube, reduction(), client=client)
        assert np.array_equal(found.offsets, expected.offsets), "workers find other numbers of disks"
        for field in expected.fields:
            assert found.flat(field).tobytes() == expected.flat(field).tobytes(), f"workers find other {field}"


def _scheduling(client: Any) -> float:
    """Return the seconds that Dask takes for a task, with one worker. Sending, scheduling, and the worker's own part are in it."""
    start = time.perf_counter()
    client.gather(client.map(part_of, [{"number": i} for i in range(TASKS)], names=[], pure=False))
    return (time.perf_counter() - start) / TASKS


def main() -> None:
    """Read the arguments, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patterns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    found = run(asked.patterns, asked.rounds)
    for name in ("one worker", "two workers"):
        print(f"{name:<12} {' '.join(f'{s:.2f}' for s in found[name])} s")
    print(f"two workers are {found['ratio']:.2f} times as fast (rounds: {', '.join(f'{r:.2f}' for r in found['ratios'])})")
    print(f"by processor time of the busier worker: {found['processor']:.2f} times")
    print(f"a task costs Dask {1e3 * found['scheduling']:.2f} ms; load of the machine {found['load']:.1f} on {os.cpu_count()} cores")
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
