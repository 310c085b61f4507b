"""Read a card's clocks, temperature, power, energy and reasons for slowing down from NVML. What it does not tell is None.

NVML is opened once in a process and stays open: opening it takes some ten milliseconds, and it is read around every workload.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from gpu4d.benchmarks.suite.workload import Place

# Bits of nvmlDeviceGetCurrentClocksEventReasons, from nvml.h.
REASONS = {
    0x1: "idle",
    0x2: "clocks set by an application",
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "clocks kept equal with another card",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake from outside",
    0x100: "clock of the display",
}
LIMITS = {"power": 0, "thermal": 1, "board": 3, "low_utilisation": 4, "reliability": 5}  # NVML_PERF_POLICY_…: what has held clocks down
SM, MEMORY = 1, 2  # NVML_CLOCK_…
TEMPERATURE = 0  # NVML_TEMPERATURE_GPU


@dataclass(frozen=True)
class Sensed:
    """A card at one moment.

    Attributes
    ----------
    sm_mhz, memory_mhz : float or None
        Clocks.
    temperature : float or None
        °C.
    power, power_limit : float or None
        W.
    energy : float or None
        J since the driver was loaded.
    reasons : tuple of str
        Why clocks are below the highest, now.
    held_s : dict
        Seconds since the driver was loaded in which clocks were held down, by "power", "thermal", "board", … Empty if it does not count.
    """

    sm_mhz: float | None = None
    memory_mhz: float | None = None
    temperature: float | None = None
    power: float | None = None
    power_limit: float | None = None
    energy: float | None = None
    reasons: tuple[str, ...] = ()
    held_s: dict[str, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"reasons": list(self.reasons)}


class Card:
    """A card that NVML knows.

    Parameters
    ----------
    nvml : module
        pynvml, or a stand-in.
    bus_id : str
    """

    def __init__(self, nvml: Any, bus_id: str):
        self.nvml = nvml
        self.handle = nvml.nvmlDeviceGetHandleByPciBusId(bus_id)
        mig = self.ask("nvmlDeviceGetMigMode")
        self.partitioned = bool(mig and mig[0])  # power and energy are those of all its instances

    def ask(self, question: str, *args: Any) -> Any:
        """Return an answer of NVML, or None: this card, driver or version of pynvml does not give it."""
        try:
            return getattr(self.nvml, question)(self.handle, *args)
        except Exception:  # NVML has a type of its own for every code
            return None

    def scaled(self, question: str, factor: float, *args: Any) -> float | None:
        found = self.ask(question, *args)
        return None if found is None else float(found) * factor

    def sense(self) -> Sensed:
        bits = self.ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:
            bits = self.ask("nvmlDeviceGetCurrentClocksThrottleReasons")  # its name until 2023
        held = {name: self.ask("nvmlDeviceGetViolationStatus", number) for name, number in LIMITS.items()}
        return Sensed(
            self.scaled("nvmlDeviceGetClockInfo", 1.0, SM),
            self.scaled("nvmlDeviceGetClockInfo", 1.0, MEMORY),
            self.scaled("nvmlDeviceGetTemperature", 1.0, TEMPERATURE),
            self.scaled("nvmlDeviceGetPowerUsage", 1e-3),
            self.scaled("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
            None if self.partitioned else self.scaled("nvmlDeviceGetTotalEnergyConsumption", 1e-3),
            tuple(name for bit, name in REASONS.items() if int(bits or 0) & bit),
            {name: found.violationTime * 1e-9 for name, found in held.items() if found is not None},
        )

    def about(self) -> dict[str, Any]:
        """Return what a card is set to: highest clocks, power limits, error correction, modes. No number that identifies it."""
        ecc = self.ask("nvmlDeviceGetEccMode")
        limits = self.ask("nvmlDeviceGetPowerManagementLimitConstraints")
        return {
            "max_sm_mhz": self.scaled("nvmlDeviceGetMaxClockInfo", 1.0, SM),
            "max_memory_mhz": self.scaled("nvmlDeviceGetMaxClockInfo", 1.0, MEMORY),
            "power_limit_w": self.scaled("nvmlDeviceGetEnforcedPowerLimit", 1e-3),
            "power_limits_w": None if limits is None else [float(limit) * 1e-3 for limit in limits],
            "ecc": None if ecc is None else bool(ecc[0]),
            "mig": self.partitioned,
            "persistence": self._yes("nvmlDeviceGetPersistenceMode"),
        }

    def _yes(self, question: str) -> bool | None:
        found = self.ask(question)
        return None if found is None else bool(found)


def card_of(place: Place) -> tuple[Card | None, str]:
    """Return the card of a place, or None and why there is none."""
    if not place.on_gpu:
        return None, "not a GPU"
    index = int(place.device.partition(":")[2] or 0)
    return card_number(index)


@functools.cache
def card_number(index: int) -> tuple[Card | None, str]:
    """Return the card that CUDA gives this number, matched by its PCI bus; or None and why there is none."""
    from gpu4d.device.choose import bus_ids

    bus_id = bus_ids(index + 1)[index]
    nvml, why = opened()
    if nvml is None or bus_id is None:
        return None, why or "CUDA does not tell the card's bus"
    try:
        return Card(nvml, bus_id), ""
    except Exception as error:  # NVML has a type of its own for every code
        return None, f"NVML does not find this card ({error})"


@functools.cache
def opened() -> tuple[Any, str]:
    """Return pynvml, opened, or None and what to do about it."""
    try:
        import pynvml
    except ImportError:
        return None, "pip install nvidia-ml-py"
    try:
        pynvml.nvmlInit()
    except Exception as error:  # NVML has a type of its own for every code
        return None, f"NVML, which comes with the driver, does not answer ({error})"
    return pynvml, ""


def release() -> None:
    """Close NVML and forget the cards."""
    nvml, _ = opened() if opened.cache_info().currsize else (None, "")
    card_number.cache_clear()
    opened.cache_clear()
    shut: Callable[[], Any] = getattr(nvml, "nvmlShutdown", lambda: None)
    with contextlib.suppress(Exception):
        shut()
