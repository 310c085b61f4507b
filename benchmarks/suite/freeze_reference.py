"""Freeze the reference of the score: `python -m gpu4d.benchmarks.suite.freeze_reference --tier S R1.json R2.json …`.

The reference is the median over the runs given, of one machine. It comes with the suite and changes only with the suite's version,
because scores of two references cannot be compared. A tier that is too large for the reference machine is made of another one by
amounts (`--from M --tier L`): its workloads do the same for each of their units.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite import assemble, result, score
from gpu4d.benchmarks.suite.workloads import all_workloads


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="*", type=Path, metavar="R.json")
    parser.add_argument("--tier", required=True)
    parser.add_argument("--from", dest="other", metavar="TIER", help="tier whose seconds are taken by amount")
    given = parser.parse_args(arguments)
    known = json.loads(score.REFERENCE.read_text(encoding="utf-8"))
    if given.other:
        known["tiers"][given.tier] = by_amount(known["tiers"][given.other], given.tier)
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


def by_amount(known: dict[str, dict[str, Any]], tier: str) -> dict[str, dict[str, Any]]:
    """Return the reference of a tier from that of another one: the same seconds for each unit."""
    amounts = {key: one.amount(one.sizes[tier]) for key, one in all_workloads().items()}
    scaled = {key: amounts[key] / entry["amount"] for key, entry in known.items()}
    return {key: {**entry, "seconds": entry["seconds"] * scaled[key], "amount": amounts[key], "runs": 0} for key, entry in known.items()}


if __name__ == "__main__":
    sys.exit(main())
