"""Define the flags of `gpu4d run`, and write what they give into a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpu4d.data.quantities import GivenAs
    from gpu4d.io.raw_layout import RawLayout
    from gpu4d.io.timing import ScanTiming

# As in `gpu4d.workflow.guide.scenarios`, which a test compares. It is not imported here, so that --help takes no time.
SCENARIOS = ("noisy", "overlapping", "mixed", "thick", "large-fov", "unknown")


def _given_by_flag() -> list[GivenAs]:
    """Return the calibration fields that have a flag of their own."""
    from gpu4d.data.calibration_fields import FIELDS

    return [field.given for field in FIELDS.values() if field.given is not None and field.given.flag]


def calibration_flags(command: Any) -> Any:
    """Add a flag for every calibration field that has one."""
    import click

    for given in reversed(_given_by_flag()):
        words = f"{given.explain.split('.')[0].split(',')[0]}, {given.units}."
        flag = f"--{given.name.replace('_', '-')}"
        command = click.option(flag, metavar=given.flag, help=words, callback=_quantity(given, flag))(command)
    return command


def _quantity(given: GivenAs, flag: str) -> Any:
    """Return a callback that reads a number, also with a unit: 300e3, 300keV."""
    return lambda _context, _parameter, text: None if text is None else given.read(text, flag)


def scan_flags(command: Any) -> Any:
    """Add the flags that say how a scan is opened: dataset, scan shape, layout of plain numbers, timing of events."""
    return dataset_flags(layout_flags(timing_flags(command)))


def dataset_flags(command: Any) -> Any:
    """Add the flags that choose a scan in its file, and give its shape."""
    import click

    shape = click.option("--scan-shape", metavar="A,B", callback=pair, help="Shape of the scan, for files that store a list of patterns.")
    dataset = click.option("--dataset", metavar="/P", help="Path of the scan inside an HDF5 file or a zarr store.")
    return dataset(shape(command))


def layout_flags(command: Any, dtype: bool = True) -> Any:
    """Add the flags that describe a file of plain numbers, without --dtype to a command that has it."""
    import click

    options = {
        "order": click.option("--order", type=click.Choice(["little", "big"]), help="Byte order of its numbers."),
        "gap": click.option("--gap", type=click.IntRange(0), metavar="BYTES", help="Bytes between two of its patterns."),
        "offset": click.option("--offset", type=click.IntRange(0), metavar="BYTES", help="Bytes before its first pattern."),
        "dtype": click.option("--dtype", metavar="T", help="Type of the numbers in such a file: uint16, float32, >u2."),
        "shape": click.option(
            "--shape", metavar="A,B", callback=pair, help="Shape of the detector, for a file of plain numbers. Needs --dtype."
        ),
    }
    for name, option in options.items():
        command = option(command) if dtype or name != "dtype" else command
    return command


def timing_flags(command: Any) -> Any:
    """Add the flags that say where the probe was, for a file of events with times."""
    import click

    from gpu4d.data.acquisition_quantities import QUANTITIES

    starts, seconds = click.Choice(["position", "row", "scan"]), QUANTITIES["dwell"]
    for option in (
        click.option(
            "--pause",
            metavar="S",
            callback=_quantity(QUANTITIES["row_time"], "--pause"),
            help="Time between two rows, for a scan with one trigger.",
        ),
        click.option("--trigger", type=starts, help="What each trigger in a file of events begins.  [default: by their number]"),
        click.option("--dwell", metavar="S", callback=_quantity(seconds, "--dwell"), help="Time at a position, for a file of events."),
    ):
        command = option(command)
    return command


def timing_of(flags: dict[str, Any]) -> ScanTiming | None:
    """Take the flags of the timing out of all flags, and return what they describe."""
    from gpu4d.io.timing import timing_given

    return timing_given(*(flags.pop(name) for name in ("dwell", "trigger", "pause")))


def layout_of(flags: dict[str, Any]) -> RawLayout | None:
    """Take the flags of a layout out of all flags, and return what they describe."""
    from gpu4d.io.raw_layout import layout_given

    return layout_given(*(flags.pop(name) for name in ("shape", "dtype", "offset", "gap", "order")))


def run_flags(command: Any) -> Any:
    """Add the flags of `run` that are settings of a recipe and belong to no field of the calibration."""
    import click

    command = scenario_flag(command)
    for option in (
        click.option(
            "--workers", type=click.IntRange(1, 1024), metavar="N", help="Share the passes among N processes of this machine (Dask)."
        ),
        click.option("--scheduler", metavar="ADDR", help="Share the passes among the workers of a Dask scheduler, tcp://host:8786."),
        click.option("--calibration", metavar="C.toml", help="Calibration that `gpu4d calibrate` wrote. Other flags override it."),
        click.option("--rotation", type=float, metavar="DEG", help="Rotation from detector to scan axes, in degrees."),
        click.option("--transpose/--no-transpose", default=None, help="Exchange the detector axes before the rotation, or do not."),
        click.option(
            "--technique",
            metavar="T",
            help="auto, bragg, dpc, both, ssb, wdd, parallax, ptychography, magnetic, amorphous or images.  [default: auto]",
        ),
        click.option(
            "--ellipse", metavar="R,DEG", callback=_two_numbers, help="Ellipse of the detector: a/b, and the angle of a from qx in degrees."
        ),
        click.option(
            "--reference",
            metavar="REF",
            callback=region,
            help="Unstrained lattice: rows and columns A,B,C,D; auto; crystal (of --structure); two vectors '12,0,0,12 px'; or another "
            "run's result.h5.  [default: median]",
        ),
        click.option("--axis", metavar="DEG|g1|g2", help="Direction of the x axis of the strain.  [default: the first scan axis]"),
        click.option("--along", metavar="g1|g2|both", help="Map of the normal strain along a lattice vector."),
        click.option(
            "--structure", metavar="NAME", multiple=True, help="Crystal for orientations: Au, Si, … or a CIF file. May be repeated."
        ),
        click.option("--composition", metavar="C", help="Elements of a glass, such as Cu50Zr50, for the distances of its atoms."),
        click.option("--mask", metavar="FILE[:/P]", help="Image of the detector that is not zero where pixels count."),
        click.option("--dark", metavar="FILE[:/P]", help="Frames without a beam, or their mean. Is subtracted from every pattern."),
        click.option("--gain", metavar="FILE[:/P]", help="Response of every detector pixel. Every pattern is divided by it."),
        click.option("--crop", metavar="A,B,C,D", callback=region, help="Read only rows A to B - 1, columns C to D - 1 of the scan."),
        click.option("--flyback", type=int, metavar="N", help="Number of fly-back frames at the end of each row of --scan-shape."),
        click.option("--preview", is_flag=True, default=None, help="Use only every 4th position and binned patterns, to choose settings."),
        click.option("--bin", type=int, metavar="N", help="Sum N×N detector pixels while reading."),
    ):
        command = option(command)
    return command


def scenario_flag(command: Any) -> Any:
    """Add the flag that names scenarios of the guide."""
    import click

    words = f"Settings that the guide recommends for a scenario: {', '.join(SCENARIOS)}. May be repeated."
    return click.option("--scenario", metavar="S", type=click.Choice(SCENARIOS), multiple=True, help=words)(command)


FLAGS = {
    "scenario": "analysis.scenario",
    "calibration": "input.calibration",
    "rotation": "calibration.rotation_degrees",
    "transpose": "calibration.transpose",
    "technique": "analysis.technique",
    "ellipse": "ellipse.given",
    "reference": "strain.reference",
    "axis": "strain.axis",
    "along": "strain.along",
    "structure": "orientation.structures",
    "composition": "rdf.composition",
    "mask": "input.detector_mask",
    "dark": "corrections.dark",
    "gain": "corrections.gain",
    "crop": "input.crop_scan",
    "bin": "input.bin_detector",
    "flyback": "input.flyback",
    "preview": "input.preview",
    "dataset": "input.dataset",
    "dwell": "input.dwell",
    "trigger": "input.trigger",
    "pause": "input.pause",
    "scan_shape": "input.scan_shape",
    "shape": "input.raw_shape",
    "dtype": "input.raw_dtype",
    "offset": "input.raw_offset",
    "gap": "input.raw_gap",
    "order": "input.raw_order",
    "probe": "probe.file",
    "memory": "compute.memory",
    "device": "compute.device",
    "workers": "compute.workers",
    "scheduler": "compute.scheduler",
}


def with_flags(path: Path | None, flags: dict[str, Any]) -> Any:
    """Return the recipe of a run: a file's or the defaults, overridden by flags."""
    from gpu4d.workflow.recipe import Recipe

    recipe = Recipe() if path is None else Recipe.load(path)
    names = FLAGS | {given.name: f"calibration.{given.name}" for given in _given_by_flag()}
    for name, value in flags.items():
        if value is not None and value != ():  # a flag that may be repeated, and is not given
            recipe.set(names[name], value, origin="--" + name.replace("_", "-"))
    recipe.check()
    return recipe


def pair(_context: Any, parameter: Any, value: str | None) -> list[int] | None:
    import click

    if value is None:
        return None
    parts = value.replace("x", ",").replace("×", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() for part in parts):
        raise click.BadParameter(f"{value!r} is not two whole numbers: write {parameter.opts[0]} 64,64")
    return [int(part) for part in parts]


def region(_context: Any, parameter: Any, value: str | None) -> list[int] | str | None:
    """Return four whole numbers, or the text as it is: the recipe says which are accepted."""
    parts = [] if value is None else value.split(",")
    return [int(part) for part in parts] if len(parts) == 4 and all(part.strip().isdecimal() for part in parts) else value


def named_numbers(_context: Any, parameter: Any, value: str | None) -> dict[str, float] | None:
    """Read "C10=-190,C12=42" from a flag."""
    import click

    if value is None:
        return None
    found: dict[str, float] = {}
    for part in value.split(","):
        name, _, number = part.partition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            example = f"{parameter.opts[0]} C10=-190,C12=42,phi12=0.5"
            raise click.BadParameter(f"{part!r} is not NAME=NUMBER: write {example}") from None
    return found


def _two_numbers(_context: Any, parameter: Any, value: str | None) -> list[float] | None:
    import click

    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 2:
        raise click.BadParameter(f"{value!r} is not two numbers: write {parameter.opts[0]} 1.03,25")
    return numbers
