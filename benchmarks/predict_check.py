"""Check `gpu4d bench predict`: make scans of other shapes, types and layouts, predict their times, measure them, and compare.

    python benchmarks/predict_check.py [--quick | --large] [--in-turns] [--device cuda:0] [--result R.json] [--folder DIR] [--json FILE]

Without --result the measurements that predictions are made of are taken first, in the same process. --in-turns takes them again before
and after each scan: on a machine whose speed changes from minute to minute, this tells errors of the model from changes of the machine.
--quick takes small scans, to see that it runs: their times are mostly fixed costs. --large adds a scan that is larger than the memory of
the host. All files are removed. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.kernels import array_library
from gpu4d.benchmarks.suite import scaling
from gpu4d.benchmarks.suite.costs import Costs
from gpu4d.benchmarks.suite.page_cache import MOST_LEFT, ask_to_drop, resident
from gpu4d.benchmarks.suite.predict import predict, stages_of
from gpu4d.benchmarks.suite.scaling_inputs import DIFFERENT, ENERGY, SEMIANGLE, STEP, Inputs, bright_disk, expected, write
from gpu4d.benchmarks.suite.scan import Scan
from gpu4d.benchmarks.suite.techniques import WORK, Machine
from gpu4d.benchmarks.suite.workload import Place

import gpu4d
from gpu4d.device import choose
from gpu4d.device.choose import cpu_threads

ALLOWED = 0.15  # of the measured time
LARGE = 1.1  # of the memory: the scan that does not fit


@dataclass(frozen=True)
class Sample:
    """A scan that is made, and the techniques that are timed on it."""

    scan: tuple[int, int]
    detector: tuple[int, int]
    dtype: str
    layout: str
    techniques: tuple[str, ...]
    disks: int = 21
    bright: float | None = None  # radius of the disk of a focused probe, px; None for Bragg disks


QUICK = (
    Sample((8, 24), (96, 96), "uint8", "lz4", ("one-pass", "strain"), disks=13),
    Sample((16, 16), (80, 64), "float32", "chunked", ("read", "radial")),
    Sample((48, 48), (64, 64), "uint16", "contiguous", ("ssb", "dpc"), bright=10.0),
)
USUAL = (
    Sample((64, 96), (192, 192), "uint8", "lz4", ("read", "one-pass", "radial", "strain", "strain-precise"), disks=13),
    Sample((32, 80), (160, 224), "float32", "chunked", ("read", "one-pass", "radial", "strain")),
    Sample((96, 160), (96, 96), "uint16", "contiguous", ("one-pass", "ssb", "dpc"), bright=18.0),
    Sample((16, 60), (256, 256), "uint32", "gzip", ("read", "one-pass", "strain"), disks=9),
)


@dataclass(frozen=True)
class Row:
    """A prediction beside what was measured, s."""

    scan: str
    technique: str
    state: str
    predicted: float
    low: float
    high: float
    measured: float

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


def run_technique(name: str, path: Path, sample: Sample, device: str) -> None:
    """Do what a user does with the file."""
    cube = gpu4d.open(path)
    if sample.bright is not None:
        k0 = gpu4d.physics.angle_to_frequency(SEMIANGLE, ENERGY)
        cube.calibration.set(energy=ENERGY, semiangle=SEMIANGLE, q_pixel=k0 / sample.bright, r_pixel=STEP / k0)
    else:
        cube.calibration.set(origin=tuple(n / 2 for n in sample.detector))
    if name in scaling.SWEPT:
        scaling.SWEPT[name](cube, device)
    elif name == "ssb":
        gpu4d.ssb(cube, rotation=0.0, transpose=False, device=device)
    elif name == "dpc":
        gpu4d.dpc(cube, device=device)
    else:
        refine = "correlation" if name == "strain" else "auto"
        scaling.strain_of(gpu4d.find_bragg_disks(cube, scaling.template_of(sample.detector), refine=refine, device=device))


def _nothing() -> None:
    pass


def seconds(call: Callable[[], None], before: Callable[[], Any], rounds: int) -> float:
    """Return the median time of some calls."""
    found = []
    for _ in range(rounds):
        before()
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def make(sample: Sample, inputs: Inputs, path: Path) -> None:
    """Write the scan, row by row where it is large."""
    mean = expected(sample.detector, sample.disks) if sample.bright is None else bright_disk(sample.detector, sample.bright)
    few = inputs.place.host(inputs.patterns(mean, DIFFERENT, sample.dtype))
    row = np.resize(few, (sample.scan[1], *sample.detector))
    if sample.layout != "contiguous":
        write(path, sample.layout, np.broadcast_to(row, (sample.scan[0], *row.shape)).copy())
        return
    import h5py

    with h5py.File(path, "w") as file:
        data = file.create_dataset("data", (*sample.scan, *sample.detector), sample.dtype)
        for number in range(sample.scan[0]):
            data[number] = row


Turns = Callable[[Scan], dict[str, Any]]  # measures again what a prediction of this scan is made of


def compare(sample: Sample, result: dict[str, Any], inputs: Inputs, rounds: int, turns: Turns | None) -> list[Row]:
    """Make a scan, and return for each technique and state what was predicted and what it took."""
    path, took = inputs.place.folder / "scan.h5", list[tuple[str, str, float]]()
    try:
        make(sample, inputs, path)
        asked = replace(Scan.of_file(path), disks=sample.disks, bright_field=sample.bright)
        before = turns(asked) if turns else {}
        places = {name: predict(result, asked)[name].place for name in sample.techniques}
        for name in sample.techniques:
            took += timed(name, path, sample, inputs.place.device, places[name], rounds)
        after = turns(asked) if turns else {}
    finally:
        path.unlink(missing_ok=True)
    prediction, rows = predict(refreshed(result, before, after), asked), []
    for name, state, seconds_ in took:
        time_ = prediction[name].first if state == "disk" else prediction[name].again
        assert time_ is not None
        rows.append(Row(str(asked), name, state, time_.value, time_.low, time_.high, seconds_))
    return rows


def timed(name: str, path: Path, sample: Sample, device: str, place: str, rounds: int) -> Iterator[tuple[str, str, float]]:
    """Yield technique, state and seconds: from the disk, and with the file in memory where it fits."""
    run = partial(run_technique, name, path, sample, device)
    if place != "disk":
        run()  # compiles, and fills the page cache
    ask_to_drop(path)
    if resident(path) <= MOST_LEFT:  # else the system keeps the pages, or does not say
        yield name, "disk", seconds(run, partial(ask_to_drop, path), rounds)
    if place == "page cache":
        run_technique("read", path, sample, device)
        yield name, "page cache", seconds(run, _nothing, rounds)


class Noting(dict[str, Any]):
    """Entries of `scaling` that note which of them are read."""

    def __init__(self, entries: dict[str, Any]):
        super().__init__(entries)
        self.read = set[str]()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.read.add(key)
        return super().get(key, default)


def entries_read(result: dict[str, Any], asked: Scan, techniques: tuple[str, ...]) -> set[str]:
    """Return the entries that predictions of these techniques are made of."""
    noting = Noting(result["scaling"])
    costs, machine = Costs(noting), Machine.of(result)
    for name in techniques:
        stages_of(WORK[name](asked, costs, machine), asked, costs, machine)
    return noting.read & set(result["scaling"])


def measured_again(sample: Sample, result: dict[str, Any], place: Place, tier: str, asked: Scan) -> dict[str, Any]:
    """Measure the entries that predictions of a scan are made of."""
    keep = set(result["scaling"]) - entries_read(result, asked, sample.techniques)
    return dict(scaling.measure(place, tier, 1, skip=keep))


def refreshed(result: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Return a result with entries that were measured before and after a scan, and say how much the machine changed."""
    both = {k: {**one, "samples": [*one["samples"], *after[k]["samples"]]} for k, one in before.items() if "samples" in one}
    if both:
        ratios = sorted(after[k]["median"] / before[k]["median"] for k in both)
        print(f"the same calls took {ratios[0]:.2f} to {ratios[-1]:.2f}, median {statistics.median(ratios):.2f} times as long after it")
    return result | {"scaling": result["scaling"] | both}


def fresh_result(place: Place, tier: str) -> dict[str, Any]:
    """Measure what predictions are made of."""
    from gpu4d.device import devices

    cards = [{"name": one.name, "memory": one.total} for one in devices() if one.name != "cpu"] if place.on_gpu else []
    about = {"label": "this machine", "device": place.device, "threads": cpu_threads(), "memory": host_memory(), "gpus": cards}
    return {"machine": about, "scaling": dict(scaling.measure(place, tier, 1))}


def host_memory() -> int:
    import os

    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def larger_than_memory(result: dict[str, Any]) -> Sample:
    """Return a scan of 256² uint16 that does not fit into the memory of the host."""
    memory = min(v for v in (result["machine"].get("memory"), result["machine"].get("memory_limit")) if v)
    rows = int(LARGE * memory / (512 * 256 * 256 * 2)) + 1
    return Sample((rows, 512), (256, 256), "uint16", "contiguous", ("read", "one-pass"))


HEADER = f"{'scan':46s} {'technique':15s} {'from':11s} {'predicted':>10s} {'interval':>19s} {'measured':>10s} {'error':>7s}"


def line(row: Row) -> str:
    between, error = f"{row.low:.3f}–{row.high:.3f}", f"{100 * row.error:+.0f} %"
    return f"{row.scan:46s} {row.technique:15s} {row.state:11s} {row.predicted:8.3f} s {between:>19s} {row.measured:8.3f} s {error:>7s}"


def main(given: list[str] | None = None) -> list[Row]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="small scans, to see that it runs")
    size.add_argument("--large", action="store_true", help="also a scan larger than the memory of the host")
    parser.add_argument("--in-turns", action="store_true", help="measure anew before and after each scan")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--result", type=Path, help="a result of `gpu4d bench run` of this machine")
    parser.add_argument("--folder", help="where scans are written")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(given)
    xp, on_gpu = array_library(choose(options.device))
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        place = Place(xp, on_gpu, options.device, Path(folder))
        tier = "quick" if options.quick else "M" if on_gpu else scaling.LONG
        result = json.loads(options.result.read_text()) if options.result else fresh_result(place, tier)
        inputs = Inputs(place, 7, 0)
        samples = [*(QUICK if options.quick else USUAL), *([larger_than_memory(result)] if options.large else [])]
        rows = list[Row]()
        print(HEADER)
        for sample in samples:
            turns = partial(measured_again, sample, result, place, tier) if options.in_turns else None
            for row in compare(sample, result, inputs, 1 if options.large and sample is samples[-1] else 3, turns):
                print(line(row), flush=True)
                rows.append(row)
    inside = sum(abs(row.error) <= ALLOWED for row in rows)
    print(f"{inside} of {len(rows)} predictions are within {100 * ALLOWED:.0f} %")
    if options.json:
        options.json.write_text(json.dumps({"result": result, "rows": [asdict(row) for row in rows]}, indent=1))
    return rows


if __name__ == "__main__":
    main()
