"""Drift of the specimen during a scan: where the positions lie, from one scan or a pair."""

from gpu4d.data.scan_vectors import ScanVectors, scan_vectors
from gpu4d.drift._scan_drift import scan_drift
from gpu4d.drift.result import ScanDrift
from gpu4d.drift.scattered_average import scattered_average

__all__ = ["ScanDrift", "ScanVectors", "scan_drift", "scan_vectors", "scattered_average"]


def __dir__() -> list[str]:
    return list(__all__)
