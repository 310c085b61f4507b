"""Open files of rare formats with RosettaSciIO, a library of its own licence, which is imported only when such a file is opened.

All other formats are asked before. It knows a file by its ending. What it reads lazily is read in blocks, when patterns are needed;
one is read at once, to see that it works.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from gpu4d.data.calibration import Calibration
from gpu4d.data.source import ArraySource, Source
from gpu4d.errors import Gpu4dError, InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import Step, finite, set_field, set_steps, stem
from gpu4d.io.sources.computed import ComputedSource
from gpu4d.io.sources.layout import ReshapedScan, check_scan_shape, decide_scan_shape
from gpu4d.io.units import log

LIBRARY, DISTRIBUTION = "rsciio", "rosettasciio"
INSTALL = "pip install 'gpu4d[formats]'"
# Endings that only this library reads: what the message is about where it is not installed. With it, its own list counts.
ENDINGS = (
    "asw", "bcf", "dens", "eds", "elid", "img", "lsd", "map", "mrcz", "msa", "prz", "pts", "rpl", "sbc", "sac", "spc", "spd", "spx",
    "sur", "tif", "tiff", "tvf", "unf", "wdf",
)  # fmt: skip
NEVER = {  # its readers that are not asked: why
    "netCDF": "it runs texts of the file as a program",
    "Image": "a picture is no scan",
}
OF_HDF5 = ("h5", "hdf5", "emd", "hspy", "nxs", "app5", "npy", "de5")  # containers that gpu4d recognises by content
DEEPEST = 16  # dictionaries of metadata inside each other
HOW = "RosettaSciIO"


class RosettaSciIO(Format):
    """What RosettaSciIO reads, and no other format here."""

    name: ClassVar = "rosettasciio"
    accepts: ClassVar = f"further files of RosettaSciIO ({INSTALL})"
    facts: ClassVar = Facts(
        endings=(".prz", ".rpl", ".tif", ".mrcz", ".bcf", ".dens"),
        reading="blocks, when they are needed, where the library reads lazily; else as a whole",
        covers="scans of two or one scan axes and two detector axes, by the ending of the name, after all formats above have refused. "
        "Spectra and single images are not scans. netCDF is not asked for: reading it may run a program in the file",
        tried_on="a Ripple file made from its description, and a file that the library wrote for Panta Rhei",
        library="RosettaSciIO",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        ending = _ending(path)
        if not head or not ending or _of_another(ending):
            return False
        return ending in ENDINGS if _library() is None else bool(_readers(path))

    def open(self, path: str, options: OpenOptions) -> Opened:
        if _library() is None:
            ending = shown(_ending(path))
            raise InputError(f"{shown(path)}: files ending in .{ending} are read by RosettaSciIO, which is not installed: {INSTALL}")
        signal = _choose(path, [_Signal.of(path, held) for held in _read(path, True)], options)
        source = _source(path, signal, options)
        try:
            source.read(slice(0, 1), slice(0, 1))
        except InputError as error:  # some of its readers fail only now, where reading everything at once works
            log.warning("%s: %s; it is read as a whole", shown(path), error)
            signal = _choose(path, [_Signal.of(path, held) for held in _read(path, False)], options)
            source = _source(path, signal, options)
        calibration = Calibration()
        beam = _under(signal.metadata, "Acquisition_instrument", "TEM")
        kilovolts = finite(beam.get("beam_energy"))
        set_field(calibration, HOW, energy=kilovolts and kilovolts * 1e3, semiangle=finite(beam.get("convergence_angle")))
        set_steps(
            calibration, HOW, signal.steps[:-2] if len(signal.steps) == 4 else [], signal.steps[-2:], calibration.energy or options.energy
        )
        title = _under(signal.metadata, "General").get("title")
        metadata = {"metadata": signal.metadata, "original_metadata": signal.original}
        return Opened(source, calibration, metadata, title if isinstance(title, str) and title else stem(path))


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lstrip(".").lower()


def _library() -> ModuleType | None:
    """Return the library, or None if it is not installed. Its own readers are imported later, one by one."""
    try:
        if importlib.util.find_spec(LIBRARY) is None:
            return None
        return importlib.import_module(LIBRARY)
    except (ImportError, ValueError):
        return None


def _of_another(ending: str) -> bool:
    """Say whether files with an ending are those of another format: one is damaged then, or not what its name says."""
    from gpu4d.io.formats import known_formats

    facts = [known.facts for known in known_formats() if known.facts and known.facts.library is None]
    return ending in OF_HDF5 or ending in {e.rpartition(".")[2] for each in facts for e in each.endings}


def _readers(path: str) -> list[Mapping[str, Any]]:
    """Return the library's descriptions of its readers for the ending of a file."""
    ending, plugins = _ending(path), getattr(_library(), "IO_PLUGINS", [])
    return [p for p in plugins if ending in [e.lower() for e in p["file_extensions"]] and p["name"] not in NEVER]


def _read(path: str, lazy: bool) -> list[Mapping[str, Any]]:
    """Return what the library makes of a file: a dictionary for each signal in it. Its readers are tried one after the other."""
    why: list[str] = []
    for plugin in _readers(path):
        try:
            read = importlib.import_module(plugin["api"]).file_reader
            lazily = {"lazy": lazy} if "lazy" in inspect.signature(read).parameters else {}
            return list(read(path, **lazily))
        except (Gpu4dError, MemoryError):
            raise
        except Exception as error:  # what another library raises for a damaged file may be anything
            why.append(f"{plugin['name']}: {reason(error)}")
    listed = "; ".join(why) or "it has no reader for this ending"
    raise InputError(f"{shown(path)}: RosettaSciIO cannot read it ({listed}): it is damaged, or of another kind than its ending says")


class _Signal:
    """One signal of a file, its axes in the order scan, detector.

    Attributes
    ----------
    array : array of NumPy or dask
    steps : list of (size, units)
        Of its axes.
    scan, detector : int
        Number of axes of each kind.
    """

    def __init__(self, array: Any, steps: list[Step], scan: int, detector: int, metadata: dict[str, Any], original: dict[str, Any]):
        self.array, self.steps, self.scan, self.detector = array, steps, scan, detector
        self.metadata, self.original = metadata, original

    @classmethod
    def of(cls, path: str, held: Mapping[str, Any]) -> _Signal:
        try:
            array, axes = held["data"], list(held["axes"])
            axes.sort(key=lambda axis: axis.get("index_in_array") or 0)  # equal if they are not numbered: their order stays
            if len(axes) != len(array.shape):
                raise ValueError(f"{len(axes)} axes for an array of {len(array.shape)}")
            navigating = [bool(axis.get("navigate", n < len(axes) - 2)) for n, axis in enumerate(axes)]  # what is not said: scan first
            order = [i for i, on in enumerate(navigating) if on] + [i for i, on in enumerate(navigating) if not on]
            steps: list[Step] = [(axes[i].get("scale"), str(axes[i].get("units") or "")) for i in order]
            meta = [_plain(held.get(key) or {}) for key in ("metadata", "original_metadata")]
            return cls(array.transpose(order), steps, sum(navigating), len(axes) - sum(navigating), meta[0], meta[1])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{shown(path)}: RosettaSciIO describes it in a way that is not known here ({reason(error)})") from error

    @property
    def words(self) -> str:
        return f"{'×'.join(str(n) for n in self.array.shape)}, {self.scan} scan and {self.detector} other axes"


def _choose(path: str, signals: list[_Signal], options: OpenOptions) -> _Signal:
    """Return the signal that is named by its number, or the only one that can be a scan."""
    listed = "; ".join(f"{n}: {signal.words}" for n, signal in enumerate(signals)) or "none"
    if options.dataset is not None:
        if not (options.dataset.isdigit() and int(options.dataset) < len(signals)):
            raise InputError(f"{shown(path)}: no signal {shown(options.dataset)!r}; signals are numbered: {shown(listed)}")
        signals = [signals[int(options.dataset)]]
    scans = [signal for signal in signals if signal.detector == 2 and signal.scan in (1, 2)]
    if not scans:
        raise InputError(
            f"{shown(path)}: no scan in it (signals are {shown(listed)}); a scan has two or one scan axes and two detector axes"
        )
    best = [signal for signal in scans if signal.scan == max(s.scan for s in scans)]
    if len(best) > 1:
        raise InputError(f"{shown(path)}: several scans ({shown(listed)}): choose one with --dataset NUMBER or dataset='NUMBER'")
    return best[0]


def _source(path: str, signal: _Signal, options: OpenOptions) -> Source:
    array = signal.array
    frames = int(np.prod(array.shape[:-2], dtype=np.int64))
    if signal.scan == 1:
        array = array.reshape((1, *array.shape))
    lazy = hasattr(array, "compute")
    source: Source = ComputedSource(array, path, "read by RosettaSciIO, in blocks") if lazy else ArraySource(array)
    if signal.scan == 1:
        scan = decide_scan_shape(options.scan_shape, None, frames, shown(path))
    else:
        scan = source.shape[:2] if options.scan_shape is None else check_scan_shape(options.scan_shape, frames, shown(path))
    return source if scan == source.shape[:2] else ReshapedScan(source, scan)


def _under(tree: Any, *names: str) -> dict[str, Any]:
    for name in names:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _plain(value: Any, depth: int = 0) -> Any:
    """Return metadata as Python's own types; other objects as their text."""
    if isinstance(value, np.generic):
        return _plain(value.item(), depth)
    if isinstance(value, bool | int | float | str | np.ndarray) or value is None:
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if depth > DEEPEST:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(held, depth + 1) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(held, depth + 1) for held in value]
    return str(value)
