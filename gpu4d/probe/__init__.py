"""Measure the vacuum probe, make the template with which disks are found, and compute probes from apertures."""

from gpu4d.probe import apertures
from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.probe.patterned import patterned
from gpu4d.probe.real_space import ProbeSize, RealSpaceProbe, angular_momentum, depth_of_focus, probe_size, real_space
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.synthetic import synthetic
from gpu4d.probe.template_kernel import Template, template
from gpu4d.probe.vacuum import from_vacuum
from gpu4d.probe.wavefunction import wavefunction

__all__ = [
    "Disk",
    "FineImage",
    "ProbeSize",
    "RealSpaceProbe",
    "Template",
    "angular_momentum",
    "apertures",
    "depth_of_focus",
    "from_vacuum",
    "measure_disk",
    "patterned",
    "probe_size",
    "real_space",
    "synthetic",
    "template",
    "wavefunction",
]


def __dir__() -> list[str]:
    return list(__all__)
