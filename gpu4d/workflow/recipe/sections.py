"""Define the sections of a recipe that belong to no stage: input, calibration, compute."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, nothing mutable
from __future__ import annotations

import functools
from dataclasses import dataclass, make_dataclass
from typing import Any

from gpu4d.data.calibration_fields import FIELDS
from gpu4d.data.quantities import GivenAs
from gpu4d.io.timing import STARTS
from gpu4d.workflow.gates import CONTINUE, STOP, GateRule, in_words
from gpu4d.workflow.settings import setting


@dataclass
class InputSettings:
    """The file and the part of it that is read."""

    dataset: str | None = setting(
        None,
        "text",
        "Path of the scan inside an HDF5 file.",
        automatic="the only four-dimensional dataset of the file",
        tune="Give it only if the file has several scans. The error of a run without it lists them.",
    )
    scan_shape: list[int] | None = setting(
        None,
        "wholes",
        "Scan positions (Rx, Ry) of a file that stores a list of patterns.",
        low=1,
        length=2,
        automatic="as the file says",
        tune="`gpu4d info FILE --shapes` lists the shapes that fit the number of patterns. The right one gives an image "
        "without sheared edges.",
    )
    raw_shape: list[int] | None = setting(
        None, "wholes", "Detector pixels (Qx, Qy) of a file of plain numbers, which says nothing of itself.", low=1, length=2,
        automatic="as the file says",
        tune="Take it from the program that recorded the file. A wrong shape gives patterns that move or are cut.",
    )  # fmt: skip
    raw_dtype: str | None = setting(
        None,
        "text",
        "Type of its numbers: uint16, float32, >u2.",
        automatic="as the file says",
        tune="Detectors that count write uint8, uint16 or uint32. The file size over the number of pixels is the bytes of one.",
    )
    raw_offset: int = setting(
        0,
        "whole",
        "Bytes before its first pattern.",
        low=0,
        tune="It is the size of the file, less that of its patterns and gaps. A wrong one shifts all patterns sideways.",
    )
    raw_gap: int = setting(
        0,
        "whole",
        "Bytes between two of its patterns, such as a header of each.",
        low=0,
        tune="Give the size of the header of a frame, as the manual of the detector says. A wrong one moves each pattern "
        "further than the one before.",
    )
    raw_order: str | None = setting(
        None, "text", "Byte of its numbers that comes first, the lowest or the highest.", choices=("little", "big"),
        automatic="as the type says, else little",
        tune="Most computers write little. If counts look far too large and jump by 256, take the other one.",
    )  # fmt: skip
    dwell: float | None = setting(
        None, "number", "Time at a position, for a file of events with times (Timepix3).", units="s", low=1e-9, high=3600,
        automatic="as long triggers say",
        tune="Give the dwell time of the scan generator. Check the image of the scan for sheared rows.",
    )  # fmt: skip
    trigger: str | None = setting(
        None,
        "text",
        "What a trigger in a file of events starts.",
        choices=STARTS,
        automatic="by their number",
        tune="Look at the scan generator: it may start the scan, a row or a position. A wrong one gives too many or too few rows.",
    )
    pause: float = setting(
        0.0,
        "number",
        "Time between rows, if one trigger starts the whole scan of events.",
        units="s",
        low=0.0,
        high=60,
        tune="Give the fly-back time of the scan generator. A wrong one shears the image.",
    )
    flyback: int = setting(
        0,
        "whole",
        "Frames in each row of a list of patterns that were recorded while the beam went back.",
        low=0,
        tune="`gpu4d info FILE --shapes` says how many there are. In an image they are columns that belong to no part of the specimen.",
    )
    flyback_at: str = setting(
        "end",
        "text",
        "Where in a row these are.",
        choices=("end", "start"),
        tune="Take the side of the image at which columns do not belong to the specimen.",
    )
    extra_frames: list[int] | None = setting(
        None,
        "wholes",
        "Frames before the first row and after the last, which are left out.",
        low=0,
        length=2,
        automatic="none",
        tune="They are the frames that are left if the scan shape and the fly-back are right. Rows that wrap round say that "
        "the first number is wrong.",
    )
    calibration: str | None = setting(
        None, "file", "Calibration that `gpu4d calibrate` wrote. It replaces the values of the scan's file. The section [calibration] and "
        "flags replace both.", automatic="as the scan's file says",
        tune="Measure it in the same session, with the same camera length: `gpu4d calibrate STANDARD --standard Au`.",
    )  # fmt: skip
    detector_mask: str | None = setting(
        None,
        "file",
        "FILE or FILE:/dataset with one value per detector pixel; zero marks beam stop, dead pixels and gaps.",
        automatic="all count",
        tune="Give one for a beam stop or the shadow of one: bad pixels and gaps are found without it.",
    )
    scan_mask: str | None = setting(
        None,
        "file",
        "FILE or FILE:/dataset with one value per scan position; zero leaves a position out.",
        automatic="all are used",
        tune="Leave out vacuum, holes and dirt if they disturb means and the reference. Images of a first run show them.",
    )
    bad_pixels: str = setting(
        "mask", "text", "Detector pixels that are stuck bright or dead in the mean pattern: leave them out, or use them like others.",
        choices=("mask", "keep"),
        tune="Keep them if the report lists pixels that are part of the beam, such as a spot of a single pixel.",
    )  # fmt: skip
    swap_detector: bool = setting(
        False,
        "switch",
        "Exchange the detector axes of a file written in the other order.",
        tune="Set it if the maps of two programs are mirrored at the diagonal of the detector. calibration.transpose is "
        "something else: it is part of the rotation.",
    )
    swap_scan: bool = setting(
        False,
        "switch",
        "Exchange the scan axes of a file written in the other order.",
        tune="Set it if the image of the scan is mirrored at its diagonal.",
    )
    crop_scan: list[int] | None = setting(
        None,
        "region",
        "Part of the scan that is read, [rx0, rx1, ry0, ry1], after axes were exchanged.",
        low=0,
        automatic="all of it",
        tune="Take a small part to try settings, and leave it out for the result.",
    )
    bin_detector: int = setting(
        1, "whole", "Sum detector pixels in squares of this side while reading.", low=1, high=64, guide=(2, 4), table="17.1",
        tune="Bin where the disk keeps a radius of 4 px or more: the scan becomes smaller, and disks stay apart. Memory is no reason, "
        "because a "
        "scan of any size is read in parts.",
    )  # fmt: skip
    bin_scan: int = setting(
        1, "whole", "Sum the patterns of squares of this many positions while reading.", low=1, high=64, guide=(2, 4), table="17.1",
        tune="Bin noisy scans whose steps are finer than what you look for: 2 gives four times the counts. Not for ptychography, which "
        "needs the fine steps.",
    )  # fmt: skip
    preview: bool = setting(
        False,
        "switch",
        "Look at every 4th position and at binned patterns only, to choose settings. Values in Å and 1/Å stay as they are.",
        tune="Use it for the first look at a large scan. Leave it out for the result, which needs all patterns.",
    )


def _calibration_setting(given: GivenAs) -> tuple[str, type, Any]:
    rule: dict[str, Any] = {"units": given.units, "low": given.low, "high": given.high, "automatic": given.automatic, "quantity": given}
    rule["tune"] = given.tune
    return given.name, object, setting(None, given.kind, given.explain, **rule)


CalibrationSettings = make_dataclass("CalibrationSettings", [_calibration_setting(f.given) for f in FIELDS.values() if f.given is not None])
CalibrationSettings.__doc__ = "Known values of the experiment. They replace those of the file."


def _limits(rule: GateRule) -> list[tuple[str, type, Any]]:
    """Return the settings of a gate's limits: for "warn", and for "fail"."""
    found: list[tuple[str, type, Any]] = []
    for word, band, meaning in (("warn", rule.warn, "to look at"), ("fail", rule.fail, "wrong")):
        kind = "numbers" if rule.two_sided else "number"
        explain = f"Gate “{rule.name}”: {rule.quantity}. A value outside of this is {meaning}."
        tune = f"Change it for a reason of your specimen or detector. The limits are what they are because of this: {rule.reason}."
        options: dict[str, Any] = {"units": rule.unit, "length": 2 * rule.two_sided, "automatic": in_words(band, rule.unit), "tune": tune}
        found.append((f"{rule.key}_{word}", object, setting(None, kind, explain, **options)))
    return found


def _contradiction(self: Any) -> str | None:
    """Say what is wrong with the settings of gates together."""
    both = sorted(set(self.stop or ()) & set(self.proceed or ()))
    if both:
        return f"gates.stop and gates.proceed both name {', '.join(both)}: a run can do only one of both"
    for name, given in vars(self).items():
        if name.endswith(("_warn", "_fail")) and isinstance(given, list) and not given[0] < given[1]:
            return f"gates.{name} = {given}: need the lowest accepted value, then the highest"
    return None


OF_STOPPING = (  # how to choose whether a run stops
    "Take stop for many scans at once, so that no time is spent on one whose first steps failed.",
    "Name gates whose failure makes all that follows useless.",
    "Name gates that fail for a reason that you know.",
)


@functools.cache
def gate_settings(rules: tuple[GateRule, ...]) -> type:
    """Return the dataclass of the section [gates] for these gates."""
    keys = tuple(rule.key for rule in rules)
    on_fail, stop, proceed = OF_STOPPING
    fields = [
        ("on_fail", str, setting(CONTINUE, "text", "What a run does at a gate that fails.", choices=(CONTINUE, STOP), tune=on_fail)),
        ("stop", object, setting(None, "words", "Gates at which it stops in any case.", choices=keys, automatic="none", tune=stop)),
        (
            "proceed",
            object,
            setting(None, "words", "Gates at which it continues in any case.", choices=keys, automatic="none", tune=proceed),
        ),
        *(entry for rule in rules for entry in _limits(rule)),
    ]
    made = make_dataclass("GateSettings", fields, namespace={"contradiction": _contradiction})
    made.__doc__ = "Quality gates: their limits, and whether a run stops at one that fails. It keeps what it has made."
    return made


@dataclass
class ComputeSettings:
    """Device, memory and workers."""

    device: str = setting(
        "auto",
        "text",
        "auto, cpu, cuda or cuda:N. Several GPUs share the work: cuda:0,cuda:1.",
        tune="Leave it at auto: it takes a GPU if there is one. Results agree within rounding.",
    )
    memory: str = setting(
        "512 MB", "memory", "Memory that the passes over the scan may allocate, on each worker.",
        tune="More makes larger steps, not a faster run. Less is needed beside other programs. No result depends on it.",
    )  # fmt: skip
    workers: int | None = setting(
        None,
        "whole",
        "Processes on this machine that share the passes over the scan.",
        low=1,
        high=1024,
        automatic="none are started",
        tune="Use it where one process does not use all cores, or to share several GPUs. One process is faster for small scans.",
    )
    scheduler: str | None = setting(
        None,
        "text",
        "Address of a Dask scheduler, tcp://host:8786, whose workers share the passes.",
        automatic="none is used",
        tune="Use it for a cluster whose machines see the file under the same path.",
    )
