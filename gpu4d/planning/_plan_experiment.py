"""Plan a scan before it is recorded: how large, how long, which dose, and which techniques it will suit."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from gpu4d.data.acquisition_quantities import TECHNIQUES
from gpu4d.data.storable import Storable
from gpu4d.planning.acquisition import Acquisition
from gpu4d.planning.beam import Dose, Probe, dose_of, probe_of
from gpu4d.planning.check import Check
from gpu4d.planning.precision import StrainPrecision
from gpu4d.planning.scan_checks import scan_checks
from gpu4d.planning.technique_checks import CHECKS, strain_of
from gpu4d.planning.volume import Volume, volume_of


@dataclass(frozen=True)
class ExperimentPlan(Storable):
    """What a scan will be.

    Attributes
    ----------
    acquisition : Acquisition
    volume : Volume
    probe : Probe or None
        Needs energy and semi-angle.
    dose : Dose or None
        Needs the electrons in a pattern.
    strain : StrainPrecision or None
        Needs electrons, a spacing, and the pixel of the detector.
    checks : tuple of Check
    """

    acquisition: Acquisition
    volume: Volume
    probe: Probe | None
    dose: Dose | None
    strain: StrainPrecision | None
    checks: tuple[Check, ...]

    def check(self, topic: str, name: str) -> Check | None:
        """Return one check; None if what it needs is not known.

        Examples
        --------
        >>> plan = plan_experiment(Acquisition(scan_shape=(8, 8), detector_shape=(64, 64), energy=80e3, semiangle=25.0, spacings=(2.7,)))
        >>> plan.check("ssb", "overlap of disks").passed, plan.check("strain", "disks apart").passed, plan.check("ssb", "step")
        (True, False, None)
        """
        return next((one for one in self.checks if (one.topic, one.name) == (topic, name)), None)

    def suits(self, technique: str) -> bool | None:
        """Say whether all checks of a technique pass; None if none of them could be judged."""
        judged = [one.passed for one in self.checks if one.topic == technique and one.passed is not None]
        return all(judged) if judged else None

    @property
    def warnings(self) -> tuple[Check, ...]:
        """Return the checks that do not pass."""
        return tuple(one for one in self.checks if one.passed is False)

    def __str__(self) -> str:
        lines = [str(self.volume), *map(str, self.checks)]
        lines += [
            f"smaller: {s.what}, {'×'.join(map(str, s.shape))} {s.dtype}: {s.bytes:.3g} bytes; costs {s.price}" for s in self.volume.savings
        ]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """Return all numbers and checks as plain values, for JSON. What is not known or has no value is None."""
        said = {
            "acquisition": dataclasses.asdict(self.acquisition),
            "volume": dataclasses.asdict(self.volume),
            "probe": None if self.probe is None else dataclasses.asdict(self.probe),
            "dose": None if self.dose is None else dataclasses.asdict(self.dose),
            "strain": None if self.strain is None else dataclasses.asdict(self.strain) | {"disk": self.strain.disk.tolist()},
            "checks": [dataclasses.asdict(one) for one in self.checks],
            "suits": {name: self.suits(name) for name in self.techniques},
        }
        return _plain(said)

    @property
    def techniques(self) -> tuple[str, ...]:
        """Return the techniques that were judged: those of the purpose, or all."""
        return self.acquisition.purpose or TECHNIQUES


def plan_experiment(acquisition: Acquisition, *, memory: int | float | str | None = None) -> ExperimentPlan:
    """Plan a scan: size, time, memory, dose, probe, overlap of disks, sampling, and the precision of strain to expect.

    Parameters
    ----------
    acquisition : Acquisition
        What is known. The more of it, the more is judged.
    memory : int or str, optional
        Budget of the analysis, as for `gpu4d.sweep`.

    Returns
    -------
    ExperimentPlan
        `checks` says for each condition the number, its limit, whether it is met, what to change, and the section of the guide.

    Raises
    ------
    InputError
        Shares of electrons that are more than all.
    MemoryBudgetError
        The budget does not hold even a few patterns.

    Examples
    --------
    >>> import gpu4d
    >>> scan = gpu4d.planning.Acquisition(
    ...     scan_shape=(256, 256), detector_shape=(256, 256), energy=200e3, semiangle=2.0, step=20.0, q_pixel=0.01, dwell=1e-3,
    ...     current=20.0, spacings=(2.04, 1.44), purpose=("strain",)
    ... )
    >>> plan = plan_experiment(scan)
    >>> print(plan.volume)
    8 GiB (8.59 GB), 66 s at 131 MB/s
    >>> plan.suits("strain"), plan.check("strain", "disks apart").text
    (True, 'spacing 0.49 1/Å (d 2.04 Å) against a diameter of 0.159 1/Å: separate')
    """
    volume, probe = volume_of(acquisition, memory), probe_of(acquisition)
    dose = dose_of(acquisition, probe)
    checks = list(scan_checks(acquisition, volume, probe, dose))
    for technique in acquisition.purpose or TECHNIQUES:
        checks += CHECKS[technique](acquisition, probe, dose)
    return ExperimentPlan(acquisition, volume, probe, dose, strain_of(acquisition, dose), tuple(checks))


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
