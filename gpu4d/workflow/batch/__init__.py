"""Analyse many scans, each in a process of its own: `gpu4d batch`."""

from gpu4d.workflow.batch.many import BatchOptions, run_batch
from gpu4d.workflow.batch.one_run import Outcome
from gpu4d.workflow.batch.overview import table

__all__ = ["BatchOptions", "Outcome", "run_batch", "table"]
