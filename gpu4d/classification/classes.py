"""Hold the classes of a scan: where they are, what they look like, and how far they can be trusted."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from gpu4d.arrays import to_numpy
from gpu4d.classification.distinct import explain
from gpu4d.classification.features import Features
from gpu4d.classification.parts import clusters
from gpu4d.classification.spot_counts import ClassPatterns
from gpu4d.classification.totals import totals
from gpu4d.data import DataCube, DiffractionSlice, RealSlice
from gpu4d.data.storable import Storable
from gpu4d.errors import InputError
from gpu4d.real_arrays import real_number
from gpu4d.streaming import sweep
from gpu4d.streaming.engine import SweepOptions

log = logging.getLogger("gpu4d")

CAVEAT = (
    "Classes group patterns by similarity, not by physics: one crystal in two orientations makes two classes, and one class can hold "
    "several phases. Look at the mean pattern of each class, and compare it with simulations or known structures."
)


@dataclass(frozen=True, eq=False)
class Classes(
    Storable,
    stored="label: Rx Ry; spots: spot xy [px]; profiles profile_errors: class spot [counts]; shown: class spot; origin: Rx Ry xy [px]",
):
    """Classes of the patterns of a scan, as `gpu4d.classify` finds them. The largest class is the first.

    Attributes
    ----------
    fractions : RealSlice, (J, Rx, Ry)
        Share of every class at every position. The sum is 1. NaN where nothing was measured.
    errors : RealSlice, (J, Rx, Ry)
        Standard errors of the shares from the counts.
    label : (Rx, Ry) int64
        Number of the class with the largest share, -1 where nothing was measured.
    kinds : tuple of str
        "crystal", "amorphous" (a halo and no disks) or "no disks" of each class.
    spots : (K, 2) float64
        Reflections relative to the origin, pixels.
    profiles : (J, K) float64
        Counts of each reflection in a pure position, without the diffuse ones.
    profile_errors : (J, K) float64
        Their standard errors from the counts.
    shown : (J, K) bool
        Whether a class shows a reflection.
    patterns : DiffractionSlice (J, Qx, Qy) or None
        Mean patterns of the classes. None if only disks were given.
    blur : float
        Standard deviation of the smoothing of the shares, in positions.
    story : tuple of str
        What was joined or found to be a mixture, and why.
    warnings : tuple of str
    caveat : str
        The guide's: what classes are not.
    tolerance : float
        Relative change of a reflection that tells no classes apart.
    features : Features
        Counts of the reflections at every position.
    origin : (Rx, Ry, 2) float64
        Of the patterns, pixels.
    """

    fractions: RealSlice
    errors: RealSlice
    label: np.ndarray
    kinds: tuple[str, ...]
    spots: np.ndarray
    profiles: np.ndarray
    profile_errors: np.ndarray
    shown: np.ndarray
    patterns: DiffractionSlice | None
    blur: float
    story: tuple[str, ...]
    warnings: tuple[str, ...]
    tolerance: float
    features: Features
    origin: np.ndarray
    caveat: str = CAVEAT

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.kinds)

    def __repr__(self) -> str:
        seen = max(int((self.label >= 0).sum()), 1)
        parts = [f"{kind} {(self.label == j).sum() / seen:.0%}" for j, kind in enumerate(self.kinds[:6])]
        more = "" if len(self) <= 6 else f" and {len(self) - 6} more"
        said = f", {len(self.warnings)} warning{'s' * (len(self.warnings) > 1)}" if self.warnings else ""
        found = f"{len(self)}: {', '.join(parts)}{more}{said}; {len(self.spots)} reflections"
        return f"Classes({found}; groups by similarity, not by physics: see .caveat)"

    def report(self) -> str:
        """Return what was found, in lines of text: classes, how they differ, warnings, and the caveat.

        Examples
        --------
        >>> import gpu4d
        >>> scan = gpu4d.simulate.bragg_scan((6, 6), (64, 64), spacing=15.0, radius=4.0, strain=None, seed=2)
        >>> disks = gpu4d.find_bragg_disks(scan.cube, scan.probe)
        >>> gpu4d.classify(disks, scan.cube, template=scan.probe).report().splitlines()[0]
        'class 0: crystal, 36 positions, 8 reflections'
        """
        lines = []
        for j, kind in enumerate(self.kinds):
            others = np.delete(self.shown, j, axis=0).any(0)
            own = int((self.shown[j] & ~others).sum()) if len(self) > 1 else 0
            alone = f", {own} that no other class shows" if own else ""
            lines.append(f"class {j}: {kind}, {int((self.label == j).sum())} positions, {int(self.shown[j].sum())} reflections{alone}")
        lines += self.story
        lines += [f"Warning: {text}" for text in self.warnings]
        return "\n".join([*lines, f"Caveat: {self.caveat}"])

    def merge(self, *classes: int) -> Classes:
        """Return the classes with some of them joined into the first named one. Nothing is measured again.

        Standard errors of a joined share are the roots of summed squares. This is an upper limit, because shares of one position
        depend on each other.

        Raises
        ------
        InputError
            Fewer than two classes are named, or a number is none of them.
        """
        chosen = self._numbers(classes)
        if len(set(chosen)) < 2:
            raise InputError(f"merge{classes}: name at least two of the classes 0 to {len(self) - 1}")
        groups = [[j] for j in range(len(self)) if j not in chosen]
        groups.insert(min(chosen), sorted(set(chosen), key=chosen.index))
        share, error = np.asarray(self.fractions.to_host()), np.asarray(self.errors.to_host())
        size = np.array([(self.label == j).sum() for j in range(len(self))], dtype=np.float64)
        mean = np.array([[size[j] / max(size[g].sum(), 1.0) if j in g else 0.0 for j in range(len(self))] for g in groups])
        patterns = self.patterns
        if patterns is not None:
            host = np.nan_to_num(to_numpy(patterns.data))
            patterns = patterns.of_same_grid(np.tensordot(mean, host, 1), patterns.name, patterns.units)
        return self._with(
            np.stack([share[g].sum(0) for g in groups]),
            np.stack([np.sqrt((error[g] ** 2).sum(0)) for g in groups]),
            kinds=tuple(self.kinds[g[0]] for g in groups),
            profiles=mean @ self.profiles,
            profile_errors=np.sqrt(mean**2 @ self.profile_errors**2),
            shown=np.stack([self.shown[g].any(0) for g in groups]),
            patterns=patterns,
            story=(*self.story, f"classes {', '.join(map(str, chosen))} were joined by hand"),
        )

    def split(self, number: int, parts: int = 2) -> Classes:
        """Return the classes with one of them split by k-means. Its parts are the last classes, and are tested.

        If the parts differ by no more than bending, thickness and noise explain, `warnings` says so. Mean patterns are not measured:
        `with_patterns` does that.

        Raises
        ------
        InputError
            The class does not exist, or has too few positions.
        """
        (j,) = self._numbers((number,))
        count = real_number(parts, "parts", whole=True)
        own = (self.label == j)[self.features.seen]
        chosen = self.features.rows(own)
        sub = clusters(chosen, count)
        if sub.max(initial=0) < 1:
            raise InputError(f"class {j} has {int(own.sum())} positions: too few for {parts} parts")
        member = np.eye(int(sub.max()) + 1)[sub]
        sums = totals(chosen, member, None, np.zeros(2))
        first = np.unique(chosen.pair_of_spot, return_index=True)[1]
        warnings = list(self.warnings)
        for a in range(len(sums)):
            others = [b for b in range(len(sums)) if b != a]
            if not explain(sums.rows([a]), sums.rows(others), self.spots[first], self.tolerance).distinct:
                warnings.append(
                    f"class {j} was split by hand, but its parts differ by no more than bending and noise explain: it may be one phase"
                )
                break
        share, error = np.asarray(self.fractions.to_host()), np.asarray(self.errors.to_host())
        nearest = np.zeros((len(sums), *self.label.shape))
        nearest[:, self.label == j] = member.T
        nearest[0][self.label != j] = 1.0  # shares elsewhere go to the first part
        keep = [k for k in range(len(self)) if k != j]
        rates = np.stack([np.maximum(chosen.counts[sub == a].mean(0), 0) for a in range(len(sums))]) * chosen.gain
        errors = np.sqrt(rates * chosen.gain / np.maximum(np.bincount(sub), 1)[:, None])
        return self._with(
            np.concatenate([share[keep], share[j] * nearest]),
            np.concatenate([error[keep], error[j] * nearest]),
            kinds=(*(self.kinds[k] for k in keep), *[self.kinds[j]] * len(sums)),
            profiles=np.concatenate([self.profiles[keep], rates]),
            profile_errors=np.concatenate([self.profile_errors[keep], errors]),
            shown=np.concatenate([self.shown[keep], np.repeat(self.shown[[j]], len(sums), axis=0)]),
            patterns=None,
            warnings=tuple(warnings),
            story=(*self.story, f"class {j} was split into {len(sums)} by hand"),
        )

    def with_patterns(self, cube: DataCube, **options: Unpack[SweepOptions]) -> Classes:
        """Return the classes with their mean patterns, measured in one weighted sweep of the scan.

        Every position counts for its own class, by its share of it.
        """
        share = np.nan_to_num(np.asarray(self.fractions.to_host()))
        weights = np.where(self.label == np.arange(len(self))[:, None, None], share, 0.0)
        patterns = sweep(cube, ClassPatterns(weights, self.origin), **options).to_host()
        names = tuple(self.fractions.labels)
        return replace(
            self, patterns=DiffractionSlice(patterns.data, "class patterns", "counts", patterns.pixel_size, patterns.pixel_units, names)
        )

    def _numbers(self, given: tuple[int, ...]) -> list[int]:
        numbers = [real_number(one, "class", whole=True) for one in given]
        if any(not 0 <= one < len(self) for one in numbers):
            raise InputError(f"class {given}: need numbers from 0 to {len(self) - 1}")
        return numbers

    def _with(self, share: np.ndarray, error: np.ndarray, **changed: Any) -> Classes:
        """Return other classes at the same positions."""
        for text in set(changed.get("warnings", ())) - set(self.warnings):
            log.warning("classification: %s", text)
        return replace(self, **changed, **maps(share, error, self.fractions))


def maps(share: np.ndarray, error: np.ndarray, like: RealSlice) -> dict[str, Any]:
    """Return fractions, their errors and the label as fields of `Classes`, with the pixel size of a slice."""
    names = tuple(f"class {j}" for j in range(len(share)))
    known = np.isfinite(share).all(0)
    label = np.where(known, np.argmax(np.nan_to_num(share), axis=0), -1).astype(np.int64)
    slices = [
        RealSlice(x, name, "1", like.pixel_size, like.pixel_units, names) for x, name in ((share, "fractions"), (error, "fraction errors"))
    ]
    return {"fractions": slices[0], "errors": slices[1], "label": label}
