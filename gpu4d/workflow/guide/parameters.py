"""List the parameters of the guide's tables 17.1 to 17.6, and the settings of a recipe that they are."""

from __future__ import annotations

from typing import NamedTuple


class Parameter(NamedTuple):
    """A row of the guide's tables.

    Attributes
    ----------
    table : str
        "17.3".
    name : str
        The guide's name.
    settings : tuple of str
        Settings of a recipe, "section.key". Empty for a parameter that is no setting.
    instead : str
        Why it is no setting, and what does its work. Empty for one that is.
    """

    table: str
    name: str
    settings: tuple[str, ...] = ()
    instead: str = ""


PARAMETERS = (
    Parameter("17.1", "background_mask_radius", ("corrections.background_mask_radius",)),
    Parameter("17.1", "hot_pixel_threshold", ("corrections.hot_pixel_threshold",)),
    Parameter(
        "17.1", "counting_lower_thresh", (),
        "electrons are counted once, before runs: `gpu4d.preprocess.count_scan` finds the valley of the histogram by itself, in "
        "electrons and "
        "not in ADU. `setup=` takes another threshold",
    ),
    Parameter("17.1", "counting_upper_thresh", (), "as the lower threshold; `corrections.hits` takes X-rays out of frames that are not "
    "counted"),
    Parameter("17.1", "binning_factor", ("input.bin_detector", "input.bin_scan")),
    Parameter("17.2", "shift_fit_order", ("origin.fit",)),
    Parameter("17.2", "ellipse_annulus_inner", ("ellipse.inner",)),
    Parameter("17.2", "ellipse_annulus_outer", ("ellipse.outer",)),
    Parameter("17.2", "rotation_method", ("shadow.images", "calibration.rotation_degrees")),
    Parameter("17.2", "pixel_size_std", (), "a standard is another scan: `gpu4d calibrate STANDARD --standard Au`, then "
    "`input.calibration`"),
    Parameter("17.3", "correlation_mode", ("bragg.power",)),
    Parameter("17.3", "hybrid_n", ("bragg.power",)),
    Parameter("17.3", "subpixel_upsample", ("bragg.upsample",)),
    Parameter("17.3", "min_peak_intensity", ("bragg.min_relative_intensity", "bragg.min_significance")),
    Parameter("17.3", "max_num_peaks", ("bragg.max_peaks",)),
    Parameter("17.3", "probe_sigma", ("probe.gaussian_width",)),
    Parameter("17.4", "reference_region", ("strain.reference", "amorphous_strain.reference")),
    Parameter("17.4", "strain_fit_weight", ("lattice.weights",)),
    Parameter("17.4", "max_strain", ("strain.max_strain", "amorphous_strain.max_strain")),
    Parameter("17.4", "coordinate_system", ("strain.axis", "calibration.rotation_degrees")),
    Parameter("17.5", "rdf_q_max", ("rdf.fit_to",)),
    Parameter("17.5", "rdf_bandpass_low", ("rdf.band_low",)),
    Parameter("17.5", "rdf_bandpass_high", ("rdf.band_high",)),
    Parameter(
        "17.5", "fem_probe_size", (),
        "the semi-angle is chosen at the microscope. The gate “Probe for fluctuations” compares it with 0.5 – 2 mrad, and `gpu4d plan` "
        "before the "
        "scan is recorded",
    ),
    Parameter("17.5", "fem_statistics", ("fem.statistics",)),
    Parameter("17.6", "dpc_lowpass_lambda1", ("dpc.lambda1",)),
    Parameter("17.6", "dpc_highpass_lambda2", ("dpc.lambda2",)),
    Parameter("17.6", "dpc_padding_factor", ("dpc.padding_factor",)),
    Parameter("17.6", "dpc_max_iterations", ("dpc.max_iterations",)),
    Parameter(
        "17.6", "ptycho_overlap_threshold", (),
        "the weighted sum gives each frequency the weight of its overlap, so that none is cut off. Decisions and warnings of the run say "
        "down to "
        "which detail disks overlap by 0.3 and by 0.1 of their area",
    ),
)  # fmt: skip


def parameters_of(setting: str) -> tuple[Parameter, ...]:
    """Return the guide's parameters that a setting is, "section.key".

    Examples
    --------
    >>> [one.name for one in parameters_of("bragg.power")]
    ['correlation_mode', 'hybrid_n']
    """
    return tuple(one for one in PARAMETERS if setting in one.settings)


def parameters_table() -> str:
    """Return the rows as a table of Markdown: the guide's table and name, and the settings or what stands for them."""
    lines = ["| table | the guide's parameter | in a recipe |", "| --- | --- | --- |"]
    for one in PARAMETERS:
        here = ", ".join(f"`{name}`" for name in one.settings) or f"not a setting: {one.instead}"
        lines.append(f"| {one.table} | `{one.name}` | {here} |")
    return "\n".join(lines)
