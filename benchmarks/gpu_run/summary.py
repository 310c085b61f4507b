"""What a run has found out, on sixty lines, from its files alone: so it can be written after every stage, and again later."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.gpu_run import predictions, records
from gpu4d.benchmarks.gpu_run.settings import ENVIRONMENT, KERNELS, PROFILER, STREAMING, SUMMARY, TESTS

MOST_LINES = 60
WIDTH = 150  # characters of a line: 60 of them stay below the 12 000 that may be all that is seen of an output
MOST_FAILED = 10  # tests that are named
MOST_PREDICTIONS = 12
STAGE = re.compile(r"^stage (\S+): (.*), [0-9.]+ s$")


def write(out: Path, checkout: str = "") -> str:
    """Write the summary, replacing an earlier one as a whole, and give it."""
    said = text(out, checkout)
    beside = out / f".{SUMMARY}"
    beside.write_text(said + "\n", encoding="utf-8")
    os.replace(beside, out / SUMMARY)
    return said


def text(out: Path, checkout: str = "") -> str:
    lines: list[str] = []
    for section in (_head, _stages, _tests, _kernels, _streaming, lambda where: _predictions(where, checkout), _profiler):
        try:
            lines += section(out)
        except Exception as error:  # a record without what is expected of it must not take the others with it
            lines.append(f"{section.__name__.strip('_')}: not summed up, {type(error).__name__}: {error}")
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} lines more: see the files"]
    return "\n".join(" ".join(line.splitlines())[:WIDTH] for line in lines)


def stages(out: Path, machine: str = "") -> dict[str, str]:
    """How each stage ended, at its last try, or at an earlier one that came to its end; on one machine, or on any."""
    found: dict[str, str] = {}
    here = not machine
    for line in records.lines(out / ENVIRONMENT):
        if machine and line.startswith("run begins "):
            here = line.endswith(f", machine {machine}")
        if here and (match := STAGE.match(line)) and found.get(match.group(1)) != "done":
            found[match.group(1)] = match.group(2)
    return found


def stages_done(out: Path, machine: str = "") -> list[str]:
    return [name for name, outcome in stages(out, machine).items() if outcome == "done"]


def exit_code(out: Path, names: Sequence[str]) -> int:
    """0 where all is good, 1 where something failed, 2 where something is missing."""
    failed = any(one["outcome"] == "failed" for name in (TESTS, KERNELS, STREAMING) for one in records.latest(out / name).values())
    if failed or any("FAILED" in line for line in records.lines(out / ENVIRONMENT)):
        return 1
    return 0 if set(names) <= set(stages_done(out)) else 2


def _head(out: Path) -> list[str]:
    lines = records.lines(out / ENVIRONMENT)
    card = next(
        (line.removeprefix("attributes: ok ") for line in reversed(lines) if line.startswith("attributes: ok ")), "no card seen yet"
    )
    bad = [line for line in lines if "FAILED" in line and not line.startswith("  ")]
    spilled = [line.split(":")[0].removeprefix("kernel ") for line in lines if re.search(r" registers, [1-9]\d* bytes local", line)]
    found = [f"gpu4d on {card}"]
    found += [f"  {line}" for line in dict.fromkeys(bad)][:4]
    if spilled:
        found.append(f"  kernels with local memory (spills): {', '.join(dict.fromkeys(spilled))}")
    return found


def _stages(out: Path) -> list[str]:
    found = stages(out)
    outcomes = dict.fromkeys(found.values())
    return [f"stages {outcome}: {', '.join(name for name, how in found.items() if how == outcome)}" for outcome in outcomes] or [
        "no stage yet"
    ]


def _tests(out: Path) -> list[str]:
    found = records.latest(out / TESTS)
    count = Counter(one["outcome"] for one in found.values())
    begun = records.unfinished(out / TESTS)
    lines = [f"tests: {count['done']} passed, {count['failed']} failed, {count['skipped']} skipped, {len(begun)} without an end"]
    failed = {key: _cause(one.get("why", "")) for key, one in found.items() if one["outcome"] == "failed"}
    for key, why in list(failed.items())[:MOST_FAILED]:
        lines.append(f"  FAILED {key.removeprefix('tests/')}: {why}")
    if len(failed) > MOST_FAILED:
        lines.append(f"  and {len(failed) - MOST_FAILED} more in {TESTS}")
    if begun:
        lines.append(f"  without an end: {', '.join(key.rpartition('::')[2] for key in list(begun)[:4])}")
    return lines


def _cause(why: str) -> str:
    """The line of a traceback that says what is wrong."""
    said = [line[1:].strip() for line in why.splitlines() if line.startswith("E ")]
    return (said or why.strip().splitlines() or ["?"])[0][:90]


def _kernels(out: Path) -> list[str]:
    found = records.latest(out / KERNELS)
    lines = []
    if limits := found.pop("floors", None):
        lines.append(
            f"kernels; copy {limits['copy'] / 1e9:.0f} GB/s, FFT {limits['fft'] / 1e9:.0f}, products {limits['gemm'] / 1e9:.0f} Gflop/s; "
            "fraction of the floor, patterns/s, time, host's share, own launches"
        )
    lines += [f"  FAILED {key}: {one.get('why', '')[:100]}" for key, one in found.items() if one["outcome"] == "failed"][:6]
    cells = [_cell(one) for one in found.values() if one["outcome"] == "done" and "operation" in one]
    lines += [f" {a:73s} {b}".rstrip() for a, b in zip(cells[::2], [*cells[1::2], ""])]
    cards = {one.get("card") for one in found.values()} - {None}
    if len(cards) > 1:
        lines.append(f"  figures of {len(cards)} different cards, not to be compared: {', '.join(sorted(map(str, cards)))}")
    if begun := records.unfinished(out / KERNELS):
        lines.append(f"  without an end: {', '.join(begun)}")
    return lines


def _cell(row: dict[str, Any]) -> str:
    label = re.sub(r", (uint16|21 disks|21 peaks|6 parameters)", "", row["label"])
    return (
        f"{row['operation'][:16]:16s} {label[:18]:18s} {row['fraction']:4.2f} {row['rate'] / 1e6:6.3g} M/s {row['seconds'] * 1e3:6.3g} ms "
        f"{row['host_seconds'] * 1e6:5.0f} us {row['own_launches']:2d}"
    )


def _streaming(out: Path) -> list[str]:
    lines = []
    found = records.latest(out / STREAMING)
    for key, one in found.items():
        if one["outcome"] == "failed":
            lines.append(f"  FAILED {key}: {one.get('why', '')[:100]}")
    rates = {key: one for key, one in found.items() if one["outcome"] == "done" and "bytes_per_second" in one}
    alone = [f"{key} {one['bytes_per_second'] / 1e9:.1f}" for key, one in rates.items() if "seconds" not in one]
    if alone:
        lines.append(f"alone, GB/s: {'; '.join(alone)}")
    for key, one in rates.items():
        if "seconds" in one:
            busy = ", ".join(f"{track.removeprefix('cuda:0 ')} {share:.2f}" for track, share in one["busy"].items() if track != "passes")
            rate = f"{one['bytes_per_second'] / 1e9:6.1f} GB/s {one['patterns_per_second'] / 1e6:7.3g} M/s"
            lines.append(f"  {key:32s} {rate}, copies hidden {one['copy_hidden']:.2f}; busy: {busy}")
    if begun := records.unfinished(out / STREAMING):
        lines.append(f"  without an end: {', '.join(begun)}")
    return ["sweeps:", *lines] if lines else []


def _predictions(out: Path, checkout: str) -> list[str]:
    done = [one for one in records.latest(out / KERNELS).values() if one["outcome"] == "done" and "operation" in one]
    page = Path(checkout or ".") / "docs" / "contributing" / "performance-log.md"
    lines = predictions.lines(page, done, MOST_PREDICTIONS) if done else []
    return ["predictions of docs/contributing/performance-log.md:", *lines] if lines else []


def _profiler(out: Path) -> list[str]:
    said = [line for line in records.lines(out / PROFILER) if re.match(r"== .*: |.*(not installed|dropped)$", line)]
    return [f"{PROFILER}: {'; '.join(line.strip('= ') for line in said)}"] if said else []
