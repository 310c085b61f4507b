"""Names of the front door, for editors and type checkers; `__init__.py` reads them from here, and imports each on first use."""

from . import (
    amorphous as amorphous,
)
from . import (
    beam as beam,
)
from . import (
    bragg as bragg,
)
from . import (
    calibrate as calibrate,
)
from . import (
    classification as classification,
)
from . import (
    crystal as crystal,
)
from . import (
    data as data,
)
from . import (
    deflection as deflection,
)
from . import (
    device as device,
)
from . import (
    drift as drift,
)
from . import (
    errors as errors,
)
from . import (
    imaging as imaging,
)
from . import (
    interop as interop,
)
from . import (
    io as io,
)
from . import (
    notebook as notebook,
)
from . import (
    orientation as orientation,
)
from . import (
    physics as physics,
)
from . import (
    planning as planning,
)
from . import (
    plot as plot,
)
from . import (
    preprocess as preprocess,
)
from . import (
    probe as probe,
)
from . import (
    ptychography as ptychography,
)
from . import (
    rings as rings,
)
from . import (
    simulate as simulate,
)
from . import (
    streaming as streaming,
)
from . import (
    structures as structures,
)
from . import (
    testing as testing,
)
from . import (
    view as view,
)
from . import (
    workflow as workflow,
)
from ._capabilities import capabilities as capabilities
from .amorphous._amorphous_strain import amorphous_strain as amorphous_strain
from .amorphous._fem import fem as fem
from .amorphous._rdf import rdf as rdf
from .bragg.find_bragg_disks import BraggDisks as BraggDisks
from .bragg.find_bragg_disks import find_bragg_disks as find_bragg_disks
from .bragg.hybrid_correlation import hybrid_correlation as hybrid_correlation
from .bragg.template_from_scan.refine_template import refine_template as refine_template
from .bragg.vector_map import bragg_vector_map as bragg_vector_map
from .classification.classify import classify as classify
from .crystal.find_lattice import find_lattice as find_lattice
from .crystal.fit_lattice import fit_lattice as fit_lattice
from .crystal.strain import strain_map as strain_map
from .data.calibration import Calibration as Calibration
from .data.datacube import DataCube as DataCube
from .data.pointlist import PointList as PointList
from .data.pointlist import PointListArray as PointListArray
from .data.slices import DiffractionSlice as DiffractionSlice
from .data.slices import RealSlice as RealSlice
from .deflection.dpc import dpc as dpc
from .deflection.magnetic import magnetic_induction as magnetic_induction
from .drift._scan_drift import scan_drift as scan_drift
from .imaging import detectors as detectors
from .imaging.center_of_mass import center_of_mass as center_of_mass
from .imaging.com_map import CenterOfMass as CenterOfMass
from .imaging.image import VirtualImage as VirtualImage
from .imaging.image import virtual_image as virtual_image
from .imaging.patterns import MaxPattern as MaxPattern
from .imaging.patterns import MeanPattern as MeanPattern
from .io.converting import convert as convert
from .io.opening import open as open
from .io.raw_layout import RawLayout as RawLayout
from .io.reading import read_emd as read_emd
from .io.saving import save as save
from .io.timing import ScanTiming as ScanTiming
from .operation import using as using
from .planning._plan_experiment import plan_experiment as plan_experiment
from .probe.template_kernel import Template as Template
from .ptychography._parallax import parallax as parallax
from .ptychography._wdd import wdd as wdd
from .ptychography.aberration_fit import fit_aberrations as fit_aberrations
from .ptychography.ssb import ssb as ssb
from .rings.profiles import RadialProfile as RadialProfile
from .rings.profiles import polar_transform as polar_transform
from .rings.profiles import radial_profile as radial_profile
from .rings.ring_statistics import RingStatistics as RingStatistics
from .streaming._live import live as live
from .streaming.engine import sweep as sweep

__version__: str
