"""Find disks (CPU twin) in one pattern after the other, in compiled code without Python's lock.

The data of one pattern stay in the cache of a core. The steps for a pattern are: cast → transform along x → transform along y,
product with the template, its powers, and transform back along y, sixteen rows at a time → back along x → maxima → significance →
spacing → refinement and standard errors on the maps.
"""

import threading
import weakref
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from gpu4d.cpu_fallback.aligned import zeros
from gpu4d.cpu_fallback.lanes import LANES
from gpu4d.cpu_fallback.map_lanes import maps_with_slack
from gpu4d.cpu_fallback.maxima import maxima, significant, strongest
from gpu4d.cpu_fallback.pixels import by_address, read_pattern, zero_masked
from gpu4d.cpu_fallback.plane_transform import (
    LinePlan,
    TransformScratch,
    columns_forward,
    columns_inverse,
    half_rows,
    line_plan,
    long_primes_of,
    padded,
    panels_of,
    rows_forward,
    rows_inverse,
    transform_scratch,
)
from gpu4d.cpu_fallback.power import powered, product
from gpu4d.cpu_fallback.refine_disks import (
    EXACT,
    MODES,
    WHOLE_PIXEL,
    Moments,
    RefineScratch,
    SincTables,
    curvature,
    errors,
    moments_of,
    refine,
    refine_scratch,
    sinc_tables,
    window_samples,
)

from gpu4d import fft
from gpu4d.bragg.find_disks import LEAST_SHARE, USUAL_LIMITS, USUAL_REFINEMENT, Disks, fill_spectrum
from gpu4d.bragg.template_transforms import LARGEST_KEPT
from gpu4d.compiled import ALL, address, contiguous, entry, helper, part


class Search(NamedTuple):
    """Template, limits and refinement, in the form that the compiled code takes."""

    x: LinePlan
    y: LinePlan
    template: np.ndarray  # (2, panels, ny, 16) float32
    powers: np.ndarray  # (maps,) float32: 1 for the significance, then those of the hybrid and of the refined map, if they differ
    hybrid: int  # number of the map that maxima are found on
    refined: int  # number of the map that positions are refined on
    allowed: np.ndarray
    moments: Moments
    limits: np.ndarray  # significance, relative, absolute, spacing
    mode: int
    climb: bool
    with_errors: bool
    sinc_tables: SincTables


class Filling(NamedTuple):
    """Arrays for filling masked pixels from the pixels around them."""

    mask: np.ndarray  # (nx, ny) bool, True where the detector counts
    gauss: np.ndarray  # as Search.template
    weight: np.ndarray  # (nx, ny) float32: 1 over the Gaussian's share of valid pixels


class WorkArrays(NamedTuple):
    """Work arrays of one thread. They are reused, because the first use of new memory takes longer than the computation."""

    plane: np.ndarray  # (nx, stride) float32: a pattern
    columns: np.ndarray  # (2, rows, stride): its half spectrum along x
    spectra: np.ndarray  # (maps, 2, rows, stride): products, back along y
    maps: np.ndarray  # (maps, nx, stride)
    transform_scratch: TransformScratch
    at: np.ndarray  # (candidates, 2) int32
    height: np.ndarray
    bits: np.ndarray  # (stride / 16,) uint16: pixels of a row that are maxima
    refine_scratch: RefineScratch


def find_disks(
    patterns,
    spectrum,
    moments,
    allowed,
    /,
    *,
    mask=None,
    fill_width=0.0,
    refinement=USUAL_REFINEMENT,
    limits=USUAL_LIMITS,
):
    n, nx, ny = patterns.shape
    count = np.zeros(n, np.int64)
    table = np.full((n, 5, limits.max_peaks), np.nan)  # the fields of a pattern are neighbours, so that its slice is contiguous
    if n and min(nx, ny) > 2:  # else no pixel has eight neighbours
        power, refine_power = refinement.power, refinement.refine_power
        powers = list(dict.fromkeys([1.0, power, refine_power]))
        prepared = _prepared(spectrum, moments)
        search = Search(
            line_plan(nx),
            line_plan(ny),
            prepared.template,
            np.array(powers, np.float32),
            powers.index(power),
            powers.index(refine_power),
            contiguous(allowed),
            prepared.moments,
            np.array([limits.min_significance, limits.min_relative, limits.min_absolute, limits.min_spacing], np.float64),
            MODES[refinement.refine],
            refinement.climb,
            refine_power == 1.0,
            sinc_tables(nx, ny, refinement.refine, refinement.upsample),
        )
        _owner, pixels = by_address(patterns)
        filling = None
        if mask is not None:
            filling = prepared.arrays.filling_of(np.ascontiguousarray(mask, bool).tobytes(), fill_width, (nx, ny))
        work = _arrays_of_thread(search, prepared.arrays.of_thread)
        samples = window_samples(search.mode, refinement.upsample)
        _find(pixels, search, filling, long_primes_of(nx, ny), samples, work, count, table)
    return Disks(count, *(np.ascontiguousarray(table[:, field]) for field in range(5)))


class KeptArrays:
    """Work arrays of threads and fillings of masks, kept from call to call."""

    def __init__(self) -> None:
        self.of_thread = threading.local()
        self.filling_of = lru_cache(maxsize=2)(_make_filling)


class PreparedTemplate(NamedTuple):
    """A template in the form that the compiled code takes."""

    given: tuple[weakref.ref, weakref.ref]  # spectrum and moments
    template: np.ndarray
    moments: Moments
    arrays: KeptArrays  # of large patterns these are freed with the template: they take hundreds of MB


def _prepared(spectrum, moments) -> PreparedTemplate:
    """Return the prepared form of the template.

    If `spectrum` and `moments` are the same read-only arrays as in the previous call (usual in a sweep), the cached result is
    returned.
    """
    global _last_prepared
    given, last = (spectrum, moments), _last_prepared
    if last is not None and all(reference() is a and not a.flags.writeable for reference, a in zip(last.given, given)):
        return last
    shape = moments.shape[1:]
    arrays = _shared_arrays if shape[0] * shape[1] <= LARGEST_KEPT else KeptArrays()
    references = weakref.ref(spectrum, _forget), weakref.ref(moments, _forget)
    made = PreparedTemplate(references, panels_of(spectrum, shape), moments_of(_box(moments)), arrays)
    if all(a.flags.owndata and not a.flags.writeable for a in given):
        _last_prepared = made
    return made


def _forget(gone: weakref.ref) -> None:
    """Drop the cached template when one of its arrays is gone."""
    global _last_prepared
    last = _last_prepared
    if last is not None and any(reference is gone for reference in last.given):
        _last_prepared = None


def _arrays_of_thread(search: Search, of_thread: threading.local) -> WorkArrays:
    (nx, ny), maps = search.allowed.shape, len(search.powers)
    key = (nx, ny, maps, search.moments.weights.shape)
    if getattr(of_thread, "key", None) != key:
        of_thread.key = of_thread.work = None  # the old arrays must not pass for new ones if memory runs out below
        stride, rows, candidates = padded(ny), half_rows(nx), (nx * ny) // 4 + 1  # two maxima are never neighbours
        of_thread.work = WorkArrays(
            zeros(nx, stride),
            zeros(2, rows, stride),
            zeros(maps, 2, rows, stride),
            maps_with_slack(maps, nx, stride),
            transform_scratch(nx, ny),
            np.empty((candidates, 2), np.int32),
            np.empty(candidates, np.float32),
            np.empty(stride // LANES, np.uint16),
            refine_scratch(nx, ny, search.moments),
        )
        of_thread.key = key
    return of_thread.work


def _make_filling(mask: bytes, width: float, shape: tuple[int, int]) -> Filling:
    valid = np.frombuffer(mask, bool).reshape(shape)
    gauss = fill_spectrum(shape, width, valid.astype(np.float64))
    share = fft.irfft2(fft.rfft2(valid.astype(np.float64)) * gauss, shape)
    weight = np.where(share > LEAST_SHARE, 1 / np.maximum(share, LEAST_SHARE), 0.0)
    return Filling(valid.copy(), panels_of(gauss, shape), weight.astype(np.float32))


_shared_arrays = KeptArrays()
_last_prepared: PreparedTemplate | None = None


def _box(moments):
    """Return the window about the centre that holds all nonzero moments, (4, 2hx+1, 2hy+1).

    Row and column -n/2 are never in it.
    """
    nx, ny = moments.shape[1:]
    some = (moments != 0).any(0)
    rows, columns = np.flatnonzero(some.any(1)), np.flatnonzero(some.any(0))
    hx = min(int(np.minimum(rows, nx - rows).max(initial=0)), (nx - 1) // 2)
    hy = min(int(np.minimum(columns, ny - columns).max(initial=0)), (ny - 1) // 2)
    return moments[:, np.arange(-hx, hx + 1) % nx][:, :, np.arange(-hy, hy + 1) % ny]


@entry(ALL)
def _find(patterns, search, filling, long_primes, samples, work, count, table):
    """Find the disks of every pattern. What is None, of `filling`, `long_primes` and `samples`, is not compiled: it is rarely needed."""
    for i in range(count.size):
        good = read_pattern(patterns, i, work.plane, search.y.n)
        if filling is not None:
            good = zero_masked(work.plane, filling.mask)
            if good:
                _fill(search, filling, long_primes, work)
        count[i] = _disks(search, long_primes, samples, work, table[i]) if good else 0


@part
def _fill(search, filling, long_primes, work):
    """Fill masked pixels, which are 0 so far, with the weighted mean of the valid pixels around them."""
    correlate(search, work, filling.gauss, search.powers[:1], long_primes)
    near = work.maps[0]
    for i in range(filling.mask.shape[0]):
        for j in range(filling.mask.shape[1]):
            if not filling.mask[i, j]:
                work.plane[i, j] = near[i, j] * filling.weight[i, j]


@part
def _disks(search, long_primes, samples, work, row):
    """Find the disks of the pattern in work.plane, write them to the columns of `row`, and return their number."""
    correlate(search, work, search.template, search.powers, long_primes)
    x, ny, at, height = work.plane, search.y.n, work.at, work.height
    cross, refined, scratch = work.maps[0], work.maps[search.refined], work.refine_scratch
    found = maxima(work.maps[search.hybrid], search.allowed, at, height, work.bits)
    found = significant(x, ny, cross, search.moments, search.limits, at, height, found, scratch)
    kept = strongest(at, height, found, search.limits[3], row)
    for k in range(kept):
        refine(refined, ny, int(row[0, k]), int(row[1, k]), search.mode, samples, search.climb, search.sinc_tables, row, k, scratch)
        if search.with_errors:
            if search.mode != EXACT:
                curvature(cross, ny, row[0, k], row[1, k], search.sinc_tables, scratch)
            errors(x, ny, search.moments, search.mode == WHOLE_PIXEL, row, k, scratch)
    return kept


@helper(ALL)
def correlate(search, work, template, powers, long_primes):
    """Correlate the pattern with a template: one map for each power."""
    columns_forward(work.plane, search.x, long_primes, work.columns, work.transform_scratch)
    size = search.y.n * LANES
    scale = np.float32(1.0 / (search.x.n * search.y.n))
    panels = work.transform_scratch.panels
    zr, zi, mr, mi = panels[0, 0, :size], panels[0, 1, :size], panels[1, 0, :size], panels[1, 1, :size]
    for panel in range(template.shape[1]):
        rows_forward(work.columns, panel * LANES, search.y, long_primes, address(mr), address(mi), work.transform_scratch)
        product(mr, mi, template[0, panel].reshape(-1), template[1, panel].reshape(-1))
        for k in range(powers.size):
            powered(mr, mi, powers[k], scale, zr, zi)
            rows_inverse(address(zr), address(zi), search.y, long_primes, work.spectra[k], panel * LANES, work.transform_scratch)
    for k in range(powers.size):
        columns_inverse(work.spectra[k], search.x, long_primes, work.maps[k], work.transform_scratch)
