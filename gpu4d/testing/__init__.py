"""Instruments for tests, of this package and of others that add to it.

A device that keeps accounts of its memory, and a clock of its own. Classes of tests that a new part inherits and so is known to keep to
its contract: `gpu4d.testing.sources.SourceTests`, `gpu4d.testing.reductions.ReductionTests`,
`gpu4d.testing.corrections.CorrectionTests`, `gpu4d.testing.formats.FormatTests` and
`gpu4d.testing.stages.StageTests`.
"""

from gpu4d.testing.accounting import AccountingProcessor, VirtualSource
from gpu4d.testing.virtual_clock import Actor, Moment, Resource

__all__ = ["AccountingProcessor", "Actor", "Moment", "Resource", "VirtualSource"]
