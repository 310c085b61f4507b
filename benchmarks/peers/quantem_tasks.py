"""quantem's side of the comparisons: ``python quantem_tasks.py FOLDER`` in its environment, see serve.py."""

import importlib.metadata
import json

import h5py
import numpy as np
import torch
from quantem.core.datastructures.dataset4dstem import Dataset4dstem
from quantem.core.datastructures.vector import Vector
from quantem.diffraction.bragg_vectors import BraggVectors
from serve import Prepared, serve


def bragg(folder, subpixel, radius=6.0) -> Prepared:
    """Correlation with the vacuum probe, power 1, its default."""
    frames = np.load(folder / "bragg_few.npy")
    workflow = BraggVectors.from_dataset(Dataset4dstem.from_array(frames))
    probe = np.load(folder / "probe.npy")
    workflow.make_template_from_probe(probe, center=tuple(n // 2 for n in probe.shape), subtract_mean=True)
    options = {
        "min_spacing": 2 * radius,
        "edge_boundary": round(radius),
        "max_num_peaks": 70,
        "subpixel": subpixel,
        "upsample_factor": 16,
        "progressbar": False,
    }

    def call():
        return workflow.detect_disks(min_abs_intensity=2.0, **options)

    def arrays(peaks):
        lists = [peaks[0, i].numpy()[:, :2] for i in range(frames.shape[1])]
        return {"points": np.concatenate(lists), "starts": np.cumsum([0, *map(len, lists)])}

    return call, arrays


def images(folder) -> Prepared:
    """Four ring images, mean and maximum pattern of a scan in memory, one pass each."""
    with h5py.File(folder / "scan.h5") as file:
        data = Dataset4dstem.from_array(file["data"][()])
    masks = np.load(folder / "masks.npy")

    def call():
        found = [data.get_virtual_image(mask=mask, attach=False) for mask in masks]
        return found, data.get_dp_mean(attach=False), data.get_dp_max(attach=False)

    def arrays(found):
        return {
            "images": np.stack([np.asarray(image.array) for image in found[0]]),
            "mean": np.asarray(found[1].array),
            "max": np.asarray(found[2].array),
        }

    return call, arrays


def lattice(folder, origin="measured") -> Prepared:
    """Origins measured and fitted, or given, points brought to one origin, local lattices, strain; the mean lattice is given."""
    data = np.load(folder / "points.npz")
    shape = data["intensity"].shape[:2]
    rows = np.concatenate([data["q"], data["intensity"][..., None]], -1)
    workflow = BraggVectors.from_dataset(Dataset4dstem.from_array(np.zeros((*shape, 128, 128), np.uint8)))
    workflow.peaks = Vector.from_data(
        [[cell[np.isfinite(cell[:, 2])] for cell in row] for row in rows], fields=("q_row", "q_col", "intensity"), dtype=torch.float64
    )
    center = tuple(data["origin"].mean((0, 1)))

    def call():
        origins = workflow.measure_origins(center=center) if origin == "measured" else data["origin"]
        centred = workflow.correct_peak_origins(origins, center)
        centred.choose_basis_vectors(center, data["g1"], data["g2"], min_spacing=6.0, plot=False)
        centred.index_peaks(plot=False).fit_lattice(max_peak_shift=5.0, progressbar=False, plot=False)
        return origins, centred, centred.calculate_strain_map(data["g1"], data["g2"], q_to_r_rotation_ccw_deg=0.0, q_transpose=False)

    def arrays(result):
        origins, centred, _ = result
        return {"origin": origins, "g1": centred.g1_array, "g2": centred.g2_array}

    return call, arrays


def direct(folder, kernel) -> Prepared:
    """Direct ptychography of an array in memory, from counts to phase; the centre of the disk is given."""
    from quantem.diffractive_imaging.direct_ptychography import DirectPtychography

    about = json.loads((folder / "scan.json").read_text())
    with h5py.File(folder / "scan.h5") as file:
        frames = file["data"][()].astype(np.float32)
    sampling = (about["r_pixel"],) * 2 + (about["q_pixel"],) * 2
    data = Dataset4dstem.from_array(frames, sampling=sampling, units=("A", "A", "A^-1", "A^-1"))

    def call():
        found = DirectPtychography.from_dataset4d(
            data, energy=about["energy"], semiangle_cutoff=about["semiangle"], rotation_angle=0.0,
            force_fitted_origin=tuple(about["center"]), verbose=False,
        )  # fmt: skip
        found.reconstruct(deconvolution_kernel=kernel, verbose=False)
        return found.corrected_bf

    return call, lambda image: {"image": image.detach().cpu().numpy() if torch.is_tensor(image) else np.asarray(image)}


def versions():
    return {"quantem": importlib.metadata.version("quantem"), "torch": torch.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    serve({"bragg": bragg, "images": images, "lattice": lattice, "direct": direct}, versions)
