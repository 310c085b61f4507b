"""Tools for tests of this package and of packages that extend it.

There is a device that counts its memory and has a virtual clock. There are classes of tests for new parts. A test class that inherits
from one of them checks a part against its interface: `gpu4d.testing.sources.SourceTests`, `gpu4d.testing.reductions.ReductionTests`,
`gpu4d.testing.corrections.CorrectionTests`, `gpu4d.testing.formats.FormatTests` and `gpu4d.testing.stages.StageTests`.
"""

from gpu4d.testing.accounting import AccountingProcessor, VirtualSource
from gpu4d.testing.virtual_clock import Actor, Moment, Resource

__all__ = ["AccountingProcessor", "Actor", "Moment", "Resource", "VirtualSource"]


def __dir__() -> list[str]:
    return list(__all__)
