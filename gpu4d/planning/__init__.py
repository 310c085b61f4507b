"""Plan a scan before it is recorded, or judge one that was: size, time, dose, sampling, precision."""

from gpu4d.data.acquisition_quantities import TECHNIQUES
from gpu4d.planning._plan_experiment import ExperimentPlan, plan_experiment
from gpu4d.planning.acquisition import Acquisition
from gpu4d.planning.beam import Dose, Probe
from gpu4d.planning.check import Check
from gpu4d.planning.precision import StrainPrecision, disk_precision, strain_precision
from gpu4d.planning.volume import Saving, Volume

__all__ = [
    "TECHNIQUES",
    "Acquisition",
    "Check",
    "Dose",
    "ExperimentPlan",
    "Probe",
    "Saving",
    "StrainPrecision",
    "Volume",
    "disk_precision",
    "plan_experiment",
    "strain_precision",
]


def __dir__() -> list[str]:
    return list(__all__)
