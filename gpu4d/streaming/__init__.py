"""One pass over a scan feeds many reductions."""

from gpu4d.streaming.engine import sweep
from gpu4d.streaming.plan import Plan, plan
from gpu4d.streaming.reduction import BlockSums, PerPosition, Reduction, ScanInfo

__all__ = ["BlockSums", "PerPosition", "Plan", "Reduction", "ScanInfo", "plan", "sweep"]
