"""The command `gpu4d plan`: read flags, a TOML file or a scan, and print the plan as a table or as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click

    from gpu4d.planning import Acquisition, ExperimentPlan

MOST_RINGS = 4  # spacings that are taken of a structure: the largest ones decide whether disks overlap
TITLES = {
    "scan": "scan",
    "strain": "strain",
    "ssb": "SSB, WDD",
    "ptychography": "iterative ptychography",
    "dpc": "DPC",
    "fem": "FEM",
    "rdf": "RDF",
}


def plan_command(commands: click.Group, debug: Any) -> None:
    """Add `gpu4d plan` to the commands."""
    import click

    from gpu4d.cli_flags import dataset_flags, layout_flags, pair
    from gpu4d.data.acquisition_quantities import QUANTITIES, TECHNIQUES

    @click.argument("file", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
    @click.option("--scan", metavar="A,B", callback=pair, help="Number of scan positions along both axes.")
    @click.option("--detector", metavar="A,B", callback=pair, help="Number of detector pixels along both axes.")
    @click.option("--dtype", metavar="T", help="Type of the values, as uint16, or the bits of a counter, as 12.  [default: uint16]")
    @click.option("--spacing", metavar="Å", multiple=True, help="Lattice spacing d of the specimen. May be repeated.")
    @click.option("--structure", metavar="NAME", multiple=True, help="Crystal whose lattice spacings are used: Au, Si, … or a CIF file.")
    @click.option("--disks", type=int, metavar="N", help="Diffracted disks in a pattern.  [default: 8]")
    @click.option("--for", "purpose", type=click.Choice(TECHNIQUES), multiple=True, help="What the scan is for. May be repeated.")
    @dataset_flags
    @click.option("--memory", metavar="M", help="Memory that the analysis may allocate, as 512MB.")
    @click.option("--json", "as_json", is_flag=True, help="Print all numbers and checks as JSON.")
    @debug
    def plan(file: Path | None, memory: str | None, as_json: bool, debug: bool, **flags: Any) -> None:
        """Plan a scan before it is recorded: size, time, dose, and which techniques it will suit.

        FILE is a TOML file with these quantities, or a scan that was recorded: flags add what it does not say, and replace what it says.
        """
        from gpu4d.planning import plan_experiment

        found = plan_experiment(_acquisition(file, flags), memory=memory)
        click.echo(json.dumps(found.as_dict(), indent=1) if as_json else table_of(found))

    plan = layout_flags(plan, dtype=False)
    for given in reversed(QUANTITIES.values()):
        flag = f"--{given.name.replace('_', '-')}"
        plan = click.option(flag, metavar=given.flag, help=f"{given.explain}, {given.units}.")(plan)
    commands.command(short_help="Plan a scan: size, time, dose, overlap of disks, sampling, precision.")(plan)


def _acquisition(file: Path | None, flags: dict[str, Any]) -> Acquisition:
    """Join what a file and what flags say."""
    import gpu4d
    from gpu4d.errors import InputError
    from gpu4d.io.raw_layout import layout_given
    from gpu4d.planning import Acquisition
    from gpu4d.planning.acquisition import fields_of_file

    dataset, scan_shape = flags.pop("dataset"), flags.pop("scan_shape")
    shape, rest = flags.pop("shape"), [flags.pop(name) for name in ("offset", "gap", "order")]
    layout = layout_given(shape, None if shape is None else flags.pop("dtype"), *rest)  # else --dtype is of a scan that is planned
    names = {"scan": "scan_shape", "detector": "detector_shape", "spacing": "spacings"}
    given = {names.get(name, name): value for name, value in flags.items() if value not in (None, ())}
    if structures := given.pop("structure", ()):
        given["spacings"] = (*given.get("spacings", ()), *(d for name in structures for d in _spacings(name)))
    if file is not None and file.suffix.lower() != ".toml":
        scan = None if scan_shape is None else (scan_shape[0], scan_shape[1])
        return Acquisition.of(gpu4d.open(file, dataset=dataset, scan_shape=scan, layout=layout), **given)
    if layout is not None:
        raise InputError("--shape describes a file of plain numbers: give the file too, or --detector A,B for a scan that is planned")
    said = {} if file is None else fields_of_file(file)
    if {"current", "electrons", "dose"} & set(given):
        said = {name: value for name, value in said.items() if name not in ("current", "electrons", "dose")}
    said |= given
    if missing := [flag for flag, name in (("--scan A,B", "scan_shape"), ("--detector A,B", "detector_shape")) if name not in said]:
        raise InputError(f"a plan needs at least {' and '.join(missing)}: give them as flags, in a TOML file, or give a recorded scan")
    return Acquisition(**said)


def _spacings(name: str) -> list[float]:
    """Return the largest lattice spacings of a structure, Å."""
    from gpu4d.workflow.structure_names import structure_named

    return [float(d) for d in structure_named(name).rings(2.0).d[:MOST_RINGS]]


def table_of(plan: ExperimentPlan) -> str:
    """Write a plan as tables for a terminal."""
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from gpu4d.planning.volume import binary, duration

    checks = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for title, options in (("", {}), ("", {}), ("", {"ratio": 1}), ("", {}), ("guide", {"style": "dim"})):
        checks.add_column(title, **options)  # type: ignore[arg-type]
    topic = ""
    for one in plan.checks:
        advice = f"\n→ {one.advice}" if one.passed is False and one.advice else ""
        style = "yellow" if one.passed is False else "green" if one.passed else ""
        title = TITLES[one.topic] if one.topic != topic else ""
        topic = one.topic
        checks.add_row(Text(title, "bold"), one.name, Text(one.text + advice), Text(one.verdict, style), one.reference)
    smaller = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    for title in ("smaller", "shape", "type", "size", "read at 1 GB/s", "what it costs"):
        smaller.add_column(title, no_wrap=title in ("shape", "type", "size"))
    for s in plan.volume.savings:
        smaller.add_row(s.what, "×".join(map(str, s.shape)), s.dtype, binary(s.bytes), duration(s.seconds), s.price)
    lines = io.StringIO()
    console = Console(file=lines, highlight=False, width=_width())
    a = plan.acquisition
    console.print(
        f"{'×'.join(map(str, a.scan_shape))} positions, {'×'.join(map(str, a.detector_shape))} pixels, {a.dtype}: {plan.volume}\n"
    )
    console.print(checks)
    console.print()
    if plan.volume.savings:
        console.print(smaller)
        console.print()
    console.print(_summary(plan))
    return "\n".join(line.rstrip() for line in lines.getvalue().splitlines())


def _summary(plan: ExperimentPlan) -> str:
    """Say which techniques the scan suits."""
    said = []
    for technique in plan.techniques:
        suits = plan.suits(technique)
        failed = [one.name for one in plan.checks if one.topic == technique and one.passed is False]
        words = "not judged: too little is known" if suits is None else "suits" if suits else f"look at {', '.join(failed)}"
        said.append(f"{TITLES[technique]}: {words}")
    return "\n".join(said)


def _width() -> int:
    """Return the width of the terminal; where there is none, one in which the tables are read easily."""
    import shutil

    return shutil.get_terminal_size((120, 24)).columns
