"""Measure the vacuum probe, and make the template with which disks are found."""

from gpu4d.probe.measure_disk import Disk, measure_disk
from gpu4d.probe.shape.fine_image import FineImage
from gpu4d.probe.synthetic import synthetic
from gpu4d.probe.template_kernel import Template, template
from gpu4d.probe.vacuum import from_vacuum
from gpu4d.probe.wavefunction import wavefunction

__all__ = ["Disk", "FineImage", "Template", "from_vacuum", "measure_disk", "synthetic", "template", "wavefunction"]


def __dir__() -> list[str]:
    return list(__all__)
