"""Describe the machine of a result: processor, memory, cards, disk, system, packages.

Results are published. So nothing here says whose machine it is: no name of a host or user, no path, no serial number, no UUID of a card.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu4d.benchmarks.suite.conditions import governor, kilobytes, online, processors
from gpu4d.benchmarks.suite.sensors import card_number, opened
from gpu4d.benchmarks.suite.system_files import ROOT, listed, matching, number, size_in_bytes, table, text
from gpu4d.benchmarks.suite.workload import Place

PACKAGES = (
    "numpy scipy numba llvmlite h5py hdf5plugin array-api-compat scikit-learn cupy cupy-cuda12x cupy-cuda13x cuda-python nvidia-ml-py gemmi"
).split()
THREADS = ("GPU4D_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS")  # that limit threads
ISA = ("avx2", "fma", "avx512f", "avx512_fp16", "amx_tile", "asimd", "sve")
CPUS = "sys/devices/system/cpu"


def describe(place: Place, root: Path = ROOT) -> dict[str, Any]:
    """Return "machine" of the result file.

    Parameters
    ----------
    place : Place
        The device that computes, and the folder whose disk is described.
    root : Path
        Of the file system, for tests.

    Returns
    -------
    dict
        Plain numbers, texts, lists and dicts. What is unknown is None.
    """
    from gpu4d.device.choose import cpu_threads

    cpu = processor(root)
    gpus = cards() if place.on_gpu else []
    return {
        "label": label(cpu, gpus, place.device),
        "device": place.device,
        "threads": cpu_threads(),
        "cpu": cpu,
        "memory": kilobytes(table(root, "proc/meminfo", ":").get("MemTotal")),
        "memory_limit": _limit(root),
        "swap": kilobytes(table(root, "proc/meminfo", ":").get("SwapTotal")),
        "huge_pages": _chosen(text(root, "sys/kernel/mm/transparent_hugepage/enabled")),
        "product": _product(root),
        "virtual": virtual(root),
        "battery": bool(matching(root, "sys/class/power_supply/BAT*")),
        "os": _system(root),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": packages(),
        "cuda": cuda_versions() if place.on_gpu else None,
        "blas": blas(),
        "environment": {name: os.environ[name] for name in THREADS if name in os.environ},
        "gpus": gpus,
        "disk": disk(place.folder, root),
    }


def label(cpu: dict[str, Any], gpus: Sequence[dict[str, Any]], device: str) -> str:
    """Return the name of the machine for people: what computes, and beside a card what feeds it."""
    usable = cpu["usable"]
    host = f"{cpu['model']}, {usable} {'core' if usable == 1 else 'cores' if cpu['smt'] is not True else 'threads'}"
    chosen = [card["model"] for card in gpus if card["name"] == device]
    return f"{chosen[0]} in {host}" if chosen else host


def processor(root: Path = ROOT) -> dict[str, Any]:
    """Return model, cores, caches, clocks and instruction sets of the processor."""
    about = table(root, "proc/cpuinfo", ":")
    flags = set((about.get("flags") or about.get("Features") or "").split())
    usable = processors()
    topology = matching(root, f"{CPUS}/cpu[0-9]*/topology")
    cores = {(text(root, f"{folder}/physical_package_id"), text(root, f"{folder}/core_id")) for folder in topology}
    smt = text(root, f"{CPUS}/smt/active")
    top = number(root, f"{CPUS}/cpu0/cpufreq/cpuinfo_max_freq")
    return {
        "model": about.get("model name") or about.get("Model") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "sockets": len({package for package, _ in cores}) or None,
        "cores": len(cores) or None,
        "processors": online(root),
        "usable": len(usable),
        "affinity": usable,
        "smt": None if smt is None else smt == "1",
        "numa": len(listed(text(root, "sys/devices/system/node/online"))) or None,
        "caches": caches(root),
        "max_mhz": None if top is None else top / 1e3,
        "governor": governor(root),
        "driver": text(root, f"{CPUS}/cpu0/cpufreq/scaling_driver"),
        "boost": _boost(root),
        "instructions": [name for name in ISA if name in flags],
    }


def caches(root: Path = ROOT) -> dict[str, dict[str, int]]:
    """Return bytes and number of the caches, by "L1", "L2", "L3". Caches of instructions are left out."""
    seen: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    for folder in matching(root, f"{CPUS}/cpu[0-9]*/cache/index*"):
        if text(root, f"{folder}/type") == "Instruction":
            continue
        name, size = f"L{text(root, f'{folder}/level')}", size_in_bytes(text(root, f"{folder}/size"))
        if size is not None:
            sizes[name] = size
            seen.setdefault(name, set()).add(text(root, f"{folder}/shared_cpu_list") or folder)
    return {name: {"bytes": sizes[name], "number": len(seen[name])} for name in sorted(sizes)}


def _boost(root: Path) -> bool | None:
    boost, no_turbo = number(root, f"{CPUS}/cpufreq/boost"), number(root, f"{CPUS}/intel_pstate/no_turbo")
    return bool(boost) if boost is not None else None if no_turbo is None else not no_turbo


def _limit(root: Path) -> int | None:
    found = [number(root, path) for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")]
    return next((int(value) for value in found if value is not None and value < 1 << 60), None)


def _chosen(written: str | None) -> str | None:
    """Return the word in brackets: what is chosen of "always [madvise] never"."""
    return written.partition("[")[2].partition("]")[0] if written else None


def _product(root: Path) -> str | None:
    """Return maker and model as the firmware tells them: "Dell Inc. Precision 7960"."""
    words = [text(root, f"sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    return " ".join(word for word in words if word) or None


def virtual(root: Path = ROOT) -> list[str]:
    """Return "virtual machine" and "container", where it is one."""
    flags = (table(root, "proc/cpuinfo", ":").get("flags") or "").split()
    inside = any((root / mark).exists() for mark in (".dockerenv", "run/.containerenv", "run/systemd/container"))
    return ["virtual machine"] * ("hypervisor" in flags) + ["container"] * inside


def _system(root: Path) -> dict[str, Any]:
    release = table(root, "etc/os-release", "=").get("PRETTY_NAME", "").strip('"')
    return {"name": platform.system(), "kernel": platform.release(), "distribution": release or None}


def packages() -> dict[str, str]:
    """Return the versions of the installed packages that matter for speed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cuda_versions() -> dict[str, Any]:
    """Return the versions of CUDA's runtime, of the CUDA that the driver serves, and of the driver itself."""
    import cupy

    nvml, _ = opened()
    found: dict[str, Any] = {}
    for name, question in (("runtime", "runtimeGetVersion"), ("served", "driverGetVersion")):
        try:
            version = int(getattr(cupy.cuda.runtime, question)())
            found[name] = f"{version // 1000}.{version % 1000 // 10}"
        except Exception:  # CUDARuntimeError
            found[name] = None
    try:
        driver = nvml.nvmlSystemGetDriverVersion()
        found["driver"] = driver.decode() if isinstance(driver, bytes) else driver
    except Exception:  # no NVML, or it does not say it
        found["driver"] = None
    return found


def blas() -> dict[str, Any]:
    """Return name, version and threads of the library that multiplies NumPy's matrices."""
    import numpy as np

    try:
        build = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[index]
        found: dict[str, Any] = {"name": build.get("name"), "version": build.get("version"), "threads": None}
    except (TypeError, KeyError):
        found = {"name": None, "version": None, "threads": None}
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return found
    loaded = [one for one in threadpool_info() if one.get("user_api") == "blas"]
    loaded.sort(key=lambda one: "numpy" not in one["filepath"])  # SciPy may bring its own
    if loaded:  # paths of libraries are left out: they may name a user
        found |= {"name": loaded[0]["internal_api"], "version": loaded[0]["version"], "threads": loaded[0]["num_threads"]}
    return found


def cards() -> list[dict[str, Any]]:
    """Return the cards of the machine: what gpu4d lists, and how they are set. No UUID, no bus."""
    from gpu4d.device.listing import devices

    found = []
    for number_, info in enumerate(one for one in devices() if one.name != "cpu"):
        card, why = card_number(number_)
        found.append(
            {
                "name": info.name,
                "model": info.model,
                "compute_capability": None if info.compute_capability is None else ".".join(map(str, info.compute_capability)),
                "memory": info.total,
                "bandwidth": info.memory_bandwidth,
                "link": None if info.link is None else [info.link.generation, info.link.width],
                "max_link": None if info.max_link is None else [info.max_link.generation, info.max_link.width],
                **({} if card is None else card.about()),
                "note": info.note or why,
            }
        )
    return found


def disk(folder: Path, root: Path = ROOT) -> dict[str, Any]:
    """Return the file system that a folder is on, and the disk below it: kind, model, bytes."""
    mount = _mount(folder, root)
    below = _block_device(mount, root)
    total: int | None = None
    free: int | None = None
    try:
        held = os.statvfs(folder)
        total, free = held.f_frsize * held.f_blocks, held.f_frsize * held.f_bavail
    except (OSError, AttributeError):  # gone, or Windows
        pass
    rotational = None if below is None else number(root, f"{below}/queue/rotational")
    return {
        "file_system": None if mount is None else mount["kind"],
        "device": None if below is None else below.rpartition("/")[2],
        "model": None if below is None else text(root, f"{below}/device/model"),
        "rotational": None if rotational is None else bool(rotational),
        "read_ahead": None if below is None else number(root, f"{below}/queue/read_ahead_kb"),
        "total": total,
        "free": free,
    }


def _mount(folder: Path, root: Path) -> dict[str, str] | None:
    """Return device number, kind and source of the file system that holds a folder: of the mount points above it, the deepest."""
    best: dict[str, str] | None = None
    wanted = os.path.realpath(folder)
    for line in (text(root, "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        words, about = left.split(), right.split()
        if len(words) < 5 or len(about) < 2:
            continue
        point = words[4].replace("\\040", " ")
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= len(best["point"])):
            best = {"number": words[2], "point": point, "kind": about[0], "source": about[1]}
    return best


def _block_device(mount: dict[str, str] | None, root: Path) -> str | None:
    """Return the folder of a disk below /sys/class/block: of a partition, that of the disk it is on."""
    if mount is None:
        return None
    by_number = [path for path in matching(root, "sys/class/block/*") if text(root, f"{path}/dev") == mount["number"]]
    by_name = f"sys/class/block/{mount['source'].rpartition('/')[2]}" if mount["source"].startswith("/dev/") else None
    found = by_number[0] if by_number else by_name
    if found is None or not (root / found).exists():
        return None
    if (root / found / "partition").exists():
        return f"sys/class/block/{(root / found).resolve().parent.name}"
    below = matching(root, f"{found}/slaves/*")  # of an encrypted disk, a volume: what it lies on
    return f"sys/class/block/{below[0].rpartition('/')[2]}" if below else found
