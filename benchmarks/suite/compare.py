"""Compare results with the first one: how many times as fast each workload is, with an interval of 95 %, and whether answers agree.

What cannot be compared is refused: other tiers, seeds or inputs, a result that does not fit, the open division beside the closed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite.result import Result, read
from gpu4d.benchmarks.suite.statistics import CONFIDENCE, bootstrap
from gpu4d.benchmarks.suite.verify import verify_result
from gpu4d.benchmarks.suite.workload import PARTS

from gpu4d.errors import InputError
from gpu4d.sizes import format_bytes

MOST = 8  # results: there are as many colours and marks that can be told apart
FASTER, SLOWER, NEITHER = "faster", "slower", "no difference shown"
TAILS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))  # percentiles of medians drawn again


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as the base: the base's seconds over those of the other, and the interval of 95 %."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """ "faster" or "slower" if the interval lies on one side of 1."""
        return FASTER if self.low > 1 else SLOWER if self.high < 1 else NEITHER

    def text(self) -> str:
        """Return "1.86 × (1.85–1.88)"; with three decimals near 1, where the third tells faster from slower."""
        near = 0.9 < self.low and self.high < 1.1
        value, low, high = (f"{v:.3f}" if near else _three(v) for v in (self.value, self.low, self.high))
        return f"{value} × ({low}–{high})"


@dataclass(frozen=True)
class Cell:
    """A workload in one result.

    Attributes
    ----------
    missing : str
        Why there is no time; empty where there is one.
    median, low, high : float or None
        Seconds.
    fraction, bound_by : float, str or None
        Share of the floor that is reached, and the rate that gives the floor.
    peak_memory, energy_j : float or None
    ratio : Ratio or None
        Against the base; None for the base itself.
    answer : str
        "same bits" or "within tolerance" of the base's.
    """

    missing: str = ""
    median: float | None = None
    low: float | None = None
    high: float | None = None
    fraction: float | None = None
    bound_by: str | None = None
    peak_memory: float | None = None
    energy_j: float | None = None
    ratio: Ratio | None = None
    answer: str = ""

    @property
    def seconds(self) -> str:
        return "–" if self.median is None else seconds_text(self.median)

    @property
    def floor(self) -> str:
        """The share of the floor: "36 % of fft"."""
        return "–" if self.fraction is None else f"{percent(self.fraction)} of {self.bound_by}"

    @property
    def memory(self) -> str:
        return "–" if self.peak_memory is None else format_bytes(self.peak_memory)

    @property
    def energy(self) -> str:
        return "–" if self.energy_j is None else f"{_three(self.energy_j)} J"


@dataclass(frozen=True)
class Row:
    """A workload, a floor or a part in all results, in their order."""

    key: str
    title: str
    part: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Results side by side. The first is the base.

    Attributes
    ----------
    names : tuple of str
        Letters from A.
    paths : tuple of str
        Names of the files.
    results : tuple of dict
    workloads, floors, groups : tuple of Row
        Groups are all workloads together and the parts, as geometric means of the ratios of their workloads.
    """

    names: tuple[str, ...]
    paths: tuple[str, ...]
    results: tuple[Result, ...]
    workloads: tuple[Row, ...]
    floors: tuple[Row, ...]
    groups: tuple[Row, ...]

    def text(self) -> str:
        """Return tables for the terminal: the results, and for each but the first its ratios."""
        from gpu4d.benchmarks.suite.comparison_text import text

        return text(self)

    def html(self) -> str:
        """Return a page that needs no other file and no network."""
        from gpu4d.benchmarks.suite.comparison_page import page

        return page(self)

    def png(self, path: str | Path) -> None:
        """Write a picture of all ratios with their intervals."""
        from gpu4d.benchmarks.suite.comparison_page import picture

        picture(self, path)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as values for JSON."""
        about = [
            {
                "name": name,
                "file": path,
                "label": one["machine"]["label"],
                "division": one["suite"]["division"],
                "score": one["score"],
                "sustained": one["sustained"] and one["sustained"]["ratio"],
            }
            for name, path, one in zip(self.names, self.paths, self.results, strict=True)
        ]
        return {
            "tier": self.results[0]["suite"]["tier"],
            "base": self.names[0],
            "results": about,
            **{kind: [_row_dict(row, self.names) for row in getattr(self, kind)] for kind in ("groups", "workloads", "floors")},
        }


def compare(paths: Sequence[str | Path], *, allow_open: bool = False) -> Comparison:
    """Compare the results in files with the first of them.

    Parameters
    ----------
    paths : sequence of path
        Two to eight.
    allow_open : bool
        Allow results of the open division beside those of the closed one.

    Raises
    ------
    InputError
        A file is no result, or the results cannot be compared; the message says why.
    """
    if not 2 <= len(paths) <= MOST:
        raise InputError(f"compare needs two to {MOST} results, not {len(paths)}; the first is the base")
    results = [read(path) for path in paths]
    names = tuple("ABCDEFGH"[: len(paths)])
    if reasons := [*_unfit(results, names), *(comparable(results, allow_open=allow_open) or ())]:
        listed = ", ".join(f"{name} = {path}" for name, path in zip(names, paths, strict=True))
        raise InputError("these results cannot be compared: " + "; ".join(reasons) + f" ({listed})")
    shown = tuple(Path(path).name for path in paths)
    of_workloads, of_floors = ([_drawn(one, kind, seed) for seed, one in enumerate(results)] for kind in ("workloads", "attainable"))
    rows = tuple(_workloads(results, of_workloads))
    return Comparison(names, shown, tuple(results), rows, tuple(_floors(results, of_floors)), tuple(_groups(rows, of_workloads)))


def comparable(results: Sequence[Result], *, allow_open: bool = False) -> list[str] | None:
    """Return why results cannot be compared, or None. Whether each of them fits in itself is for `verify`."""
    names = "ABCDEFGH"
    first, reasons = results[0], []
    for name, one in zip(names[1:], results[1:], strict=False):
        for what in ("tier", "seed"):
            if one["suite"][what] != first["suite"][what]:
                reasons.append(f"the {what} of A is {first['suite'][what]}, of {name} {one['suite'][what]}")
        if one["version"] != first["version"]:
            reasons.append(f"the version of A is {first['version']}, of {name} {one['version']}")
        if one["hash"] == first["hash"]:
            reasons.append(f"A and {name} are the same result")
        if one["suite"]["division"] != first["suite"]["division"] and not allow_open:
            divisions = f"A is of the {first['suite']['division']} division, {name} of the {one['suite']['division']} one"
            reasons.append(f"{divisions}: allow it with --open")
        # A tier or a seed that differs makes all inputs differ: it is said once.
        if one["suite"]["tier"] == first["suite"]["tier"] and one["suite"]["seed"] == first["suite"]["seed"]:
            reasons += _other_inputs(first, one, name)
    return reasons or None


def _other_inputs(first: Result, one: Result, name: str) -> Iterator[str]:
    for key, entry in first["workloads"].items():
        other = one["workloads"].get(key, {})
        if "data" in entry and "data" in other:
            if entry["size"] != other["size"]:
                yield f"{key} has another size in {name}"
            elif entry["data"] != other["data"]:
                yield f"{key} has other inputs in {name}"


def _unfit(results: Sequence[Result], names: Sequence[str]) -> Iterator[str]:
    for name, one in zip(names, results, strict=True):
        findings, _ = verify_result(one)
        if findings:
            more = f" and {len(findings) - 2} more" if len(findings) > 2 else ""
            yield f"{name} does not fit: {'; '.join(findings[:2])}{more} (gpu4d bench verify)"


# ---------------------------------------------------------------- rows

Drawn = dict[str, np.ndarray]  # medians of samples drawn again, by key


def _workloads(results: Sequence[Result], drawn: Sequence[Drawn]) -> Iterator[Row]:
    for key in _keys(results, "workloads"):
        entries = [one["workloads"].get(key, {}) for one in results]
        title, part = (next((entry[name] for entry in entries if entry.get(name)), "") for name in ("title", "part"))
        cells = []
        for entry, medians in zip(entries, drawn, strict=True):
            ratio = None
            if entry is not entries[0] and "samples" in entry and "samples" in entries[0]:
                ratio = _ratio(entries[0]["median"] / entry["median"], drawn[0][key] / medians[key])
            cells.append(_cell(entry, ratio, entries[0].get("answer")))
        yield Row(key, title, part, tuple(cells))


def _cell(entry: Mapping[str, Any], ratio: Ratio | None, answer: str | None) -> Cell:
    if "samples" not in entry:
        return Cell(missing=entry.get("failed") or (f"skipped: {entry['skipped']}" if "skipped" in entry else "was not run"))
    taken: dict[str, Any] = {name: entry.get(name) for name in ("median", "low", "high", "fraction", "bound_by", "peak_memory", "energy_j")}
    same = "" if ratio is None else "same bits" if entry["answer"] == answer else "within tolerance"
    return Cell(**taken, ratio=ratio, answer=same)


def _floors(results: Sequence[Result], drawn: Sequence[Drawn]) -> Iterator[Row]:
    """Yield rates: here the median is the rate in the unit that `part` names, and more is faster."""
    for key in _keys(results, "attainable"):
        entries = [one["attainable"].get(key, {}) for one in results]
        base, cells = entries[0], []
        for entry, medians in zip(entries, drawn, strict=True):
            if "value" not in entry:
                cells.append(Cell(missing=entry.get("failed") or entry.get("skipped") or "was not measured"))
                continue
            ratio = None
            if entry is not base and "value" in base:
                ratio = _ratio(entry["value"] / base["value"], entry["amount"] / medians[key] / (base["amount"] / drawn[0][key]))
            cells.append(Cell(median=entry["value"], low=entry["low"], high=entry["high"], ratio=ratio))
        unit = next((entry["unit"] for entry in entries if "unit" in entry), "")
        yield Row(key, next((entry["title"] for entry in entries if "title" in entry), key), unit, tuple(cells))


def _groups(rows: Sequence[Row], drawn: Sequence[Drawn]) -> Iterator[Row]:
    """Yield all workloads together, then the parts: where both have them all, because a mean over others says something else."""
    for part in ("", *(part for part in PARTS if any(row.part == part for row in rows))):
        some = [row for row in rows if part in ("", row.part)]
        cells = [Cell()]
        for number in range(1, len(drawn)):
            ratios = [row.cells[number].ratio for row in some]
            if lacking := [row.key for row, ratio in zip(some, ratios, strict=True) if ratio is None]:
                cells.append(Cell(missing=f"without {', '.join(lacking)} there is no mean"))
                continue
            logs = np.mean([np.log(drawn[0][row.key] / drawn[number][row.key]) for row in some], axis=0)
            middle = np.mean([np.log(ratio.value) for ratio in ratios if ratio is not None])
            cells.append(Cell(ratio=_ratio(np.exp(middle), np.exp(logs))))
        yield Row(part or "all", part or "All workloads", part, tuple(cells))


def _ratio(value: float, drawn: np.ndarray) -> Ratio:
    low, high = np.percentile(drawn, TAILS)
    return Ratio(float(value), float(low), float(high))


def _drawn(result: Result, kind: str, seed: int) -> Drawn:
    """Return medians of samples drawn again, for each entry of a kind that has some. Each result draws for itself."""
    found = {key: entry["samples"] for key, entry in result[kind].items() if "samples" in entry}
    return dict(zip(found, bootstrap(list(found.values()), seed=seed).T, strict=True))


def _keys(results: Sequence[Result], kind: str) -> list[str]:
    return list(dict.fromkeys(key for one in results for key in one[kind]))


def _row_dict(row: Row, names: Sequence[str]) -> dict[str, Any]:
    cells = {}
    for name, cell in zip(names, row.cells, strict=True):
        cells[name] = {key: value for key, value in asdict(cell).items() if value not in (None, "")}
        if cell.ratio is not None:
            cells[name]["ratio"]["verdict"] = cell.ratio.verdict
    return {"key": row.key, "title": row.title, "part": row.part, "results": cells}


def percent(share: float) -> str:
    """Write a share: "36 %"; below one percent with one digit."""
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def seconds_text(value: float) -> str:
    """Write seconds with three digits: "24.1 ms"."""
    for factor, unit in ((1, "s"), (1e3, "ms")):
        if value * factor >= 1:
            return f"{_three(value * factor)} {unit}"
    return f"{_three(value * 1e6)} µs"


def rate_text(value: float, unit: str) -> str:
    """Write a rate with three digits: "11.0 GB/s"."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{_three(value / factor)} {prefix}{unit}"
    return f"{_three(value)} {unit}"


def _three(value: float) -> str:
    """Write a number with three digits and without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3g}"
