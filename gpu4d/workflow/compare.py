"""Compare the results of a run with a truth, or with those of another run: `gpu4d compare`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gpu4d.errors import InputError, did_you_mean
from gpu4d.io.reading import read_emd, split_path
from gpu4d.io.sources.hdf5_file import open_file, opening
from gpu4d.workflow.comparing.frames import Side, brought_together
from gpu4d.workflow.comparing.quantity import LABEL, ROTATION, Quantity, Row, compared
from gpu4d.workflow.comparing.results import result_quantities
from gpu4d.workflow.comparing.truths import GROUP, has_truth, part_of, parts_of, truth_quantities
from gpu4d.workflow.gate_file import NAME as GATES
from gpu4d.workflow.raw_data import LINKED, raw_data_of
from gpu4d.workflow.report.output import RESULT
from gpu4d.workflow.structure_names import structure_named

ROOT = "gpu4d"  # group of a result file
OPPOSITE = -0.5  # correlation below which two maps have opposite signs
MOST_NAMED = 8  # items that an error lists
# Of the values that the second has: a result that lacks more of them is not within a tolerance. A truth has values everywhere, also
# where nothing can be measured, such as at the edges of a displaced scan.
MOST_MISSING, MOST_MISSING_OF_TRUTH = 0.05, 0.5
EXCHANGED = 0.9  # correlation of exx with the other's eyy, both ways, from which axes seem exchanged


@dataclass(frozen=True)
class Comparison:
    """How two results agree.

    Attributes
    ----------
    first, second : str
        What was compared: paths.
    rows : tuple of Row
        One for each quantity that both have.
    remarks : tuple of str
        What explains differences: signs, axes, settings, raw data.
    refused : tuple of str
        Quantities of both that cannot be compared, with the reason and what to do.
    only_first, only_second : tuple of str
        Quantities that the other has not.
    exceeded : tuple of str
        Quantities whose rms is beyond their tolerance, in words.
    pixel : (float, str)
        Step of the scan, and its unit, for pictures.
    """

    first: str
    second: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    exceeded: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    pixel: tuple[float, str] = (1.0, "px")

    @property
    def passed(self) -> bool:
        """Whether every quantity is within its tolerance."""
        return not self.exceeded

    def __getitem__(self, name: str) -> Row:
        """Return the row of a quantity."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} is not among {', '.join(row.name for row in self.rows)}")

    def __str__(self) -> str:
        lines = [f"first:  {self.first}", f"second: {self.second}", "", *_table(self.rows)]
        remarks = _gathered((row.name, row.remark) for row in self.rows if row.remark)
        lines += ["", *remarks] if remarks else []
        lines += ["", *self.remarks] if self.remarks else []
        for names, which in ((self.only_first, "first"), (self.only_second, "second")):
            if names:
                lines.append(f"only in the {which}: {', '.join(names)}")
        lines += [f"not compared: {text}" for text in self.refused]
        lines += [f"beyond its tolerance: {text}" for text in self.exceeded]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return the comparison for JSON."""
        plain: dict[str, object] = {"first": self.first, "second": self.second, "quantities": [row.as_dict() for row in self.rows]}
        plain |= {"remarks": list(self.remarks), "only_first": list(self.only_first), "only_second": list(self.only_second)}
        plain["refused"] = list(self.refused)
        return {**plain, "exceeded": list(self.exceeded), "passed": self.passed}


def compare(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    *,
    tolerance: Mapping[str, float] | None = None,
    only: Sequence[str] = (),
) -> Comparison:
    """Compare a result with a truth or with another result, quantity by quantity.

    Differences are first minus second. Phases are compared up to a constant, classes up to their numbers, orientations by the smallest
    angle that the symmetry of the crystal leaves, curves where both were measured.

    Parameters
    ----------
    first : path
        A folder that `gpu4d run` wrote, its result.h5, or another file of `gpu4d.save`.
    second : path
        Another one, or an HDF5 file with a group ``truth``.
    tolerance : mapping of str to float, optional
        Largest rms difference, by the name of a quantity, or of its item: "strain" stands for all its components. Of orientations in
        degrees, of classes the share of positions that differ.
    only : sequence of str
        Names of quantities or items that are compared. Empty: all.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        A file is no result and no truth, a map has another shape in the second, nothing is in both, or a name is in neither.

    Examples
    --------
    >>> import gpu4d, tempfile, numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> for name, value in (("a.h5", 1.0), ("b.h5", 1.5)):
    ...     gpu4d.save(f"{folder}/{name}", {"bf": gpu4d.RealSlice(np.full((4, 4), value), "bf", "counts")})
    >>> found = compare(f"{folder}/a.h5", f"{folder}/b.h5", tolerance={"bf": 0.1})
    >>> found["bf"].bias, found.passed
    (-0.5, False)
    """
    one, other = _read(first, second), _read(second, first)
    _check_names([*only, *(tolerance or {})], [*one.quantities, *other.quantities])
    one, other, said, refused = brought_together(one, other)
    names = [name for name in one.quantities if name in other.quantities and (not only or _named(name, only))]
    if not names:
        raise InputError("; ".join([_nothing(one, other, only), *said]))
    rotations, rows = _rotations(one, other), []
    for name in names:
        try:
            if name in refused:
                raise InputError(refused[name])
            rows.append(compared(one.quantities[name], other.quantities[name], rotations))
        except InputError as error:
            if _named(name, [*only, *(tolerance or {})]):
                raise InputError(f"{name}: {error}") from error
            refused[name] = str(error)
    why = tuple(_gathered((name, refused[name]) for name in names if name in refused))
    if not rows:
        raise InputError("; ".join(why))
    exceeded = [text for row in rows if (text := _beyond(row, tolerance or {}, other.truth))]
    only_first, only_second = (
        tuple(name for name in a.quantities if name not in b.quantities and not only) for a, b in ((one, other), (other, one))
    )
    remarks, pixel = (*said, *_remarks(one, other, rows)), _step(one, other)
    ends = {"only_first": only_first, "only_second": only_second, "exceeded": tuple(exceeded), "refused": why}
    return Comparison(str(first), str(second), tuple(rows), remarks, **ends, pixel=pixel)


def _nothing(one: Side, other: Side, only: Sequence[str]) -> str:
    asked = f"; asked for were {', '.join(only)}" if only else ""
    return f"nothing to compare: {one.path} has {_listed(one.quantities)}; {other.path} has {_listed(other.quantities)}{asked}"


def _read(given: str | os.PathLike[str], beside: str | os.PathLike[str]) -> Side:
    """Read one side: the results of a file, or its truth, of the scan that the other side is a result of."""
    name, part = split_path(os.fspath(given))
    path = Path(name) / RESULT if os.path.isdir(name) else Path(name)
    if not path.is_file():
        raise InputError(f"{path}: no such file: give a folder of `gpu4d run`, its {RESULT}, or a file with a group {GROUP}/")
    with opening(str(path)), open_file(str(path)) as file:
        if ROOT not in file and has_truth(file):
            dataset = _dataset_of(beside)
            own = _part(file, path, part, dataset)
            found = truth_quantities(file, own, dataset)
            parts = parts_of(file)
            remark = "" if own or not parts else f"{path} has a truth for each of several scans: name one as {path}:/{GROUP}/{parts[0]}"
            return Side(str(given), {one.name: one for one in found}, {}, True, remark=remark)
        if ROOT not in file:
            raise InputError(f"{path} holds neither results of gpu4d nor a group {GROUP}/: give a folder that `gpu4d run` wrote")
    if part:
        raise InputError(f"{path} is a result, which has no part {part}: name it without :{part}")
    items = read_emd(path)
    settings = items.get("settings")
    results = {one.name: one for one in result_quantities(items)}
    return Side(str(path), results, settings if isinstance(settings, Mapping) else {}, False, items.get(GATES))


def _dataset_of(given: str | os.PathLike[str]) -> str:
    """Return the path of the scan inside its file that a result was made from. Empty if it names none, or is no result."""
    path = Path(split_path(os.fspath(given))[0])
    path = path / RESULT if path.is_dir() else path
    if not path.is_file():
        return ""
    with opening(str(path)), open_file(str(path)) as file:
        if ROOT not in file:
            return ""
    settings = read_emd(path).get("settings")
    held = settings.get("input") if isinstance(settings, Mapping) else None
    return str(held.get("dataset") or "") if isinstance(held, Mapping) else ""


def _part(file: h5py.File, path: Path, asked: str, dataset: str) -> str:
    """Return the group in the truth of a file with several scans: the one that is named, or that of the scan."""
    parts = parts_of(file)
    if not asked:
        return part_of(file, dataset)
    name = asked.strip("/").removeprefix(f"{GROUP}/")
    if name not in parts:
        there = ", ".join(f"{path}:/{GROUP}/{one}" for one in parts) or "no parts"
        raise InputError(f"{path} has no part {asked}{did_you_mean(name, parts)}; there are {there}")
    return name


def _named(name: str, given: Sequence[str]) -> bool:
    return any(name == one or name.startswith(f"{one}/") for one in given)


def _check_names(given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if not any(_named(one, [name]) for one in known):
            raise InputError(f"no quantity is called {name!r}{did_you_mean(name, known)}; there are {', '.join(dict.fromkeys(known))}")


def _beyond(row: Row, tolerance: Mapping[str, float], truth: bool) -> str:
    """Say that a quantity is beyond its tolerance. The most special name counts."""
    names = [name for name in tolerance if _named(row.name, [name])]
    if not names:
        return ""
    limit = tolerance[max(names, key=len)]
    if row.missing > (MOST_MISSING_OF_TRUTH if truth else MOST_MISSING) * (row.count + row.missing):
        return f"{row.name}: {row.missing:,} of the second's {row.count + row.missing:,} values are missing in the first"
    if row.count and row.rms <= limit:
        return ""
    unit = {LABEL: " of the positions", ROTATION: "°"}.get(row.kind, f" {row.unit}" if row.unit not in ("", "1") else "")
    return f"{row.name}: rms {row.rms:.4g}{unit}, allowed {limit:g}{unit}"


def _remarks(one: Side, other: Side, rows: Sequence[Row]) -> list[str]:
    """Say what explains differences."""
    said = [
        f"{row.name}: the signs are opposite (correlation {row.correlation:+.2f}): was g taken for d, or is an axis mirrored?"
        for row in rows
        if row.correlation < OPPOSITE
    ]
    for item in ("strain", "amorphous_strain"):
        said += _exchanged(one, other, item)
    said += _gathered((row.name, text) for row in rows if (text := _only_one_has(row)))
    if not one.truth and not other.truth:
        said += _different_settings(one.settings, other.settings)
        said += _different_gates(one.gates, other.gates)
    for side in (one, other):
        if not side.truth and (raw := raw_data_of(Path(side.path))).status not in (LINKED, "bundled"):
            said.append(f"{side.path}: {raw}")
    return said


def _gathered(said: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line for quantities of which the same is said."""
    names: dict[str, list[str]] = {}
    for name, text in said:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(held)}: {text}" for text, held in names.items()]


def _only_one_has(row: Row) -> str:
    """Say how many positions have a value in one of both only."""
    parts = [f"{n:,} only in the {which}" for n, which in ((row.more, "first"), (row.missing, "second")) if n]
    return f"besides {row.count:,} values that both have, there are {' and '.join(parts)}" if parts else ""


def _exchanged(one: Side, other: Side, item: str) -> list[str]:
    """Say if the normal components agree better with those along the other axis."""
    held = [[side.quantities.get(f"{item}/e_{part}") for part in ("xx", "yy")] for side in (one, other)]
    if any(part is None for pair in held for part in pair):
        return []
    (axx, ayy), (bxx, byy) = ([np.ravel(part.values) for part in pair if part is not None] for pair in held)
    if axx.shape != bxx.shape:
        return []
    good = np.isfinite(axx) & np.isfinite(ayy) & np.isfinite(bxx) & np.isfinite(byy)
    if good.sum() < 3 or any(part[good].std() == 0 for part in (axx, ayy, bxx, byy)):
        return []
    crossed = min(_together(axx[good], byy[good]), _together(ayy[good], bxx[good]))
    straight = max(_together(axx[good], bxx[good]), _together(ayy[good], byy[good]))
    if crossed < EXCHANGED or straight > crossed:
        return []
    return [f"{item}: e_xx agrees with the other's e_yy, and e_yy with e_xx: the axes are exchanged (x is the first axis in gpu4d)"]


def _together(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _different_settings(one: Any, other: Any, name: str = "") -> list[str]:
    """List the settings that two runs do not share."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return []
    said: list[str] = []
    for key in [*one, *(key for key in other if key not in one)]:
        place = f"{name}.{key}" if name else str(key)
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) or isinstance(b, Mapping):
            said += _different_settings(a or {}, b or {}, place)
        elif _plain(a) != _plain(b):
            said.append(f"setting {place}: {_shown(a)} in the first, {_shown(b)} in the second")
    return said


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return "automatic" if value is None else str(_plain(value))


def _different_gates(one: Any, other: Any) -> list[str]:
    """List the gates whose status two runs do not share."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return []
    first, second = (dict(zip(table.get("name", ()), table.get("status", ()))) for table in (one, other))
    return [
        f"gate “{name}”: {status} in the first, {second[name]} in the second"
        for name, status in first.items()
        if name in second and second[name] != status
    ]


def _rotations(one: Side, other: Side) -> np.ndarray | None:
    """Return the rotations of the crystal whose orientations are compared: of the first structure that a run names."""
    for side in (one, other):
        named = side.setting("orientation", "structures")
        names = [named] if isinstance(named, str) else list(named) if named is not None else []
        if names:
            try:
                return np.asarray(structure_named(str(names[0])).rotations)
            except (InputError, OSError):
                continue
    return None


def _step(*sides: Side) -> tuple[float, str]:
    """Return the step of the scan and its unit."""
    for side in sides:
        step = side.quantities.get("calibration/r_pixel")
        if step is not None and not side.truth:
            return float(step.values), "Å"
    return 1.0, "px"


def _table(rows: Sequence[Row]) -> list[str]:
    """Return the rows as columns of text."""
    head = ("quantity", "unit", "values", "bias", "rms", "scatter", "correlation", "slope", "largest", "at", "within 2 σ")
    body = [
        (
            row.name, row.unit or "–", f"{row.count:,}", _number(row.bias), _number(row.rms), _number(row.scatter),
            _number(row.correlation, ".4f"), _number(row.slope, ".4f"), _number(row.largest), ", ".join(map(str, row.worst)),
            "–" if row.within is None else f"{100 * row.within:.0f} %",
        )
        for row in rows
    ]  # fmt: skip
    wide = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]
    return [
        "  ".join(f"{text:<{w}}" if i < 2 else f"{text:>{w}}" for i, (text, w) in enumerate(zip(line, wide))).rstrip()
        for line in (head, *body)
    ]


def _number(value: float, how: str = ".3g") -> str:
    return "–" if not np.isfinite(value) else f"{value:{how}}"


def _listed(quantities: Mapping[str, Quantity]) -> str:
    items = list(dict.fromkeys(name.partition("/")[0] if not name.startswith("calibration/") else name for name in quantities))
    more = f" and {len(items) - MOST_NAMED} more" if len(items) > MOST_NAMED else ""
    return f"{', '.join(items[:MOST_NAMED])}{more}" if items else "nothing that can be compared"
