"""Keep the order in which a calibration is measured: origin, ellipse, rotation, pixel size."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MEASURED = "measured: "  # how the description of a measured value begins

# What each step rests on. A length or an angle in a distorted plane is wrong, and so is a distortion about a wrong origin.
ORDER = ("origin", "ellipse", "rotation", "q_pixel")
RESTS_ON = {
    "origin": (),
    "ellipse": ("origin",),
    "rotation": ("origin", "ellipse"),
    "q_pixel": ("origin", "ellipse"),
}
WORDS = {"origin": "origin", "ellipse": "ellipse", "rotation": "rotation", "q_pixel": "pixel size"}


class CalibrationOrderWarning(UserWarning):
    """A calibration was measured out of its order, so that values that were measured before rest on another one by now."""


@dataclass(frozen=True)
class Measurement:
    """One entry in the history of a calibration."""

    field: str
    value: object
    how: str
    when: str

    @property
    def measured(self) -> bool:
        """Return True if the value was measured in the data of this calibration, and not given or taken from elsewhere."""
        return self.how.startswith(MEASURED)


def outdated(history: Sequence[Measurement]) -> tuple[str, ...]:
    """Return the fields that must be measured again, in their order: what they rest on has changed since they were measured.

    Parameters
    ----------
    history : sequence of Measurement
        From the oldest entry to the newest.

    Examples
    --------
    >>> entries = [Measurement("q_pixel", 0.02, "measured: rings", ""), Measurement("ellipse", (1.03, 1, 0.4), "measured: rings", "")]
    >>> outdated(entries), outdated(entries[::-1])
    (('q_pixel',), ())
    """
    last = {entry.field: number for number, entry in enumerate(history) if entry.field in RESTS_ON}
    found: list[str] = []
    for field in ORDER:
        if field not in last or not history[last[field]].measured:
            continue
        if any(last.get(base, -1) > last[field] or base in found for base in RESTS_ON[field]):
            found.append(field)
    return tuple(found)


def warn_out_of_order(fields: Iterable[str], history: Sequence[Measurement]) -> None:
    """Warn if values that were measured before must be measured again now, or if a measured field comes late.

    Parameters
    ----------
    fields : iterable of str
        Fields that were just set. Their entries are in the history.
    history : sequence of Measurement
    """
    now = [field for field in ORDER if field in set(fields)]
    if not now:
        return
    told = outdated([entry for entry in history if entry.field not in now])  # before this, so a warning was given already
    later = [f for f in ORDER[ORDER.index(now[0]) + 1 :] if f not in (*now, *told) and _was_measured(f, history)]
    if not later:
        return
    again = [field for field in later if field in outdated(history)]
    said, before = _listed(now), _listed(later)
    todo = f"measure {_listed(again)} again" if again else f"nothing must be done again, because {before} does not rest on {said}"
    order = " → ".join(WORDS[field] for field in ORDER)
    warnings.warn(f"{said} was set after {before} had been measured (the order is {order}): {todo}", CalibrationOrderWarning, stacklevel=3)


def _was_measured(field: str, history: Sequence[Measurement]) -> bool:
    entries = [entry for entry in history if entry.field == field]
    return bool(entries) and entries[-1].measured


def _listed(fields: Sequence[str]) -> str:
    return " and ".join(WORDS[field] for field in fields)
