"""gpu4d in LiberTEM: UDFs that run our kernels in its executors, on any dataset and live, and its conventions in our words.

The UDFs take NumPy and CuPy workers, any tiles and partitions, a roi, and frames in the dtype of the dataset. They are classes of
LiberTEM (pip install libertem), which is imported with this module. The converters need no LiberTEM.
"""

from gpu4d.interop.libertem._scan_axes import from_libertem, to_libertem
from gpu4d.interop.libertem.bragg_disks import BraggDisksUDF
from gpu4d.interop.libertem.center_of_mass import CenterOfMassUDF
from gpu4d.interop.libertem.radial_profiles import RadialProfileUDF
from gpu4d.interop.libertem.ssb_phase import SSBUDF
from gpu4d.interop.libertem.virtual_images import VirtualImageUDF

__all__ = ["SSBUDF", "BraggDisksUDF", "CenterOfMassUDF", "RadialProfileUDF", "VirtualImageUDF", "from_libertem", "to_libertem"]


def __dir__() -> list[str]:
    return list(__all__)
