"""Write parameters as other ptychography engines read them: names, units, axes and signs of PtyRAD, phaser and Pty-Chi.

All three have arrays (y, x) where y is the first axis, as gpu4d has (x, y): the axes stand in the same order, under other names.
Azimuths of aberrations are another matter. gpu4d counts them from the first axis to the second, the others from their x, the second
axis, to the first: φ becomes π/2 - φ. Where the detector is transposed, patterns are written with exchanged axes, and both
exchanges cancel: φ stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpu4d import physics
from gpu4d.probe.wavefunction import aberration_terms
from gpu4d.ptychography.experiment import Experiment

ANGSTROM = 1e-10  # m


@dataclass(frozen=True)
class HandOver:
    """What all engines are told.

    Attributes
    ----------
    known : Experiment
    scan, pixels : (int, int), int
        Positions; pixels of a side of the written patterns.
    aberrations : mapping or None
        As gpu4d has them.
    modes, slices, thickness : int, int, float
        Modes of the probe; slices, and the thickness of one in Å.
    sweeps, batch : int
    """

    known: Experiment
    scan: tuple[int, int]
    pixels: int
    aberrations: Mapping[str, float] | None
    modes: int
    slices: int
    thickness: float
    sweeps: int
    batch: int

    @property
    def semiangle(self) -> float:
        """Of the disk's radius, mrad."""
        return physics.frequency_to_angle(self.known.radius * self.known.q_pixel, self.known.energy)

    @property
    def pixel(self) -> float:
        """Of the object, Å."""
        return 1 / (self.pixels * self.known.q_pixel)

    def polar(self) -> list[tuple[int, int, float, float]]:
        """Return aberrations as (n, m, Å, degrees), with azimuths from the second axis of the written patterns to the first."""
        turned = [
            (n, m, size, (angle if self.known.transpose else math.pi / 2 - angle) if m else 0.0)
            for n, m, size, angle in aberration_terms(self.aberrations)
        ]
        return [(n, m, size, math.degrees(math.remainder(angle, 2 * math.pi / m)) if m else 0.0) for n, m, size, angle in turned]


def ptyrad(given: HandOver, data: str) -> dict[str, Any]:
    """Return PtyRAD's parameters: Å, mrad, kV, degrees; C10 = -defocus. Positions are row vectors times [[c, s], [-s, c]]."""
    aberrations: dict[str, float] = {}
    for n, m, size, angle in given.polar():
        aberrations[f"C{n}{m}"] = size
        if m:
            aberrations[f"phi{n}{m}"] = angle
    known, (slow, fast) = given.known, given.scan
    return {
        "init_params": {
            "probe_illum_type": "electron",
            "probe_kv": known.energy / 1e3,
            "probe_conv_angle": given.semiangle,
            "probe_aberrations": aberrations or {"C10": 0.0},
            "meas_Npix": given.pixels,
            "pos_N_scans": slow * fast,
            "pos_N_scan_slow": slow,
            "pos_N_scan_fast": fast,
            "pos_scan_step_size": known.r_pixel,
            "meas_calibration": {"mode": "dk", "value": known.q_pixel},
            "probe_pmode_max": given.modes,
            "probe_pmode_init_pows": [0.02],
            "obj_Nlayer": given.slices,
            "obj_slice_thickness": given.thickness or 1.0,  # it must not be 0, and a single slice has no use for it
            "meas_flipT": None,
            "pos_scan_affine": [1.0, 0.0, -math.degrees(known.rotation), 0.0],
            "meas_source": "file",
            "meas_params": {"path": data, "key": "dp"},
            "probe_source": "simu",
            "probe_params": None,
            "pos_source": "simu",
            "pos_scan_rand_std": None,  # not told, PtyRAD 1.0 moves every position by noise of 0.15 px
            "pos_params": None,
            "obj_source": "simu",
            "obj_params": None,
        },
        "recon_params": {"NITER": given.sweeps, "BATCH_SIZE": {"size": given.batch}, "output_dir": "output"},
    }


def phaser(given: HandOver, data: str) -> dict[str, Any]:
    """Return phaser's plan: Å, mrad, kV, degrees. Defocus is positive for overfocus, as C10 is. Positions are affine @ (y, x)."""
    known, polar = given.known, given.polar()
    c, s = math.cos(known.rotation), math.sin(known.rotation)
    defocus = next((size for n, m, size, _ in polar if (n, m) == (1, 0)), 0.0)
    others = [{"n": n, "m": m, "mag": size, "angle": angle} for n, m, size, angle in polar if (n, m) != (1, 0)]
    probe: dict[str, Any] = {"type": "focused", "conv_angle": given.semiangle, "defocus": defocus}
    plan: dict[str, Any] = {
        "name": "gpu4d",
        "raw_data": {
            "type": "manual",
            "path": data,
            "key": "dp",
            "diff_step": physics.frequency_to_angle(known.q_pixel, known.energy),
            "kv": known.energy / 1e3,
            "adu": 1.0,
        },
        "init": {
            "probe": probe | ({"aberrations": others} if others else {}),
            "scan": {"type": "raster", "shape": list(given.scan), "step_size": known.r_pixel, "affine": [[c, s], [-s, c]]},
        },
    }
    if given.slices > 1:
        plan["slices"] = {"n": given.slices, "slice_thickness": given.thickness}
    plan["engines"] = [
        {
            "type": "conventional",
            "probe_modes": given.modes,
            "niter": given.sweeps,
            "grouping": given.batch,
            "noise_model": {"type": "anscombe"},
            "solver": {"type": "lsqml"},
            "group_constraints": [],
            "iter_constraints": ["remove_phase_ramp"],
            "update_probe": {"after": 1},
            "save": {"every": given.sweeps},
        }
    ]
    return plan


def pty_chi(given: HandOver) -> dict[str, Any]:
    """Return settings of Pty-Chi's LSQMLOptions, in m. Arrays are not part of them: they stand in a second file."""
    spacings = [given.thickness * ANGSTROM] * (given.slices - 1)
    return {
        "data_options": {"wavelength_m": physics.wavelength(given.known.energy) * ANGSTROM, "fft_shift": True},
        "object_options": {
            "pixel_size_m": given.pixel * ANGSTROM,
            "optimizable": True,
            "step_size": 1.0,
            **({"slice_spacings_m": spacings} if spacings else {}),
        },
        "probe_options": {"optimizable": True, "step_size": 1.0},
        "probe_position_options": {"optimizable": False},
        "reconstructor_options": {"num_epochs": given.sweeps, "batch_size": given.batch},
    }


def as_yaml(values: Any, indent: int = 0) -> str:
    """Write nested mappings, lists and numbers as YAML.

    Examples
    --------
    >>> print(as_yaml({"a": {"b": [1, 2.5e-9, None]}, "c": "text"}), end="")
    a:
      b: [1, 2.5e-09, null]
    c: "text"
    """
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{' ' * indent}{key}:\n{as_yaml(value, indent + 2)}")
        else:
            lines.append(f"{' ' * indent}{key}: {_flow(value)}\n")
    return "".join(lines)


def _flow(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list | tuple | np.ndarray):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float | np.floating):
        text = repr(float(value))  # YAML 1.1 takes 1e-05 for text, and 1.0e-05 for a number
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)
