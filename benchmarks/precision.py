"""Compare positions of disks with the Cramér-Rao bound: every figure and plot of docs/explanation/precision.md.

    python benchmarks/precision.py OUT [--quick] [--only NAME ...] [--docs] [--peers]

Each study is simulated from seeds with known truth. OUT gets NAME.csv, NAME.png and precision.json; `--docs` also writes them to
docs/explanation/precision beside this folder. `--peers` adds other tools to the studies of close disks, as NAME_peers.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.precision_studies import STUDIES, Row

import gpu4d

Study = Callable[[int], Iterator[Row]]
PATTERNS, QUICK = 320, 16  # of a point of a study; 25 disks a pattern
DOCS = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "precision"


def columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def cell(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def write_table(rows: list[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns(rows))
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)


def as_text(rows: list[Row]) -> str:
    """Markdown table of what is read first."""
    left_out = ("disks", "rms without offset", "ratio error", "bound 4", "bias error")
    names = [name for name in columns(rows) if name not in left_out]
    lines = [names, ["---"] * len(names)]
    lines += [[f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in names] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdicts(results: dict[str, list[Row]]) -> list[str]:
    """Every target beside what was measured; nothing about studies that were not run."""

    def worst(study: str, column: str, largest: bool = True, **labels: Any) -> Row | None:
        rows = [r for r in results.get(study, []) if column in r and all(r.get(k) in v for k, v in labels.items())]
        return (max if largest else min)(rows, key=lambda r: r[column], default=None)

    few, ours = (100.0, 300.0, 1000.0, 3000.0), ("likelihood",)
    wanted: list[tuple[str, Row | None, str, float]] = [
        ("likelihood / bound, 1e2 … 3e3", worst("targets", "ratio", method=ours, dose=few), "ratio", 1.08),
        ("likelihood / bound, 2e4", worst("targets", "ratio", method=ours, dose=(20000.0,)), "ratio", 1.10),
        ("edges 0.5 … 3 px / bound", worst("edge", "ratio", method=ours), "ratio", 1.10),
        ("strain / bound", worst("strain", "ratio", method=ours), "ratio", 1.10),
        ("bullseye / bound", worst("bullseye", "ratio", method=ours, probe=("bullseye",)), "ratio", 1.10),
        (
            "correlation off its exact maximum, px",
            worst("targets", "off the exact maximum, largest"),
            "off the exact maximum, largest",
            1e-3,
        ),
    ]
    out = [f"{name}: {row[key]:.3g} (target ≤ {limit:g})" for name, row, key, limit in wanted if row is not None]
    rows = [r for r in results.get("targets", []) if r["method"] in ("likelihood", "correlation")]
    for row in rows:
        biased = max(abs(row["bias x"]), abs(row["bias y"]))
        out.append(
            f"{row['method']} at {row['dose']:g}: {row['ratio']:.3f} of the bound, bias {biased:.1e} ± {row['bias error']:.0e} px, "
            f"recall {row['recall']:.5f}, false {row['false']:g} a pattern, {100 * row['inside 1 sigma']:.1f} % inside ±1 σ"
        )
    return out


def run(studies: dict[str, Study], patterns: int, out: Path) -> dict[str, list[Row]]:
    results = {}
    for name, study in studies.items():
        start = time.perf_counter()
        results[name] = list(study(patterns))
        write_table(results[name], out / f"{name}.csv")
        print(f"\n## {name}: {study.__doc__} ({time.perf_counter() - start:.1f} s)\n\n{as_text(results[name])}", flush=True)
    return results


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for tables and plots")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} patterns for each point instead of {PATTERNS}")
    parser.add_argument("--only", choices=STUDIES, nargs="+", default=list(STUDIES), metavar="NAME", help=", ".join(STUDIES))
    parser.add_argument("--docs", action="store_true", help="write to docs/explanation/precision too")
    parser.add_argument("--peers", action="store_true", help="locate close disks by py4DSTEM and LiberTEM-blobfinder too (installs them)")
    options = parser.parse_args(arguments)
    patterns = QUICK if options.quick else PATTERNS
    folders = [options.out, *([DOCS] if options.docs else [])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    studies = dict(STUDIES)
    if options.peers:
        from gpu4d.benchmarks.peers import close_disks

        studies |= {f"{name}_peers": study for name, study in close_disks.STUDIES.items()}
        options.only += [f"{name}_peers" for name in close_disks.STUDIES if name in options.only]
    results = run({name: studies[name] for name in options.only}, patterns, options.out)
    about = {"gpu4d": gpu4d.__version__, "numpy": np.__version__, "python": platform.python_version(), "patterns": patterns}
    text = json.dumps({"about": about, "studies": results}, indent=1)
    (options.out / "precision.json").write_text(text, encoding="utf-8")
    from gpu4d.benchmarks.precision_plots import PLOTS

    for folder in folders:
        for name, rows in results.items():
            if folder != options.out:
                write_table(rows, folder / f"{name}.csv")
            if name in PLOTS:
                PLOTS[name](rows, folder / f"{name}.png")
    print("\n" + "\n".join(verdicts(results)) + f"\n{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
