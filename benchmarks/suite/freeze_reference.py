"""Freeze the reference of the score: `python -m gpu4d.benchmarks.suite.freeze_reference --tier S R1.json R2.json …`.

The reference is the median over the runs given, of one machine. It comes with the suite and changes only with the suite's version,
because scores of two references cannot be compared. A tier that is too large for the reference machine is made of another one
(`--from M --tier L`): seconds grow with the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from math import log2
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite import assemble, result, score
from gpu4d.benchmarks.suite.workload import Size
from gpu4d.benchmarks.suite.workloads import all_workloads


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="R.json")
    parser.add_argument("--tier", required=True)
    parser.add_argument("--from", dest="other", metavar="TIER", help="tier whose seconds are taken, in proportion to the work")
    given = parser.parse_args(arguments)
    known = json.loads(score.REFERENCE.read_text(encoding="utf-8"))
    if given.other:
        known["tiers"][given.tier] = by_work(known["tiers"][given.other], given.other, given.tier)
    else:
        found = [result.read(path) for path in given.results]
        known["tiers"][given.tier] = frozen(found, given.tier)
        known |= {"machine": found[0]["machine"]["label"], "made": found[-1]["made"][:10], "suite": assemble.VERSION}
    score.REFERENCE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


def frozen(found: Sequence[dict[str, Any]], tier: str) -> dict[str, dict[str, Any]]:
    """Return for each workload the median of the runs' medians, its amount, and its distance from the truth."""
    assert found and {one["suite"]["tier"] for one in found} == {tier}, "need results of this tier"
    assert len({one["machine"]["label"] for one in found}) == 1, "need results of one machine"
    return {
        key: {
            "seconds": statistics.median(one["workloads"][key]["median"] for one in found),
            "amount": entry["amount"],
            "scatter": entry["check"]["scatter"],
            "runs": len(found),
        }
        for key, entry in found[0]["workloads"].items()
    }


def by_work(known: dict[str, dict[str, Any]], other: str, tier: str) -> dict[str, dict[str, Any]]:
    """Return the reference of a tier from that of another one: seconds in proportion to the work."""
    sizes = {key: one.sizes for key, one in all_workloads().items()}
    return {
        key: {
            **entry,
            "seconds": entry["seconds"] * work_of(sizes[key][tier]) / work_of(sizes[key][other]),
            "amount": entry["amount"] * amount_of(sizes[key][tier]) // amount_of(sizes[key][other]),
            "scatter": entry["scatter"] and entry["scatter"] * scatter_of(sizes[key][tier]) / scatter_of(sizes[key][other]),
            "runs": 0,
        }
        for key, entry in known.items()
    }


def amount_of(size: Size) -> int:
    """Return the patterns, positions or frames of a size.

    Examples
    --------
    >>> amount_of({"patterns": 64, "detector": 128}), amount_of({"rows": 16}), amount_of({"rows": 4, "columns": 8})
    (64, 256, 32)
    """
    if "rows" in size:
        return size["rows"] * size.get("columns", size["rows"])
    square = size.get("scan") or size.get("side")
    return square**2 if square else next(size[name] for name in ("patterns", "positions", "frames") if name in size)


def work_of(size: Size) -> float:
    """Return what the time of a size is in proportion to: its amount; with transforms over the scan, for each pixel of the disk.

    Examples
    --------
    >>> work_of({"side": 1024}) / work_of({"side": 512})
    4.444...
    """
    amount = amount_of(size)
    transforms = log2(amount) if "scan" in size or "side" in size else 1.0
    return amount * transforms * size.get("radius", 1) ** 2


def scatter_of(size: Size) -> float:
    """Return what the distance from the truth is in proportion to: for phases one over the radius of the disk, else nothing.

    A phase is known as well as the electrons of a position permit, which are in proportion to the square of the radius. Disks of Bragg
    patterns and lists of disks are the same in all tiers.
    """
    return 1.0 / size.get("radius", 1)


if __name__ == "__main__":
    sys.exit(main())
