"""The race check on the command line: which operations, and whether to leave out barriers to check the check."""

from __future__ import annotations

import argparse
import contextlib
import sys

from racecheck import Found, barriers, instrumented
from racecheck.calls import check, examples, operations


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m racecheck", description="Checks CUDA kernels for races on the CPU.")
    parser.add_argument("operations", nargs="*", metavar="OPERATION", help="by default every one that has a kernel")
    parser.add_argument("--seed", type=int, default=0, help="order of threads, as of the host shim")
    parser.add_argument("--yield-every", type=int, default=0, metavar="N", help="let threads step aside at every Nth access")
    parser.add_argument("--without-barriers", metavar="FILE", help="leave out the barriers of FILE one by one, and say what is seen")
    given = parser.parse_args()
    if reason := instrumented.why_not():
        parser.error(reason)
    names, options = given.operations or operations(), {"seed": given.seed, "yield_every": given.yield_every}
    if given.without_barriers:
        return leave_out(given.without_barriers, names, options)
    failed = False
    for name in names:
        found = check(name, examples(name, every=True), **options)
        print(f"{name}: {found.accesses:,} accesses, {len(found.texts)} kinds of reports", flush=True)
        for text, report in sorted({report.text: report for report in found.reports}.items()):
            print(f"  {text} ({report.example})", flush=True)
        failed |= bool(found.reports)
    return int(failed)


def leave_out(file: str, names: list[str], options: dict) -> int:
    """Check the copies of a source that lack one barrier each; those that stay silent have a barrier too many, or no example."""
    silent = 0
    for place, text in barriers.copies_without_one(file):
        seen = Found()
        with contextlib.suppress(AssertionError, RuntimeError):  # some launches do not end well then
            for name in names:
                check(name, examples(name, every=True), found=seen, sources={file: text}, **options)
        found = seen.texts
        silent += not found
        print(f"{place}: {f'{len(found)} kinds of reports, {found[0]}' if found else 'SILENT'}", flush=True)
    return int(silent > 0)


if __name__ == "__main__":
    sys.exit(main())
