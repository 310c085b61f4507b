"""Find the Bragg disks of a scan: `find_bragg_disks`, and the reduction `BraggDisks` that it feeds."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from gpu4d import arrays
from gpu4d.arrays import Array, ArrayLike, DType
from gpu4d.bragg.disk_lists import HELD, DiskTables, in_scan_order, lists_of
from gpu4d.bragg.disk_search import DiskSearch, SearchOptions
from gpu4d.bragg.find_disks import PeakLimits, Refinement
from gpu4d.bragg.hybrid_correlation import check_patterns
from gpu4d.bragg.likelihood.choose_parameters import choose_for_scan
from gpu4d.bragg.likelihood.fit import USUAL_PARAMETERS
from gpu4d.bragg.likelihood.joint_fit import equations_bytes
from gpu4d.bragg.likelihood.poisson_fit import STEPS, disk_profile
from gpu4d.data import DataCube, PointListArray
from gpu4d.data.arguments import real_values
from gpu4d.data.events import Events
from gpu4d.errors import InputError, did_you_mean
from gpu4d.on_host import on_host
from gpu4d.probe.template_kernel import TemplateLike, as_template
from gpu4d.real_arrays import real_array, real_number
from gpu4d.streaming import ScanInfo, sweep
from gpu4d.streaming.engine import SweepOptions
from gpu4d.streaming.reduction import State

log = logging.getLogger("gpu4d")

USUAL_PEAKS = 30  # disks of a pattern, for the memory plan: few scans have more
REFINEMENTS = ("auto", "correlation", "likelihood", "upsample", "parabola", None)
NOT_LOOKED = "no pattern of the scan has been looked at"
SPACING = 1.5  # default spacing, radii of the template: disks that overlap by a quarter of their width are still found as two


class BraggDisks:
    """Reduction: Bragg disks of every pattern.

    Parameters
    ----------
    template, power, refine, … :
        As in `find_bragg_disks`. The attribute `refinement` is the method that "auto" has chosen, and `reason` says why.
    parameters : {"auto", 4, 6, 8}
        "auto" is 6 until `choose` has examined the scan. The attribute `parameters` is the number, and `parameters_reason` says why.
        Every call of `choose` decides anew. To search a scan in several calls, use one number for all (see `find_bragg_disks`).
    expected_peaks : float, optional
        Disks that a pattern is expected to have, for the memory plan. Default: 30, or `max_peaks` if that is smaller.

    Notes
    -----
    The result is a `PointListArray` of shape (Rx, Ry) with fields qx, qy, intensity, sx, sy. Positions that are not visited have no
    points. Patterns that are empty or have a NaN have none either.

    The template is prepared once, by `choose` or at the start of the sweep. On a GPU the tables of several updates stay on the device,
    and the lists are made from them at the end. So an update does not wait for the GPU.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> cube = gpu4d.DataCube(np.stack([np.zeros((48, 48)), 900 * probe])[None])
    >>> gpu4d.sweep(cube, gpu4d.BraggDisks(probe)).counts.tolist()
    [[0, 1]]
    """

    def __init__(
        self,
        template: TemplateLike,
        *,
        power: float = 0.85,
        refine: str | None = "auto",
        refine_power: float = 1.0,
        upsample: int = 16,
        parameters: int | str = "auto",
        min_significance: float = 5.0,
        min_relative_intensity: float = 0.0,
        min_absolute_intensity: float = 0.0,
        min_spacing: float | None = None,
        edge: float | None = None,
        max_peaks: int = 70,
        expected_peaks: float | None = None,
    ):
        self.template = as_template(template)
        _check(power, refine, refine_power, upsample, max_peaks)
        _check_limits(
            min_significance=min_significance,
            min_relative_intensity=min_relative_intensity,
            min_absolute_intensity=min_absolute_intensity,
            min_spacing=min_spacing,
            edge=edge,
        )
        radius = self.template.radius
        self.limits = PeakLimits(
            edge=max(1, math.ceil(radius if edge is None else edge)),
            min_spacing=SPACING * radius if min_spacing is None else min_spacing,
            min_significance=min_significance,
            min_relative=min_relative_intensity,
            min_absolute=min_absolute_intensity,
            max_peaks=max_peaks,
        )
        self.expected_peaks = min(max_peaks, USUAL_PEAKS) if expected_peaks is None else float(expected_peaks)
        if parameters not in ("auto", *STEPS):
            fits = "4 (position, amplitude, background), 6 (+ its slopes) or 8 (+ slopes inside)"
            raise InputError(f"parameters={parameters!r}: need 'auto', {fits}")
        self.asked_parameters = parameters
        self.parameters = USUAL_PARAMETERS if parameters == "auto" else int(parameters)
        self.parameters_reason = NOT_LOOKED if parameters == "auto" else "asked for"
        self.asked = self.refinement = refine
        self.reason = "asked for"
        self.how = Refinement(refine, power, refine_power, upsample)
        self.search: DiskSearch | None = None
        self._for_counts = False
        if refine == "likelihood":
            disk_profile(self.template)  # a probe that cannot be fitted is an error here, not in the middle of a sweep

    def prepare(self, dtype: DType, detector_mask: np.ndarray | None = None) -> DiskSearch:
        """Prepare the search for patterns of a dtype, unless it is prepared for such patterns already.

        Afterwards `refinement` is the method that refine="auto" has chosen, and `reason` says why. The log has both.

        Parameters
        ----------
        dtype : dtype
        detector_mask : (Qx, Qy) bool, optional

        Returns
        -------
        DiskSearch
        """
        counts = arrays.is_integer_dtype(dtype)
        if self.search is None or self._for_counts != counts or not self.search.masks(detector_mask):
            before, shape = self.refinement, self.template.shape
            self.search = DiskSearch.prepare(self.template, shape, dtype, detector_mask, self.limits, self.how, self.parameters)
            self._for_counts = counts
            self.refinement, self.reason = self.search.refinement, self.search.reason
            if self.asked == "auto" and self.refinement != before:
                log.info("refine='auto' is %r: %s", self.refinement, self.reason)
        return self.search

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what `start` makes, and prepared arrays: twins cache results by their identity, so each process prepares its own."""
        return {name: held for name, held in self.__dict__.items() if name not in ("scan", "found")} | {"search": None}

    def choose(self, cube: DataCube, where: ArrayLike | None = None, memory: int | float | str | None = None) -> BraggDisks:
        """Choose the number of fit parameters of a scan if parameters="auto", and log it.

        Reads at most 64 patterns, evenly spread over the scan. If one pattern is larger than 512 KiB, reads at most 32 MiB in total.
        Of a scan with fewer than 256 patterns, reads at most a quarter. Always reads at least 16. The patterns are examined on the
        host, so the choice does not depend on chunks, memory or devices. There is one exception. If `memory` cannot hold the patterns
        and the work of one thread, nothing is read. The choice is then 6, and the reason says so.

        `find_bragg_disks` calls this method. For a sweep of several reductions write

            gpu4d.sweep(cube, {"disks": gpu4d.BraggDisks(template).choose(cube), ...})

        Parameters
        ----------
        cube : DataCube
        where : (Rx, Ry) bool, optional
            As for the sweep.
        memory : int, float or str, optional
            As for the sweep: the most that this call may allocate.

        Returns
        -------
        BraggDisks
            This object, with `parameters` and `parameters_reason` set. It is unchanged if you gave a number of parameters, or if no
            likelihood is fitted.
        """
        if self.asked_parameters != "auto":
            return self
        self._check_shape(cube.detector_shape)
        self.parameters, self.parameters_reason = USUAL_PARAMETERS, NOT_LOOKED
        self.search = None if self.search is None else self.search.with_parameters(USUAL_PARAMETERS)
        search = self.prepare(cube.dtype, cube.detector_mask)
        if search.fit is not None:
            choice = choose_for_scan(cube, search, where, memory)
            self.parameters, self.parameters_reason = choice
            self.search = search.with_parameters(choice.parameters)
            log.info("parameters='auto' is %d: %s", *choice)
        return self

    def at(self, cube: DataCube, positions: Sequence[tuple[int, int]] | np.ndarray) -> PointListArray:
        """Find the disks at a few positions of a cube.

        Parameters
        ----------
        cube : DataCube
        positions : sequence of (rx, ry), or (n, 2) int array

        Returns
        -------
        PointListArray
            Of shape (len(positions),).
        """
        self._check_shape(cube.detector_shape)
        return self._of_patterns(_pick(cube, positions), cube.detector_mask)

    def _of_patterns(self, patterns: Any, detector_mask: np.ndarray | None) -> PointListArray:
        """Find the disks of patterns (..., Qx, Qy)."""
        shape = tuple(patterns.shape[:-2])
        flat = arrays.namespace(patterns).reshape(patterns, (-1, *patterns.shape[-2:]))
        return lists_of(self.prepare(patterns.dtype, detector_mask).in_threads(flat), shape or (1,))

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Raise InputError if patterns of this shape do not fit the template."""
        if tuple(shape) != self.template.shape:
            check_patterns(np.empty((0, *shape)), self.template, self.how.power)

    def bytes_needed(self, scan: ScanInfo, n_frames: int) -> int:
        lists = self.list_bytes(scan.shape[:2], self.expected_peaks)
        tables = DiskTables.bytes_needed(scan, n_frames, self.limits.max_peaks)
        return lists + tables + self._fit_bytes(scan) + 400 * scan.shape[2] * scan.shape[3]  # spectra and maps

    def _fit_bytes(self, scan: ScanInfo) -> int:
        """Return the bytes that the fit of a group of disks works with. On the host they follow from the disks that there are."""
        if self.refinement not in ("auto", "likelihood"):
            return 0
        most = min(self.limits.max_peaks, math.ceil(2 * self.expected_peaks)) if scan.on_host else self.limits.max_peaks
        return equations_bytes((scan.shape[2], scan.shape[3]), most, math.ceil(self.template.radius), self.parameters)

    @staticmethod
    def list_bytes(scan_shape: tuple[int, int], peaks: float) -> int:
        """Return the bytes of the lists of a scan at the end of a sweep: once in tiles, once in scan order."""
        point = sum(np.dtype(kind).itemsize for kind in HELD.values())
        return int(2 * scan_shape[0] * scan_shape[1] * peaks * point)

    def passes(self, scan: ScanInfo, budget: int) -> int:
        return 1

    def start(self, scan: ScanInfo, device: str, pass_: int = 0) -> None:
        self._check_shape(scan.shape[2:])
        search = self.prepare(scan.dtype, scan.detector_mask)
        if search.fit is not None and self.asked_parameters == "auto" and self.parameters_reason == NOT_LOOKED:
            log.info("parameters='auto' is %d: %s (BraggDisks.choose does)", self.parameters, NOT_LOOKED)
        self.scan = scan
        self.found = DiskTables(search)

    def in_tiles(self) -> bool:
        return False  # each pattern is searched alone, so its place in a tile does not matter

    def update(self, frames: Array, positions: np.ndarray) -> None:
        self.found.put(positions[:, 0] * self.scan.shape[1] + positions[:, 1], frames)

    def takes_events(self, scan: ScanInfo) -> bool:
        """Say that it does: some patterns at a time are made of their events, and searched."""
        return True

    def update_events(self, events: Events, positions: np.ndarray) -> None:
        self.found.put_events(positions[:, 0] * self.scan.shape[1] + positions[:, 1], events, self.scan.dtype)

    def state(self) -> State:
        return {"found": self.found.on_host()}

    def restore(self, state: State) -> None:
        self.found.replace(state["found"])

    def merge(self, state: State) -> None:
        self.found.add(state["found"])

    def finish(self) -> PointListArray:
        return in_scan_order(list(self.found.lists().values()), self.scan.shape[:2])


@on_host("sample")
def find_bragg_disks(
    cube_or_patterns: DataCube | Array,
    template: TemplateLike,
    power: float = 0.85,
    refine: str | None = "auto",
    refine_power: float = 1.0,
    upsample: int = 16,
    min_significance: float = 5.0,
    min_relative_intensity: float = 0.0,
    min_absolute_intensity: float = 0.0,
    min_spacing: float | None = None,
    edge: float | None = None,
    max_peaks: int = 70,
    positions: Sequence[tuple[int, int]] | None = None,
    parameters: int | str = "auto",
    **options: Unpack[SweepOptions],
) -> PointListArray:
    """Find Bragg disks and their positions to a fraction of a pixel.

    Candidates are the maxima of the hybrid correlation with the template, compared with their eight neighbours. They must pass, in
    this order: edge, absolute threshold, relative threshold, significance, spacing (strongest first), and count. Then positions are
    refined on the n = 1 map of the same spectrum. This map locates disks better than the hybrid map does.

    Parameters
    ----------
    cube_or_patterns : DataCube or (..., Qx, Qy) array
    template : Template or (Qx, Qy) array
        `gpu4d.probe.template(...)`. An array is taken as a vacuum probe and gets the sigmoid trench, or its
        own disk as trench if it is patterned.
    power : float
        n of the hybrid map on which maxima are found, 0 … 1.
    refine : {"auto", "correlation", "likelihood", "upsample", "parabola", None}
        Method that refines positions.

        * "correlation": exact maximum of the trigonometric interpolation.
        * "likelihood": Poisson fit, started at the position of "correlation". It needs counts, and is 1.2 to 5 times as precise. A
          disk without neighbours is fitted alone (`gpu4d.bragg.likelihood.poisson_fit`). Disks whose windows overlap (nearer than
          about 2 R + 7 px) are fitted together (`joint_fit`), so that they do not shift each other. Disks that brighter ones hide are
          found when these are subtracted (`hidden_disks`). They come last in a list. A disk whose amplitude is below
          `min_significance` in this fit is left out. Disks that were fitted together have the intensity that each would have alone. A
          disk near the border, and one whose fit fails, keeps the correlation. Both methods have the same zero point: their difference
          on the probe itself is subtracted from fitted positions.
        * "upsample": samples at 1 / `upsample` px and a parabola, as in other programs.
        * "parabola": maximum of a parabola through the neighbouring pixels.
        * None: whole pixels.
        * "auto": "likelihood" if patterns have an integer dtype and the template comes from a suitable vacuum image, else
          "correlation". An image is suitable if it determines the shape of the probe between the pixels to 0.01 px,
          or that of a patterned probe to 0.02 px. A round and even
          probe gets a radial profile, any other a grid profile. The log has the choice and the reason.
    refine_power : float
        n of the map on which positions are refined.
    upsample : int
        Samples per pixel of refine="upsample".
    min_significance : float
        Least Poisson significance z = C₁ / √(I ⋆ K²), with C₁ the n = 1 map, K the template, I the counts. 5 finds all disks and no
        noise at any dose. It needs data in counts. Scale other data to counts, or set it to 0.
    min_relative_intensity, min_absolute_intensity : float
        Least height of the hybrid map, relative to the strongest maximum of the pattern, and absolute.
    min_spacing : float, optional
        Least distance of two disks, pixels. Default: 1.5 radii of the template.
    edge : float, optional
        Maxima nearer to the border than this are left out, pixels. Default: the template's radius.
    max_peaks : int
        Most disks of a pattern. The strongest are kept.
    positions : sequence of (rx, ry), optional
        Search only these positions of a cube, to try settings. The result then has shape (len(positions),).
    parameters : {"auto", 4, 6, 8}
        Free parameters of each disk, for refine="likelihood".

        * 4: flat background, evenly filled disk.
        * 6: sloping background, evenly filled disk.
        * 8: sloping background, and intensity that slopes inside the disk. It costs a fifth of the precision.
        * "auto": the number with the least squared error of the positions, or 6 in doubt. It is chosen from up to 64 patterns, spread
          over the scan (`gpu4d.bragg.likelihood.choose_parameters`). The log has the number and the reason.

        Every call with "auto" chooses anew, from the cube or array that it gets. So parts of one scan may get different numbers. If you
        split a scan into several calls, choose once, `n = gpu4d.BraggDisks(template).choose(cube).parameters`, and pass `parameters=n`
        to each.
    **options
        Options of `gpu4d.sweep`, for a cube: memory, where, progress, device.

    Returns
    -------
    PointListArray
        Has the shape of the scan, or of the leading axes. A pattern that is empty or has a NaN has no points. The fields are:

        * qx, qy: position, px.
        * intensity: height of the map on which positions are refined, counts per pixel for refine_power=1.
        * sx, sy: standard error of the position from the counts, px. For another refine_power only the likelihood gives it, and it is
          NaN elsewhere.

    Raises
    ------
    InputError
        Template and patterns differ in size, or a parameter is out of range.
    TypeError
        An option has a name that neither the search nor `gpu4d.sweep` knows.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> pattern = 100 * gpu4d.probe.synthetic((48, 48), 4.0, center=(20.3, 30.6))
    >>> disks = gpu4d.find_bragg_disks(pattern[None], probe)
    >>> [(round(float(d.qx[0]), 1), round(float(d.qy[0]), 1)) for d in disks]
    [(20.3, 30.6)]
    """
    reduction = BraggDisks(
        template,
        power=power,
        refine=refine,
        refine_power=refine_power,
        upsample=upsample,
        min_significance=min_significance,
        min_relative_intensity=min_relative_intensity,
        min_absolute_intensity=min_absolute_intensity,
        min_spacing=min_spacing,
        edge=edge,
        max_peaks=max_peaks,
        parameters=parameters,
    )
    _check_names(options)
    if isinstance(cube_or_patterns, DataCube):
        reduction.choose(cube_or_patterns, options.get("where"), options.get("memory"))
        return sweep(cube_or_patterns, reduction, **options) if positions is None else reduction.at(cube_or_patterns, positions)
    cube_or_patterns = real_array(cube_or_patterns, "patterns", "a DataCube or an array (..., Qx, Qy)")
    if positions is not None:
        raise InputError("positions= chooses patterns of a DataCube, and patterns is an array: leave it out, and index the array")
    check_patterns(cube_or_patterns, reduction.template, power)
    shape = tuple(cube_or_patterns.shape[:-2])
    if math.prod(shape) > 0 and reduction.asked_parameters == "auto" and reduction.prepare(cube_or_patterns.dtype).fit is not None:
        scan = (*(shape if len(shape) == 2 else (1, math.prod(shape))), *cube_or_patterns.shape[-2:])
        reduction.choose(DataCube(arrays.namespace(cube_or_patterns).reshape(cube_or_patterns, scan)))
    return reduction._of_patterns(cube_or_patterns, None)


def _check_names(options: Mapping[str, object]) -> None:
    """Raise TypeError, as Python does, for an option that neither the search nor a sweep has."""
    for name in options:
        if name not in SweepOptions.__optional_keys__:
            known = SearchOptions.__optional_keys__ | SweepOptions.__optional_keys__
            raise TypeError(f"find_bragg_disks() got an unexpected keyword argument {name!r}{did_you_mean(name, sorted(known))}")


def _pick(cube: DataCube, positions: Sequence[tuple[int, int]] | np.ndarray) -> Any:
    """Return the patterns at some positions (n, Qx, Qy), in the memory of the cube."""
    places = real_values(positions, "positions", "(n, 2) whole numbers, (rx, ry)")
    if places.size and (places.ndim != 2 or places.shape[1] != 2 or not (np.floor(places) == places).all()):
        raise InputError(f"positions are {places.shape} {places.dtype}: need (n, 2) whole numbers, (rx, ry)")
    outside = places.size and not ((-np.array(cube.scan_shape) <= places) & (places < cube.scan_shape)).all()
    if outside:
        raise InputError(f"positions run from {places.min():g} to {places.max():g}, the scan is {cube.scan_shape}: need positions inside")
    frames = [cube[int(rx), int(ry)].data for rx, ry in (places if places.size else ())]
    return arrays.namespace(*frames).stack(frames) if frames else np.empty((0, *cube.detector_shape), dtype=np.float32)


def _check(power: float, refine: str | None, refine_power: float, upsample: int, max_peaks: int) -> None:
    """Raise InputError if a setting of the search is not accepted."""
    for name, value in (("power", power), ("refine_power", refine_power)):
        if not 0.0 <= real_number(value, name) <= 1.0:
            raise InputError(f"{name}={value}: need a number from 0 (phase correlation) to 1 (cross correlation)")
    if refine not in REFINEMENTS:
        raise InputError(f"refine={refine!r}: need one of {', '.join(map(repr, REFINEMENTS))}")
    if not (isinstance(upsample, int | np.integer) and upsample >= 2):
        raise InputError(f"upsample={upsample!r}: need a whole number of samples per pixel, at least 2")
    if not (isinstance(max_peaks, int | np.integer) and max_peaks >= 1):
        raise InputError(f"max_peaks={max_peaks!r}: need a whole number, at least 1")


def _check_limits(**limits: float | None) -> None:
    """Raise InputError if a limit is NaN or negative, or the edge is infinite."""
    for name, value in limits.items():
        if value is not None and not real_number(value, name) >= 0:
            raise InputError(f"{name}={value}: need a number from 0 on; leave it out for the default")
    if (edge := limits["edge"]) is not None and not abs(edge) < np.inf:
        raise InputError(f"edge={edge}: need a number of pixels")
