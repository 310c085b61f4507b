"""Measure the energy of a stretch of work: of the card from NVML, of processors and memory from RAPL, where they may be read.

NVML counts the energy of cards since Volta; of older ones, power at the start and at the end is multiplied by the time, and the result
says so. RAPL (Intel and AMD) counts microjoules of a package in a register that begins again at its end.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite.sensors import Card, Sensed, card_of
from gpu4d.benchmarks.suite.system_files import ROOT, matching, text, whole
from gpu4d.benchmarks.suite.workload import Place

POWERCAP = "sys/class/powercap"
NOT_READABLE = "only root may read RAPL's counters: sudo chmod a+r /sys/class/powercap/*rapl*/energy_uj"
ABSENT = "this machine has no RAPL counters (virtual machines have none)"


@dataclass(frozen=True)
class Energy:
    """Of a stretch of work.

    Attributes
    ----------
    joules : float or None
        All parts together; None if nothing is known, or the card's part is not.
    parts : dict of str to float
        "gpu", "package-0", "dram".
    how : dict of str to str
        Of each part: "counter of NVML", "power × time of NVML", "RAPL".
    unknown : dict of str to str
        Of "gpu" and "cpu": why it is not known, and what to do about it.
    seconds : float
    """

    joules: float | None
    parts: dict[str, float] = field(default_factory=dict)
    how: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Meter:
    """Starts to count when it is made; `stop` says what was used since. It may be asked several times.

    Parameters
    ----------
    place : Place
    root : Path
    """

    def __init__(self, place: Place, root: Path = ROOT):
        self.place, self.root = place, root
        self.card, self.no_card = card_of(place)
        self.counters = rapl_counters(root)
        self._start = time.perf_counter()
        self._card_start = None if self.card is None else self.card.sense()
        self._rapl_start = {name: whole(root, f"{path}/energy_uj") for name, path in self.counters.items()}

    def stop(self) -> Energy:
        """Return what was used since the meter was made."""
        seconds = time.perf_counter() - self._start
        parts: dict[str, float] = {}
        how: dict[str, str] = {}
        unknown: dict[str, str] = {}
        for name, path in self.counters.items():
            used = _joules(self._rapl_start[name], whole(self.root, f"{path}/energy_uj"), whole(self.root, f"{path}/max_energy_range_uj"))
            if used is not None:
                parts[name], how[name] = used, "RAPL"
        if not parts:
            unknown["cpu"] = NOT_READABLE if self.counters else ABSENT
        if self.place.on_gpu:
            used, said = self._of_the_card(seconds)
            if used is None:
                unknown["gpu"] = said
            else:
                parts["gpu"], how["gpu"] = used, said
        whole_machine = bool(parts) and "gpu" not in unknown
        return Energy(sum(parts.values()) if whole_machine else None, parts, how, unknown, seconds)

    def _of_the_card(self, seconds: float) -> tuple[float | None, str]:
        if self.card is None or self._card_start is None:
            return None, self.no_card
        return card_joules(self.card, self._card_start, self.card.sense(), seconds)


def card_joules(card: Card, a: Sensed, b: Sensed, seconds: float) -> tuple[float | None, str]:
    """Return what a card used, and how that is known; or None and why not."""
    if card.partitioned:
        return None, "an instance of a partitioned card (MIG): its share of the energy is not counted"
    if a.energy is not None and b.energy is not None:
        return b.energy - a.energy, "counter of NVML"
    powers = [power for power in (a.power, b.power) if power is not None]
    if not powers:
        return None, "NVML knows neither the energy nor the power of this card"
    return sum(powers) / len(powers) * seconds, "power × time of NVML"


def rapl_counters(root: Path = ROOT) -> dict[str, str]:
    """Return the folders of RAPL's counters by name: packages, and the memory of each. A whole platform's counter has both in it."""
    found: dict[str, str] = {}
    for folder in matching(root, f"{POWERCAP}/*rapl:*"):
        name, number = text(root, f"{folder}/name") or "", folder.rpartition("/")[2]
        if "mmio" in number:
            continue  # the same counters by another way
        if name.startswith("package"):
            found[name] = folder
        elif name == "dram":
            found[f"dram of {number.split(':')[1]}"] = folder
    return found


def _joules(a: int | None, b: int | None, range_uj: int | None) -> float | None:
    """Return the difference of two readings of a counter that begins again after its range."""
    if a is None or b is None:
        return None
    if b < a:
        if range_uj is None:
            return None
        b += range_uj
    return (b - a) * 1e-6
