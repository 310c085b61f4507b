"""Look the machine over and say what is well, what is worth knowing, and what to change."""

from __future__ import annotations

import importlib.util
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import attainable_disk, machine
from gpu4d.benchmarks.suite.attainable import measure
from gpu4d.benchmarks.suite.conditions import between, governor, kilobytes, mark, on_battery
from gpu4d.benchmarks.suite.sensors import Sensed, card_number
from gpu4d.benchmarks.suite.system_files import ROOT, table, text
from gpu4d.benchmarks.suite.workload import Place

from gpu4d.findings import NOTE, OK, WARN, Finding

LITTLE_MEMORY = 4 * 10**9  # bytes: tier S needs about 2 GB
LITTLE_DISK = 2 * 10**9  # bytes: files of tier S have about 0.5 GB
LITTLE_SHARED = 10**9  # bytes of /dev/shm; Docker gives 64 MB
SLOW_DISK = 200e6  # bytes/s: a hard disk, or a busy network
WATCHED = 0.5  # s in which the load of others is measured
QUIET = 0.05  # of the processors, used by others
IN_MEMORY, NETWORK = {"tmpfs", "ramfs"}, {"nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "lustre", "beegfs", "gpfs"}
OPTIONAL = {  # package -> what is missing without it, what to install
    "hdf5plugin": ("compressed files of detectors cannot be read", "pip install hdf5plugin"),
    "gemmi": ("there are no structures: the workload `orientation` cannot run", "pip install 'gpu4d[crystal]'"),
    "matplotlib": ("there are no pictures of comparisons", "pip install 'gpu4d[app]'"),
    "jinja2": ("there are no pages of comparisons", "pip install 'gpu4d[app]'"),
}


def doctor(device: str = "auto", folder: Path | str | None = None, *, root: Path = ROOT) -> list[Finding]:
    """Return the findings on this machine, topic by topic. It takes a few seconds.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda:N"}
        That will compute.
    folder : path, optional
        Whose disk is looked at; that of temporary files by default.
    root : Path
        Of the file system, for tests.
    """
    from gpu4d.device import choose

    chosen = choose(device)
    with tempfile.TemporaryDirectory(prefix="gpu4d-doctor-", dir=folder) as own:
        # No array is made on a card, so that no context is.
        place = Place(np, chosen.kind == "cuda", str(chosen), Path(own))
        return [finding for look in LOOKS for finding in look(place, root)]


# ---------------------------------------------------------------- looks: each yields the findings of a topic


def software(place: Place, root: Path) -> Iterator[Finding]:
    """Versions, and packages that are missing."""
    import gpu4d

    versions = machine.packages()
    named = ", ".join(f"{name} {versions[name]}" for name in ("numpy", "scipy", "numba", "h5py") if name in versions)
    yield Finding("software", OK, f"gpu4d {gpu4d.__version__}, Python {platform.python_version()}, {named}")
    for name, (missing, advice) in OPTIONAL.items():
        if importlib.util.find_spec(name) is None:
            yield Finding("software", NOTE, f"{name} is not installed: {missing}", advice)


def gpus(place: Place, root: Path) -> Iterator[Finding]:
    """Cards: memory, load, settings, reasons for low clocks. Without one, why."""
    from gpu4d.device.choose import why_no_cuda
    from gpu4d.device.listing import devices

    found = [info for info in devices() if info.name != "cpu"]
    if not found:
        yield Finding("gpu", NOTE, f"no CUDA device: {why_no_cuda()}", "everything runs on the CPU")
    for index, info in enumerate(found):
        yield from card_findings(info, *card_number(index))


def card_findings(info: Any, card: Any, why: str) -> Iterator[Finding]:
    """Return the findings on one card.

    Parameters
    ----------
    info : DeviceInfo
    card : sensors.Card or None
    why : str
        It is None.
    """
    from gpu4d.sizes import format_bytes

    free = "? of" if info.free is None else f"{format_bytes(info.free)} of"
    total = "?" if info.total is None else format_bytes(info.total)
    yield Finding("gpu", OK, f"{info.name} is {info.model}, {free} {total} free")
    if info.free is not None and info.total and info.free < 0.5 * info.total:
        yield Finding(
            "gpu", NOTE, f"{info.name}: less than half of its memory is free", "end its programs, or choose another card by --device"
        )
    if info.processes:
        said = "a process computes" if info.processes == 1 else f"{info.processes} processes compute"
        yield Finding("gpu", NOTE, f"{info.name}: {said} on it", "times will scatter while they run; nvidia-smi lists them")
    yield from link_findings(info)
    if card is None:
        yield Finding("gpu", NOTE, f"{info.name}: clocks, heat and energy are unknown", why)
        return
    about, now = card.about(), card.sense()
    yield from _limits(info.name, about, now)


def link_findings(info: Any) -> Iterator[Finding]:
    """Say what the link to the host is, and whether it is as wide as it could be. Idle cards lower its generation, not its width."""
    now, most = info.link, info.max_link
    if now is None or most is None:
        return
    if now.width < most.width:
        what = f"{info.name}: {now.width} of {most.width} lanes of PCI Express: copies take {most.width / now.width:.0f} times as long"
        yield Finding("link", WARN, what, "put the card into a slot with all lanes; look into the firmware's settings")
    else:
        idle = "" if now.generation == most.generation else f", now {now.generation}.0: idle cards save power"
        yield Finding("link", OK, f"{info.name}: PCI Express {most.generation}.0 with {most.width} lanes, {most.rate / 1e9:.0f} GB/s{idle}")


def _limits(name: str, about: dict[str, Any], now: Sensed) -> Iterator[Finding]:
    slow = [reason for reason in now.reasons if reason not in ("idle", "clocks set by an application", "clock of the display")]
    if slow:
        advice = "raise the power limit (nvidia-smi -pl), or cool the card better"
        yield Finding("gpu", WARN, f"{name}: its clock is lowered now: {', '.join(slow)}", advice)
    if "clocks set by an application" in now.reasons:
        yield Finding("gpu", NOTE, f"{name}: its clocks are fixed", "nvidia-smi -rgc sets them free")
    limits, limit = about["power_limits_w"], about["power_limit_w"]
    if limits and limit and limit < 0.95 * limits[1]:
        what = f"{name}: its power is limited to {limit:.0f} W of {limits[1]:.0f} W"
        yield Finding("gpu", NOTE, what, f"nvidia-smi -pl {limits[1]:.0f} raises it, if the power supply allows it")
    if about["mig"]:
        yield Finding("gpu", NOTE, f"{name}: an instance of a partitioned card (MIG)", "energy and load of an instance are not known")
    if about["persistence"] is False:
        yield Finding(
            "gpu", NOTE, f"{name}: the driver is unloaded while no program runs", "nvidia-smi -pm 1 keeps it: programs start sooner"
        )
    if now.temperature is not None and now.temperature >= 83:
        yield Finding("gpu", NOTE, f"{name}: {now.temperature:.0f} °C while it does nothing", "wait until it has cooled; check the fans")


def processor(place: Place, root: Path) -> Iterator[Finding]:
    """Threads, governor, mains, load of others."""
    from gpu4d.device.choose import cpu_threads

    cpu, threads = machine.processor(root), cpu_threads()
    yield Finding("cpu", OK, f"{cpu['model']}, {threads} threads compute on {cpu['usable']} of {cpu['processors']} processors")
    if threads != cpu["usable"]:
        said = os.environ.get("GPU4D_THREADS")
        yield Finding("cpu", NOTE, f"{threads} threads for {cpu['usable']} processors: GPU4D_THREADS={said}", "unset GPU4D_THREADS")
    if governor(root) in {"powersave", "conservative", "ondemand"} and cpu["driver"] not in {"intel_pstate", "amd-pstate-epp"}:
        yield Finding("cpu", NOTE, f"the governor is {governor(root)}: clocks rise late", "sudo cpupower frequency-set -g performance")
    if on_battery(root):
        yield Finding("cpu", WARN, "the machine runs from its battery: clocks are lowered", "plug in the mains")
    if "virtual machine" in machine.virtual(root):
        yield Finding("cpu", NOTE, "a virtual machine: others on its host may take time, and temperatures cannot be read")
    yield from blas_findings(machine.blas(), threads)
    yield from load(place, root)


def blas_findings(blas: dict[str, Any], threads: int) -> Iterator[Finding]:
    """Say whether matrices are multiplied by as many threads as compute."""
    name = f"{blas['name'] or 'an unknown BLAS'} {blas['version'] or ''}".strip()
    if blas["threads"] is None:
        yield Finding("blas", OK, f"{name}; its threads are unknown: pip install threadpoolctl")
    elif blas["threads"] < threads:
        advice = "unset OPENBLAS_NUM_THREADS, MKL_NUM_THREADS and OMP_NUM_THREADS"
        yield Finding("blas", WARN, f"{name} has {blas['threads']} threads, {threads} compute: products of matrices are slow", advice)
    else:
        yield Finding("blas", OK, f"{name} with {blas['threads']} threads")


def load(place: Place, root: Path) -> Iterator[Finding]:
    """Watch for half a second what other processes and the host take."""
    before = mark(place, root)
    time.sleep(WATCHED)
    found = between(before, mark(place, root))
    others, steal, cores = found["others_cores"], found["steal"], found["processors"]
    if others is None:
        yield Finding("load", OK, "the load of other processes cannot be read on this system")
    elif others > QUIET * cores:
        yield Finding("load", WARN, f"other processes use {others:.1f} of {cores} cores", "end them before you measure: times will scatter")
    else:
        yield Finding("load", OK, "no other process computes")
    if steal is not None and steal > 0.01:
        yield Finding("load", WARN, f"the host takes {100 * steal:.0f} % of the time", "its other guests are busy: measure at another time")


def memory(place: Place, root: Path) -> Iterator[Finding]:
    """Free memory, swap, huge pages, shared memory."""
    from gpu4d.device.memory import available_memory
    from gpu4d.sizes import format_bytes

    known = table(root, "proc/meminfo", ":")
    free = kilobytes(known.get("MemAvailable")) if root != ROOT else available_memory()
    if free is not None:
        level, advice = (NOTE, "end other programs; tier S needs about 2 GB") if free < LITTLE_MEMORY else (OK, "")
        yield Finding("memory", level, f"{format_bytes(free)} free of {format_bytes(kilobytes(known.get('MemTotal')) or free)}", advice)
    used = (kilobytes(known.get("SwapTotal")) or 0) - (kilobytes(known.get("SwapFree")) or 0)
    if used > 0.1 * (kilobytes(known.get("MemTotal")) or 1):
        yield Finding("memory", NOTE, f"{format_bytes(used)} are swapped out: memory was short", "end other programs")
    if "[never]" in (text(root, "sys/kernel/mm/transparent_hugepage/enabled") or ""):
        advice = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield Finding("memory", NOTE, "huge pages are off: large arrays are slower", advice)
    try:
        held = os.statvfs(root / "dev/shm")
        shared = held.f_frsize * held.f_bavail
    except (OSError, AttributeError):
        return
    if shared < LITTLE_SHARED:
        yield Finding(
            "memory",
            NOTE,
            f"/dev/shm has {format_bytes(shared)}: workers of other libraries share arrays there",
            "docker run --shm-size=2g",
        )


def compiled(place: Place, root: Path) -> Iterator[Finding]:
    """Say whether compiled code can be kept."""
    import gpu4d.cpu_fallback

    from gpu4d.compiled_cache import folder_for

    sources = Path(next(iter(gpu4d.cpu_fallback.__path__))).resolve()
    kept = folder_for(sources)
    users = {Path(os.environ["NUMBA_CACHE_DIR"])} if os.environ.get("NUMBA_CACHE_DIR") else set()
    lost = kept.is_relative_to(tempfile.gettempdir()) and not any(kept.is_relative_to(one) for one in {sources, *users})
    if lost:
        what = "compiled code cannot be kept: every start compiles again, for a minute"
        yield Finding("compiler", WARN, what, "set NUMBA_CACHE_DIR to a folder that can be written")
    else:
        yield Finding("compiler", OK, "compiled code is kept")


def disk(place: Place, root: Path) -> Iterator[Finding]:
    """Say what the folder is on, and how fast a small file is read from it."""
    from gpu4d.sizes import format_bytes

    about = machine.disk(place.folder, root)
    kind, free = about["file_system"], about["free"]
    if free is not None and free < LITTLE_DISK:
        yield Finding("disk", WARN, f"{format_bytes(free)} free: files of the workloads do not fit", "name another folder by --folder")
        return
    here = Place(np, False, "cpu", place.folder)  # reading a file needs no context on a card
    found = measure(attainable_disk.COLD_FILE, here, "quick", calls=2)
    said = (
        f"{kind or 'unknown file system'}, {format_bytes(free) if free is not None else '?'} free, read at {format_bytes(found['value'])}/s"
    )
    if kind in IN_MEMORY or found["cache"].startswith("page cache"):
        yield Finding("disk", NOTE, f"{said}: a file system in memory", "name a folder on a disk, or the disk is not measured")
    elif kind in NETWORK:
        yield Finding("disk", NOTE, f"{said}: a network file system", "its rate depends on others")
    elif found["value"] < SLOW_DISK:
        yield Finding("disk", NOTE, f"{said}: slower than solid-state disks", "keep scans that you analyse on a faster one")
    else:
        yield Finding("disk", OK, said)


LOOKS: tuple[Callable[[Place, Path], Iterator[Finding]], ...] = (software, gpus, processor, memory, compiled, disk)
