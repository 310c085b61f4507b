"""Arguments of `find_disks` for tests: limits and refinement among other options by their names, and the arrays of a template."""

from dataclasses import fields

from gpu4d.bragg.disk_search import Correlation
from gpu4d.bragg.find_disks import PeakLimits, Refinement

GROUPS = {"limits": PeakLimits, "refinement": Refinement}


def limited(**options):
    """Return options of `find_disks`: limits are put into one `PeakLimits`, those of the maps into one `Refinement`."""
    names = {group: {field.name for field in fields(kind)} & options.keys() for group, kind in GROUPS.items()}
    grouped = {group: GROUPS[group](**{name: options[name] for name in inside}) for group, inside in names.items()}
    return grouped | {name: value for name, value in options.items() if name not in set().union(*names.values())}


def operands(template, edge=4, mask=None):
    """Spectrum, moments and allowed pixels of a template, as `find_disks` takes them."""
    return Correlation.prepare(template, edge, mask).operands
