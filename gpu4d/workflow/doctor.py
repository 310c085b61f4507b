"""Look over what gpu4d needs of a machine: packages, graphics card, memory, disk, caches. Findings are data; `as_text` is for people."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gpu4d.findings import FAIL, LEVELS, OK, WARN, Finding
from gpu4d.findings import as_text as lines_of

LEAST_PYTHON = (3, 11)
# Oldest versions that gpu4d works with, as pyproject.toml says, which a test compares: module -> (package, version).
NEEDED = {
    "numpy": ("numpy", "1.26"),
    "scipy": ("scipy", "1.13"),
    "h5py": ("h5py", "3.15"),
    "hdf5plugin": ("hdf5plugin", "4.4"),
    "array_api_compat": ("array-api-compat", "1.11.2"),
    "lazy_loader": ("lazy-loader", "0.4"),
    "llvmlite": ("llvmlite", "0"),
    "numba": ("numba", "0.61"),
}
EXTRAS = {  # extra -> its modules, what it is for
    "app": (("click", "rich", "matplotlib", "jinja2"), "command line, pictures, report"),
    "crystal": (("gemmi",), "crystal structures: calibration with a standard, orientations"),
    "classify": (("sklearn",), "classes of patterns"),
    "interop": (("xarray", "dask"), "results for xarray, scans as arrays of Dask"),
    "distributed": (("distributed",), "sweeps on the workers of a cluster"),
    "formats": (("rsciio",), "rare formats of files"),
    "view": (("anywidget",), "the viewer in notebooks"),
}
CUPY = re.compile(r"cupy(-cuda\d+x|-rocm.*)?$")  # packages that bring the module `cupy`: two of them overwrite each other's files
FILTERS = {32004: "LZ4", 32008: "Bitshuffle", 32001: "Blosc", 32026: "Blosc2", 32015: "Zstandard"}  # of HDF5, that detectors write
LITTLE_DISK, NO_DISK = 2 * 10**9, 50 * 10**6  # bytes: results of a large scan do not fit; nothing does


def doctor(folder: str | Path = ".") -> list[Finding]:
    """Look over this machine and the Python environment. It takes a few seconds, and changes nothing.

    Parameters
    ----------
    folder : path
        Where results will be written.

    Returns
    -------
    list of Finding
        Topic by topic. A look that cannot be done is a finding too.
    """
    found: list[Finding] = []
    for look in LOOKS:
        topic = look.__name__
        try:
            found += look(Path(folder))
        except Exception as error:  # one look that fails must not hide the others
            found.append(Finding(topic, WARN, f"cannot be looked at: {type(error).__name__}: {error}"))
    return found


def as_text(findings: list[Finding]) -> str:
    """Return a line for each finding, what to do below it, and a last line that counts."""
    count = {level: sum(one.level == level for one in findings) for level in LEVELS}
    end = "something is broken: see the lines that begin with fail" if count[FAIL] else "gpu4d can work here"
    counted = ", ".join(f"{number} {level}" for level, number in count.items())
    return "\n".join([lines_of(findings), "", f"{counted}: {end}"])


# ---------------------------------------------------------------- looks: each yields the findings of a topic


def python(folder: Path) -> Iterator[Finding]:
    """Version of Python, and the system."""
    import gpu4d

    version = tuple(map(int, platform.python_version_tuple()[:2]))
    said = f"gpu4d {gpu4d.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    needed = ".".join(map(str, LEAST_PYTHON))
    yield Finding("python", OK if version >= LEAST_PYTHON else FAIL, said, "" if version >= LEAST_PYTHON else f"install Python {needed}")


def packages(folder: Path) -> Iterator[Finding]:
    """Packages that gpu4d cannot do without: whether they are there, new enough, and fit each other."""
    good = []
    for module, (package, least) in NEEDED.items():
        try:
            importlib.import_module(module)
            version = importlib.metadata.version(package)
        except Exception as error:  # numba refuses a NumPy that is too new by an ImportError, others by errors of their own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            yield Finding("packages", FAIL, f"{package} cannot be imported: {reason}", f"pip install -U '{package}>={least}'")
            continue
        if _numbers(version) < _numbers(least):
            yield Finding("packages", FAIL, f"{package} {version} is older than {least}", f"pip install -U '{package}>={least}'")
        else:
            good.append(f"{package} {version}")
    yield Finding("packages", OK, ", ".join(good))
    yield from _compiles()


def _compiles() -> Iterator[Finding]:
    try:
        import numba

        answer = numba.njit(lambda x: 2 * x)(np.float64(21.0))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding("packages", FAIL, f"numba cannot compile: {reason}", "pip install -U --force-reinstall numba llvmlite")
        return
    good = answer == 42.0
    advice = "" if good else "pip install -U --force-reinstall numba llvmlite"
    yield Finding("packages", OK if good else FAIL, "numba compiles" if good else "numba compiles wrong code", advice)


def extras(folder: Path) -> Iterator[Finding]:
    """Extras of gpu4d: which are there, and how the others are installed."""
    there = []
    for extra, (modules, use) in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        if not missing:
            there.append(extra)
        else:
            level = WARN if extra == "app" else OK
            yield Finding("extras", level, f"{extra} is not installed ({use}): no {', '.join(missing)}", f"pip install 'gpu4d[{extra}]'")
    if there:
        yield Finding("extras", OK, f"installed: {', '.join(there)}")


def gpu(folder: Path) -> Iterator[Finding]:
    """Graphics cards, their driver, and whether CuPy fits it."""
    from gpu4d.benchmarks.suite.doctor import card_findings
    from gpu4d.benchmarks.suite.sensors import card_number
    from gpu4d.device.choose import why_no_cuda
    from gpu4d.device.listing import devices

    held = sorted({name for one in importlib.metadata.distributions() if (name := one.metadata["Name"]) and CUPY.match(name)})
    if len(held) > 1:
        advice = f"pip uninstall {' '.join(held)}, then pip install 'gpu4d[cuda12]' or 'gpu4d[cuda13]'"
        yield Finding("gpu", FAIL, f"{' and '.join(held)} are installed: they overwrite each other", advice)
    cards = [info for info in devices() if info.name != "cpu"]
    if not cards:
        yield _no_card(why_no_cuda(), bool(held))
    for index, info in enumerate(cards):
        yield from card_findings(info, *card_number(index))


def _no_card(why: str, cupy: bool) -> Finding:
    """Say why there is no CUDA device: nothing is wrong where there is no card, and something is where a driver or CuPy is there."""
    driver = driver_version()
    if driver is None:
        return Finding("gpu", OK, f"no CUDA device ({why}): everything runs on the CPU")
    if not cupy:
        which = "cuda13" if driver >= 580 else "cuda12"  # the first driver of CUDA 13
        return Finding(
            "gpu", WARN, f"the NVIDIA driver {driver} is there, and CuPy is not: the card is not used", f"pip install 'gpu4d[{which}]'"
        )
    return Finding(
        "gpu", FAIL, f"the NVIDIA driver {driver} and CuPy are there, and do not work together: {why}", "see nvidia-smi, and `pip list`"
    )


def driver_version(root: Path = Path("/")) -> int | None:
    """Return the major version of the NVIDIA driver. None if there is none, or it cannot be told."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b(\d{3})\.\d+", text)
    return int(found[1]) if found else None


def processor(folder: Path) -> Iterator[Finding]:
    """Threads, BLAS, clocks, and what others compute."""
    from gpu4d.benchmarks.suite import doctor as bench
    from gpu4d.benchmarks.suite.system_files import ROOT
    from gpu4d.benchmarks.suite.workload import Place

    yield from bench.processor(Place(np, False, "cpu", folder), ROOT)


def memory(folder: Path) -> Iterator[Finding]:
    """Free memory, swap, and the limits of a container or a batch job."""
    from gpu4d.benchmarks.suite import doctor as bench
    from gpu4d.benchmarks.suite.system_files import ROOT
    from gpu4d.benchmarks.suite.workload import Place

    yield from bench.memory(Place(np, False, "cpu", folder), ROOT)
    yield from limits()


def limits(root: Path = Path("/")) -> Iterator[Finding]:
    """Say what a container allows (cgroup version 2), if it allows less than the machine has."""
    from gpu4d.sizes import format_bytes

    most = _first_word(root / "sys/fs/cgroup/memory.max")
    if most is not None and most.isdecimal():
        yield Finding("memory", OK, f"this container may use {format_bytes(int(most))}", "--memory of a run stays well below it")
    share = _first_word(root / "sys/fs/cgroup/cpu.max")
    if share is not None and share.isdecimal():
        period = (root / "sys/fs/cgroup/cpu.max").read_text().split()[1]
        cores, seen = int(share) / int(period), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if cores < seen - 0.5:
            advice = f"export GPU4D_THREADS={max(1, round(cores))}"
            yield Finding("cpu", WARN, f"this container may use {cores:g} of {seen} processors, and all are seen: threads wait", advice)


def _first_word(path: Path) -> str | None:
    try:
        return (path.read_text().split() or [""])[0]
    except OSError:
        return None


def caches(folder: Path) -> Iterator[Finding]:
    """Folders where compiled code is kept: whether they can be written, and how large they are."""
    import gpu4d.cpu_fallback
    from gpu4d.compiled_cache import folder_for

    sources = Path(next(iter(gpu4d.cpu_fallback.__path__))).resolve()
    kept = folder_for(sources)
    lost = kept.name.startswith("gpu4d-") and kept.is_relative_to(tempfile.gettempdir())
    if lost:
        what = "compiled code cannot be kept: every start compiles again, for half a minute"
        yield Finding("caches", WARN, what, "set NUMBA_CACHE_DIR to a folder that can be written")
    else:
        yield Finding("caches", OK, f"compiled code: {kept}, {_size(kept)}", "" if any(kept.glob("*.nbc")) else "`gpu4d warm` fills it")
    if importlib.util.find_spec("cupy") is not None:
        kernels = Path(os.environ.get("CUPY_CACHE_DIR") or Path.home() / ".cupy" / "kernel_cache")
        good = _can_write(kernels)
        advice = "" if good else "set CUPY_CACHE_DIR to a folder that can be written"
        yield Finding("caches", OK if good else WARN, f"CUDA kernels: {kernels}, {_size(kernels) if good else 'cannot be written'}", advice)


def disk(folder: Path) -> Iterator[Finding]:
    """Folder for results and folder of temporary files: free space, and whether they can be written."""
    from gpu4d.sizes import format_bytes

    for name, place in (("results", folder.resolve()), ("temporary files", Path(tempfile.gettempdir()))):
        if not _can_write(place):
            yield Finding(
                "disk", WARN, f"{name}: {place} cannot be written", "name another folder with -o" if name == "results" else "set TMPDIR"
            )
            continue
        free = shutil.disk_usage(_there(place)).free
        level = FAIL if free < NO_DISK else WARN if free < LITTLE_DISK else OK
        yield Finding("disk", level, f"{name}: {format_bytes(free)} free in {place}", "" if level == OK else "free some space")


def plugins(folder: Path) -> Iterator[Finding]:
    """Compressions of HDF5 that detectors write."""
    import h5py
    import hdf5plugin  # noqa: F401  # registers the filters

    missing = [name for number, name in FILTERS.items() if not h5py.h5z.filter_avail(number)]
    named = os.environ.get("HDF5_PLUGIN_PATH")
    if named and not all(Path(part).is_dir() for part in named.split(os.pathsep)):
        yield Finding("plugins", WARN, f"HDF5_PLUGIN_PATH={named} is no folder", "unset HDF5_PLUGIN_PATH")
    if missing:
        advice = "pip install -U --force-reinstall hdf5plugin h5py"
        yield Finding("plugins", FAIL, f"HDF5 {h5py.version.hdf5_version} cannot read {', '.join(missing)}", advice)
    else:
        yield Finding("plugins", OK, f"HDF5 {h5py.version.hdf5_version} reads {', '.join(FILTERS.values())}")


LOOKS: tuple[Callable[[Path], Iterator[Finding]], ...] = (python, packages, extras, gpu, processor, memory, caches, disk, plugins)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version.

    Examples
    --------
    >>> _numbers("1.11.2"), _numbers("2.0rc1")
    ((1, 11, 2), (2, 0))
    """
    found = []
    for part in version.split("."):
        digits = re.match(r"\d+", part)
        if digits is None:
            break
        found.append(int(digits[0]))
    return tuple(found)


def _there(place: Path) -> Path:
    """Return a folder, or the nearest one above it that exists."""
    return next((one for one in (place, *place.parents) if one.is_dir()), place)


def _can_write(place: Path) -> bool:
    try:
        tempfile.TemporaryFile(dir=_there(place)).close()
    except OSError:
        return False
    return True


def _size(place: Path) -> str:
    from gpu4d.sizes import format_bytes

    total = 0
    for one in place.rglob("*") if place.is_dir() else ():
        try:
            total += one.stat().st_size
        except OSError:  # another process has removed it
            continue
    return format_bytes(total)
