"""Prepare a disk search once, then call it on frames: correlation, limits of the maxima, likelihood fit."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypedDict

import numpy as np

from gpu4d import arrays, fft
from gpu4d.bragg.find_disks import USUAL_REFINEMENT, Disks, PeakLimits, Refinement, find_disks
from gpu4d.bragg.hybrid_correlation import check_patterns
from gpu4d.bragg.likelihood.fit import USUAL_PARAMETERS, Fit
from gpu4d.bragg.likelihood.separate_disks import Separated
from gpu4d.bragg.template_transforms import template_transforms
from gpu4d.device import tables
from gpu4d.device.choose import cpu_threads
from gpu4d.device.threads import in_threads
from gpu4d.errors import InputError
from gpu4d.probe.template_kernel import Template

BATCH = 32  # patterns that the definition takes at once; it bounds the memory of arrays without a twin
LEAST_PATTERNS = 32  # patterns of an array for each thread: with fewer, starting the thread costs more than it saves
AUTOMATIC = Refinement("auto")
COVERED = 0.5  # part of a disk that must lie on valid pixels, for its maximum to count


class SearchOptions(TypedDict, total=False):
    """Keyword arguments of `find_bragg_disks` that set the search, for functions that pass them on."""

    power: float
    refine: str | None
    refine_power: float
    upsample: int
    parameters: int | str
    min_significance: float
    min_relative_intensity: float
    min_absolute_intensity: float
    min_spacing: float | None
    edge: float | None
    max_peaks: int


@dataclass(frozen=True)
class Correlation:
    """Arguments of `find_disks` beside patterns and limits. The arrays are on the host and must not be changed.

    Attributes
    ----------
    spectrum, moments
        From `template_transforms`.
    allowed : (Qx, Qy) bool
        Where a maximum may lie.
    mask : (Qx, Qy) bool or None
        True where the detector counts.
    fill_width : float
        Width over which masked pixels are filled, pixels.
    refinement : Refinement
        As in `find_disks`.
    """

    spectrum: np.ndarray
    moments: np.ndarray
    allowed: np.ndarray
    mask: np.ndarray | None
    fill_width: float
    refinement: Refinement = USUAL_REFINEMENT

    @classmethod
    def prepare(
        cls, template: Template, edge: int, mask: np.ndarray | None = None, refinement: Refinement = USUAL_REFINEMENT
    ) -> Correlation:
        """Transform the template, and mark where maxima may lie: away from the border and over valid pixels.

        Parameters
        ----------
        template : Template
        edge : int
            Pixels.
        mask : (Qx, Qy) bool, optional
        refinement : Refinement
        """
        allowed = _inside(template.shape, edge)
        if mask is not None:
            mask = mask.copy()  # the caller may change the array later, and copies on a device would not change with it
            disk = np.where(template.kernel > template.kernel.max() / 2, 1.0, 0.0)
            covered = fft.irfft2(fft.rfft2(mask.astype(float)) * np.conj(fft.rfft2(disk)), template.shape) / disk.sum()
            allowed = allowed & (covered > COVERED)
        return cls(*template_transforms(template), allowed, mask, template.radius, refinement)

    @property
    def operands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the arrays that `find_disks` takes after the patterns."""
        return self.spectrum, self.moments, self.allowed


class Found(NamedTuple):
    """Padded tables of the disks of some patterns: from the correlation, and from the likelihood if it is fitted."""

    disks: Disks
    fit: Separated | None


@dataclass(frozen=True)
class DiskSearch:
    """A search that is ready for frames. Make it by `prepare` and call it on frames.

    Attributes
    ----------
    correlation : Correlation
    limits : PeakLimits
    fit : Fit or None
        None if positions come from the correlation.
    refinement : str or None
        As `refine` of `find_bragg_disks`, but never "auto": the method that was chosen.
    reason : str
        Reason of this choice.

    Examples
    --------
    >>> import numpy as np, gpu4d
    >>> probe = gpu4d.probe.synthetic((48, 48), 4.0)
    >>> search = DiskSearch.prepare(gpu4d.probe.template(probe), (48, 48), "float64", None, PeakLimits(edge=4, max_peaks=5))
    >>> disks = search(900 * probe[None])
    >>> disks.count.tolist(), round(float(disks.qx[0, 0]), 2), search.refinement
    ([1], 24.0, 'correlation')
    """

    correlation: Correlation
    limits: PeakLimits
    fit: Fit | None
    refinement: str | None
    reason: str
    template: Template

    @classmethod
    def prepare(
        cls,
        template: Template,
        shape: tuple[int, int],
        dtype: Any,
        mask: np.ndarray | None,
        limits: PeakLimits,
        refinement: Refinement = AUTOMATIC,
        parameters: int = USUAL_PARAMETERS,
    ) -> DiskSearch:
        """Prepare a search for patterns of a shape and dtype.

        Parameters
        ----------
        template : Template
        shape : (Qx, Qy)
            Shape of the patterns, which must be that of the template.
        dtype : dtype
            Dtype of the patterns. refine="auto" fits the likelihood only if it is an integer dtype, because others may be no counts.
        mask : (Qx, Qy) bool or None
            True where the detector counts.
        limits : PeakLimits
        refinement : Refinement
            Its `refine` may also be "auto" or "likelihood".
        parameters : {4, 6, 8}
            Free parameters of the likelihood fit.

        Raises
        ------
        InputError
            The shapes differ, or refine="likelihood" is given with a probe that cannot be fitted.
        """
        if tuple(shape) != template.shape:
            check_patterns(np.empty((0, *shape)), template, refinement.power)
        asked = became = refinement.refine
        fit, reason = None, "asked for"
        if asked == "likelihood":
            fit = Fit.prepare(template, parameters)
        elif asked == "auto":
            fit, reason = _automatic(template, dtype, refinement.refine_power, parameters)
            became = "correlation" if fit is None else "likelihood"
        first = "correlation" if asked in ("auto", "likelihood") else asked
        correlation = Correlation.prepare(template, limits.edge, mask, replace(refinement, refine=first))
        return cls(correlation, limits, fit, became, reason, template)

    def with_parameters(self, parameters: int) -> DiskSearch:
        """Return the same search with another number of free parameters in its fit."""
        if self.fit is None or self.fit.parameters == parameters:
            return self
        return replace(self, fit=Fit.prepare(self.template, parameters))

    def without_fit(self) -> DiskSearch:
        """Return the same search without its likelihood fit."""
        return replace(self, fit=None)

    def masks(self, mask: np.ndarray | None) -> bool:
        """Return True if this search was prepared with this detector mask."""
        mine = self.correlation.mask
        return mine is mask if mine is None or mask is None else np.array_equal(mine, mask)

    def __call__(self, frames: Any) -> Disks:
        """Find the disks of frames (n, Qx, Qy), on the device where they are."""
        return self.merge(self.find(frames))

    def find(self, frames: Any) -> Found:
        """Find disks by the correlation, and fit them. `merge` then takes one of both positions.

        Definitions run on `BATCH` frames at a time, which bounds their memory.
        """
        c = self.correlation
        given = [tables.beside(a, frames) for a in c.operands]
        mask = None if c.mask is None else tables.beside(c.mask, frames)
        call: dict[str, Any] = {"mask": mask, "fill_width": c.fill_width, "refinement": c.refinement, "limits": self.limits}

        def one(some: Any) -> Found:
            """Find the disks of some frames."""
            disks = find_disks(some, *given, **call)
            if self.fit is None:
                return Found(disks, None)
            alone = self.fit.locate(some, disks.qx, disks.qy, disks.count, mask)
            return Found(disks, self.fit.separate(some, disks, alone, given[2], self.limits.min_significance, mask))

        if frames.shape[0] <= BATCH or find_disks.choose(frames, *given, **call) != "definition":
            return one(frames)
        ends = [min(i + BATCH, frames.shape[0]) for i in range(0, frames.shape[0], BATCH)]
        parts = [one(frames[max(0, end - 1) // BATCH * BATCH : end, ...]) for end in ends]
        return Found(_joined([p.disks for p in parts]), None if self.fit is None else _joined([p.fit for p in parts]))

    def merge(self, found: Found) -> Disks:
        """Return positions and errors: from the likelihood where its fit succeeded, else from the correlation."""
        return found.disks if self.fit is None or found.fit is None else self.fit.merge(found.disks, found.fit)

    def in_threads(self, frames: Any) -> Disks:
        """Find the disks of frames. Use several threads if the CPU twin runs, because compiled code does not hold Python's lock."""
        most = frames.shape[0] // LEAST_PATTERNS
        workers = min(cpu_threads(), most) if most > 1 and find_disks.choose(frames) == "cpu" else 1
        if workers < 2:
            return self(frames)
        ends = [frames.shape[0] * i // workers for i in range(workers + 1)]
        return _joined(list(in_threads(lambda i, j: self(frames[i:j, ...]), ends, ends[1:])))


def _automatic(template: Template, dtype: Any, refine_power: float, parameters: int) -> tuple[Fit | None, str]:
    """Return the fit of refine="auto", or None if there is none, and the reason."""
    reason = _no_likelihood(template, refine_power, dtype)
    if reason is not None:
        return None, reason
    try:
        fit = Fit.prepare(template, parameters)
    except (InputError, np.linalg.LinAlgError) as error:  # the probe is unsuitable, or its image does not determine its shape
        return None, str(error)
    if fit.doubt is not None:
        return None, fit.doubt
    return fit, f"integer counts and {fit.form}; disks nearer than {fit.profile.spacing:.1f} px to each other are fitted together"


def _no_likelihood(template: Template, refine_power: float, dtype: Any) -> str | None:
    """Return why refine="auto" cannot fit a likelihood, or None. Only arguments are examined here, not the image of the probe."""
    if not arrays.is_integer_dtype(dtype):
        return f"values of {dtype} may be no counts; scale them to electrons and round them, or give refine='likelihood'"
    if template.probe is None:
        return "the template is a kernel without a probe, so the profile of its disk is not known"
    return f"refine_power={refine_power} needs the correlation map of this power" if refine_power != 1.0 else None


def _joined(parts: list[Any]) -> Any:
    """Join named tuples of arrays along their first axis."""
    xp = arrays.namespace(parts[0][0])
    return type(parts[0])(*(xp.concat(columns) for columns in zip(*parts)))


@functools.lru_cache(maxsize=16)
def _inside(shape: tuple[int, int], edge: int) -> np.ndarray:
    """Return (Qx, Qy) bool: False nearer than `edge` pixels to the border. The array is cached and must not be changed."""
    allowed = np.zeros(shape, dtype=bool)
    allowed[edge:-edge, edge:-edge] = True
    return allowed
