"""Say in what state the machine was while it was measured: what else ran, what the host took, clocks, heat, power. Say why times scatter.

`mark` is taken before and after a stretch of work, `between` is what happened in it, `reasons` puts it into sentences. A figure that
this system does not have is None, and nothing fails for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite.sensors import Sensed, card_of
from gpu4d.benchmarks.suite.system_files import ROOT, listed, matching, number, table, text, whole
from gpu4d.benchmarks.suite.workload import Place

TICKS = 100  # a second, of /proc/stat on every architecture; `sysconf` says it where it is there
FIELDS = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")  # of a line of /proc/stat; guests are in user
SHORTEST = 0.2  # s: over less, ticks of 10 ms are too coarse to say what others used
OTHERS = 0.05  # of the processors, used by others: enough to be seen in times
TAKEN = 0.01  # of the time, taken by the host or by a quota
OWN_READ = 1 << 20  # bytes: who reads more from a disk waits for it
HELD = 0.02  # of the time that a card's clock was held down
SLOWER = 0.95  # clock after over clock before


@dataclass(frozen=True)
class Mark:
    """Counters of the machine at one moment. What is unknown is None, or absent.

    Attributes
    ----------
    at, own : float
        Seconds: of the clock, and of processor time of this process and its children.
    cpus : dict of str to float
        Seconds by kind (`FIELDS`) of the processors this process may use, all together.
    processors : int
        How many these are.
    mhz : float or None
        Clock of the fastest of them: those that are idle show a low one.
    throttled : int or None
        How often cores and packages were slowed down by heat.
    quota_s : float or None
        Seconds that a quota of the container has stopped its processes.
    pressure_s : float or None
        Seconds in which some process of the machine waited for a processor.
    faults : (int, int)
        Page faults of this process: without and with a read from disk.
    read_bytes : int or None
        Bytes that were fetched from disks for this process.
    card : Sensed or None
    """

    at: float
    own: float
    processors: int
    cpus: dict[str, float] = field(default_factory=dict)
    mhz: float | None = None
    throttled: int | None = None
    quota_s: float | None = None
    pressure_s: float | None = None
    faults: tuple[int, int] | None = None
    read_bytes: int | None = None
    card: Sensed | None = None


def mark(place: Place, root: Path = ROOT) -> Mark:
    """Read the counters."""
    cpus = processors()
    card, _ = card_of(place)
    return Mark(
        time.perf_counter(),
        own_seconds(),
        len(cpus),
        _processor_seconds(root, cpus),
        clock_mhz(root, cpus),
        _throttled(root),
        _quota(root),
        _pressure(root),
        _faults(),
        bytes_from_disk(root),
        None if card is None else card.sense(),
    )


def between(a: Mark, b: Mark) -> dict[str, Any]:
    """Return what happened from one mark to the next.

    Returns
    -------
    dict
        "seconds"; "own_cpu_s" of this process; "processors"; "others_cores", processors that other processes used on average, of those
        this process may use (None below 0.2 s); "steal", "iowait", "quota", "pressure" as shares of the time; "mhz"; "throttled", times;
        "page_faults", "disk_faults", "read_bytes" from disks; "card": what it was after, and "held", the shares of the time in which its
        clock was held down, by what.
    """
    seconds = b.at - a.at
    spent = {name: b.cpus[name] - a.cpus[name] for name in b.cpus if name in a.cpus}
    busy = sum(spent.get(name, 0.0) for name in ("user", "nice", "system", "irq", "softirq"))
    own = b.own - a.own
    known = bool(spent) and seconds >= SHORTEST
    return {
        "seconds": seconds,
        "own_cpu_s": own,
        "processors": b.processors,
        "others_cores": max(0.0, busy - own) / seconds if known else None,
        "steal": spent["steal"] / seconds / b.processors if known and "steal" in spent else None,
        "iowait": spent["iowait"] / seconds / b.processors if known and "iowait" in spent else None,
        "quota": _share(a.quota_s, b.quota_s, seconds),
        "pressure": _share(a.pressure_s, b.pressure_s, seconds),
        "mhz": b.mhz,
        "throttled": None if a.throttled is None or b.throttled is None else b.throttled - a.throttled,
        "page_faults": None if a.faults is None or b.faults is None else b.faults[0] - a.faults[0],
        "disk_faults": None if a.faults is None or b.faults is None else b.faults[1] - a.faults[1],
        "read_bytes": None if a.read_bytes is None or b.read_bytes is None else b.read_bytes - a.read_bytes,
        "card": None if b.card is None else _card_between(a.card, b.card, seconds),
    }


def _share(a: float | None, b: float | None, seconds: float) -> float | None:
    return None if a is None or b is None or seconds <= 0 else (b - a) / seconds


def _card_between(a: Sensed | None, b: Sensed, seconds: float) -> dict[str, Any]:
    earlier = (a.held_s if a else None) or {}
    held = {name: (now - earlier[name]) / seconds for name, now in (b.held_s or {}).items() if name in earlier and seconds > 0}
    energy = b.energy - a.energy if a and a.energy is not None and b.energy is not None else None
    return b.as_dict() | {"held": held, "held_s": None, "energy": energy, "sm_mhz_before": a.sm_mhz if a else None}


def reasons(stretches: Sequence[dict[str, Any]], width: float | None = None) -> list[str]:
    """Return, in sentences, why times may scatter: what `between` found in these stretches, the strongest of each kind.

    Parameters
    ----------
    stretches : sequence of dict
        Of `between`, for each pass of a workload.
    width : float, optional
        Width of the interval over the median. It is named where nothing explains it.
    """
    found = [
        *_of_processes(stretches),
        *_of_the_host(stretches),
        *_of_clocks(stretches),
        *_of_the_card([one["card"] for one in stretches if one.get("card")]),
    ]
    if found:
        return found
    wide = "" if width is None else f" for an interval of {100 * width:.0f} %"
    return [f"the cause{wide} is unknown: close other programs, wait until the machine is quiet, run again"]


def _largest(stretches: Sequence[dict[str, Any]], name: str) -> tuple[float, dict[str, Any]]:
    known = [(float(one[name]), one) for one in stretches if one.get(name) is not None]
    return max(known, key=lambda pair: pair[0], default=(0.0, {}))


def _of_processes(stretches: Sequence[dict[str, Any]]) -> list[str]:
    used, where = _largest(stretches, "others_cores")
    cores = where.get("processors") or 1
    if used <= OTHERS * cores:
        return []
    return [f"other processes used {used:.1f} of {cores} cores: end them, or wait until they have ended"]


def _of_the_host(stretches: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    steal, _ = _largest(stretches, "steal")
    if steal > TAKEN:
        said.append(f"the host took {100 * steal:.0f} % of the time (steal): others on its host are busy; run again later")
    quota, _ = _largest(stretches, "quota")
    if quota > TAKEN:
        taken = f"{100 * quota:.0f} % of the time"
        said.append(f"the container's CPU quota stopped the process for {taken}: raise the quota, or set GPU4D_THREADS")
    waits, _ = _largest([one for one in stretches if (one.get("read_bytes") or 0) < OWN_READ], "iowait")
    if waits > OTHERS:
        said.append(f"processors waited for a disk for {100 * waits:.0f} % of the time: others use it, or memory is swapped")
    return said


def _of_clocks(stretches: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    throttled, _ = _largest(stretches, "throttled")
    if throttled > 0:
        said.append(f"the CPU was slowed down by heat {throttled:.0f} times: check its cooling")
    clocks = [one["mhz"] for one in stretches if one.get("mhz")]
    if clocks and min(clocks) < SLOWER * max(clocks):
        said.append(
            f"the CPU's clock changed from {max(clocks):.0f} to {min(clocks):.0f} MHz: set the governor to performance, plug in the mains"
        )
    return said


def _of_the_card(cards: Sequence[dict[str, Any]]) -> list[str]:
    said = []
    words = {"power": "power cap", "thermal": "heat", "board": "limit of the board", "reliability": "limit of its voltage"}
    for name, word in words.items():
        share = max((card["held"].get(name, 0.0) for card in cards), default=0.0)
        if share > HELD:
            said.append(f"the GPU's clock was lowered for {100 * share:.0f} % of the time: {word}")
    if not said:  # cards that do not count say it for one moment
        slow = {"power cap", "hardware slowdown", "heat (software)", "heat (hardware)", "power brake from outside"}
        now = sorted({reason for card in cards for reason in card["reasons"]} & slow)
        said += [f"the GPU's clock was lowered: {reason}" for reason in now]
    return said


def state(place: Place, root: Path = ROOT) -> dict[str, Any]:
    """Return the state of the machine at one moment, for "conditions" of the result file."""
    load = (text(root, "proc/loadavg") or "").split()
    memory = table(root, "proc/meminfo", ":")
    card, why = card_of(place)
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": [float(value) for value in load[:3]] or None,
        "mhz": clock_mhz(root, processors()),
        "governor": governor(root),
        "temperature": cpu_temperature(root),
        "memory_available": kilobytes(memory.get("MemAvailable")),
        "swap_used": _swap_used(memory),
        "on_battery": on_battery(root),
        "card": None if card is None else card.sense().as_dict(),
        "card_unknown": "" if card is not None or not place.on_gpu else why,
    }


def processors() -> list[int]:
    """Return the numbers of the processors that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def own_seconds() -> float:
    """Return the processor time of this process and of the children it has waited for."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def _processor_seconds(root: Path, cpus: Sequence[int]) -> dict[str, float]:
    lines = table(root, "proc/stat")
    ticks = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else TICKS
    total: dict[str, float] = {}
    for cpu in cpus:
        for name, value in zip(FIELDS, lines.get(f"cpu{cpu}", "").split()):
            total[name] = total.get(name, 0.0) + int(value) / ticks
    return total


def clock_mhz(root: Path, cpus: Sequence[int]) -> float | None:
    """Return the clock of the fastest of these processors at this moment."""
    found = [number(root, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in cpus]
    known = [value / 1e3 for value in found if value]
    if not known:
        lines = (text(root, "proc/cpuinfo") or "").splitlines()
        known = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return max(known, default=None)


def governor(root: Path = ROOT) -> str | None:
    """Return how the system chooses clocks: "performance", "powersave", …; None where it does not choose, as in virtual machines."""
    return text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def cpu_temperature(root: Path = ROOT) -> float | None:
    """Return the highest temperature, °C, that a sensor of a processor shows."""
    found = []
    for folder in matching(root, "sys/class/hwmon/hwmon*"):
        if text(root, f"{folder}/name") in {"coretemp", "k10temp", "zenpower", "cpu_thermal"}:
            found += [number(root, path) for path in matching(root, f"{folder}/temp*_input")]
    known = [value / 1e3 for value in found if value is not None]
    return max(known, default=None)


def on_battery(root: Path = ROOT) -> bool | None:
    """Return whether the machine runs from a battery; None where there is neither battery nor mains."""
    online = [number(root, path) for path in matching(root, "sys/class/power_supply/*/online")]
    return None if not online else not any(online)


def _throttled(root: Path) -> int | None:
    found = [whole(root, path) for path in matching(root, "sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")]
    known = [value for value in found if value is not None]
    return sum(known) if known else None


def _quota(root: Path) -> float | None:
    group = (text(root, "proc/self/cgroup") or "").partition("0::")[2].splitlines()
    for folder in dict.fromkeys([(group[0] if group else "").strip("/"), ""]):
        value = table(root, f"sys/fs/cgroup/{folder}/cpu.stat").get("throttled_usec")
        if value is not None:
            return int(value) * 1e-6
    return None


def _pressure(root: Path) -> float | None:
    total = table(root, "proc/pressure/cpu").get("some", "").rpartition("total=")[2]
    return int(total) * 1e-6 if total.isdecimal() else None


def _faults() -> tuple[int, int] | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def bytes_from_disk(root: Path = ROOT) -> int | None:
    """Return how many bytes the system has fetched from disks for this process."""
    found = table(root, "proc/self/io", ":").get("read_bytes")
    return int(found) if found else None


def kilobytes(written: str | None) -> int | None:
    return int(written.split()[0]) * 1024 if written else None


def _swap_used(memory: dict[str, str]) -> int | None:
    total, free = kilobytes(memory.get("SwapTotal")), kilobytes(memory.get("SwapFree"))
    return None if total is None or free is None else total - free


def online(root: Path = ROOT) -> int:
    """Return how many processors of the machine run."""
    return len(listed(text(root, "sys/devices/system/cpu/online"))) or (os.cpu_count() or 1)
