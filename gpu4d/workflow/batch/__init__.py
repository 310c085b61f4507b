"""Analyse many scans, each in a process of its own: `gpu4d batch`."""

from gpu4d.workflow.batch.many import BatchOptions, plan_batch, run_batch
from gpu4d.workflow.batch.one_run import Outcome
from gpu4d.workflow.batch.overview import plan_table, table

__all__ = ["BatchOptions", "Outcome", "plan_batch", "plan_table", "run_batch", "table"]
