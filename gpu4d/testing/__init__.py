"""Instruments for tests, of this package and of others that add to it: a device that keeps accounts, and a clock of its own."""

from gpu4d.testing.accounting import AccountingProcessor, VirtualSource
from gpu4d.testing.virtual_clock import Actor, Moment, Resource

__all__ = ["AccountingProcessor", "Actor", "Moment", "Resource", "VirtualSource"]
