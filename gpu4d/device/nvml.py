"""Read free memory, load and link of cards from NVML, the driver's management library. It needs no CUDA context and makes none.

NVML numbers all cards of a machine. CUDA numbers only those that CUDA_VISIBLE_DEVICES allows, in the order of CUDA_DEVICE_ORDER. Cards
are therefore matched by their PCI bus id, which both know. A card in MIG mode has one bus id for all its instances. NVML's figures are
not true of one instance, and are not passed on.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

UNKNOWN = "free memory and load are unknown"


@dataclass(frozen=True)
class Link:
    """A PCI Express link.

    Examples
    --------
    >>> Link(5, 16).rate / 1e9
    63.0...
    """

    generation: int
    width: int  # lanes

    @property
    def rate(self) -> float:
        """Nominal bytes per second in one direction: transfers per second and lane without the line code. Packets lower it further."""
        transfers = {1: 2.5e9, 2: 5e9}.get(self.generation, 8e9 * 2.0 ** (self.generation - 3))
        code = 8 / 10 if self.generation < 3 else 128 / 130 if self.generation < 6 else 242 / 256  # of 8b/10b, 128b/130b, FLIT
        return self.width * transfers * code / 8


@dataclass(frozen=True)
class Reading:
    """One card at this moment. A field that NVML does not report is None; `note` says why if memory is missing."""

    total: int | None = None  # bytes
    free: int | None = None
    load: float | None = None  # % of the last sampling period, under a second, in which a kernel ran
    processes: int | None = None  # that compute on it, of all users
    link: Link | None = None  # as it is; idle cards slow their links down
    max_link: Link | None = None  # of this card in this slot
    uuid: str | None = None
    note: str = ""


def readings(bus_ids: Sequence[str | None]) -> list[Reading]:
    """Return what NVML reports on the cards with these PCI bus ids ("0000:C1:00.0"; None if an id is not known). Never raises."""
    try:
        import pynvml
    except ImportError:
        return [Reading(note=f"{UNKNOWN}: pip install nvidia-ml-py") for _ in bus_ids]
    try:
        pynvml.nvmlInit()
    except Exception as error:  # its own types, one for every code of the library
        return [Reading(note=f"{UNKNOWN}: NVML, which comes with the driver, does not answer ({error})") for _ in bus_ids]
    try:
        return [_reading(pynvml, bus_id) for bus_id in bus_ids]
    finally:
        with contextlib.suppress(Exception):
            pynvml.nvmlShutdown()


def _reading(pynvml: Any, bus_id: str | None) -> Reading:
    def ask(question: str, *args: Any) -> Any:
        try:
            return getattr(pynvml, question)(*args)
        except Exception:  # not supported by this card or driver, not permitted, the card is gone, or an old pynvml has no such function
            return None

    handle = ask("nvmlDeviceGetHandleByPciBusId", bus_id) if bus_id else None
    if handle is None:
        return Reading(note=f"{UNKNOWN}: NVML does not find this card")
    now, most = (
        Link(generation, width) if generation and width else None
        for generation, width in (
            (ask(f"nvmlDeviceGet{which}PcieLinkGeneration", handle), ask(f"nvmlDeviceGet{which}PcieLinkWidth", handle))
            for which in ("Curr", "Max")
        )
    )
    mig = ask("nvmlDeviceGetMigMode", handle)
    if mig and mig[0]:
        return Reading(link=now, max_link=most, note=f"{UNKNOWN}: an instance of a partitioned card (MIG)")
    memory = ask("nvmlDeviceGetMemoryInfo", handle)
    load = ask("nvmlDeviceGetUtilizationRates", handle)
    processes = ask("nvmlDeviceGetComputeRunningProcesses", handle)
    return Reading(
        total=None if memory is None else int(memory.total),
        free=None if memory is None else int(memory.free),
        load=None if load is None else float(load.gpu),
        processes=None if processes is None else len(processes),
        link=now,
        max_link=most,
        uuid=ask("nvmlDeviceGetUUID", handle),
        note="free memory is unknown: NVML does not say it for this card" if memory is None else "",
    )
