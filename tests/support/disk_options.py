"""Arguments of `find_disks` for tests: limits among other options by their names, and the arrays of a template."""

from dataclasses import fields

from gpu4d.bragg.disk_search import Correlation
from gpu4d.bragg.find_disks import PeakLimits

LIMITS = {field.name for field in fields(PeakLimits)}


def limited(**options):
    """Options of `find_disks`, with those that are limits put into one `PeakLimits`."""
    return {"limits": PeakLimits(**{k: v for k, v in options.items() if k in LIMITS})} | {
        k: v for k, v in options.items() if k not in LIMITS
    }


def operands(template, edge=4, mask=None):
    """Spectrum, moments and allowed pixels of a template, as `find_disks` takes them."""
    return Correlation.prepare(template, edge, mask).operands
