"""py4DSTEM's side of the comparisons: ``python py4dstem_tasks.py FOLDER`` in its environment, see serve.py."""

import h5py
import numpy as np
import py4DSTEM
from py4DSTEM.process.phase import DPC, Parallax, SingleslicePtychography
from py4DSTEM.process.strain.latticevectors import add_indices_to_braggvectors, fit_lattice_vectors_all_DPs, get_strain_from_reference_g1g2
from serve import Prepared, serve


def bragg(folder, subpixel, power, smooth, radius=6.0) -> Prepared:
    """Spacing, border and threshold that suit the data: its defaults leave next to nothing of 128 × 128."""
    cube = py4DSTEM.DataCube(np.load(folder / "bragg_few.npy"))
    probe = py4DSTEM.Probe(np.load(folder / "probe.npy"))
    kernel = probe.get_kernel(mode="sigmoid", radii=(radius, 2 * radius))
    options = {
        "corrPower": power, "sigma_cc": smooth, "subpixel": subpixel, "upsample_factor": 16,
        "minRelativeIntensity": 0.02, "minPeakSpacing": 2 * radius, "edgeBoundary": round(radius), "maxNumPeaks": 70,
    }  # fmt: skip

    def call():
        return cube.find_Bragg_disks(template=kernel, **options)

    return call, lambda vectors: as_lists(vectors, cube.data.shape[1])


def close_disks(folder, scene, trench, smooth) -> Prepared:
    """Disks close to each other. Nothing is timed, so the work is done beforehand.

    The parameters are such that no disk is refused: spacing of one radius, the default threshold of 0.005 of the brightest maximum, the
    default power 1. The trench ends at `trench` radii, and the correlation is smoothed by `smooth` pixels (the default is 2).
    """
    with np.load(folder / scene) as data:
        cube, radius = py4DSTEM.DataCube(data["patterns"][None].astype(np.float32)), float(data["radius"])
        kernel = py4DSTEM.Probe(data["probe"]).get_kernel(mode="sigmoid", radii=(radius, trench * radius))
    vectors = cube.find_Bragg_disks(
        template=kernel, corrPower=1, sigma_cc=smooth, subpixel="multicorr", upsample_factor=16,
        minRelativeIntensity=0.005, minPeakSpacing=round(radius), edgeBoundary=round(radius), maxNumPeaks=70,
    )  # fmt: skip
    return lambda: vectors, lambda found: as_lists(found, cube.data.shape[1])


def as_lists(vectors, patterns):
    """Points of all patterns as one array, and where each pattern's begin."""
    lists = [np.stack([vectors.raw[0, i].data[name] for name in ("qx", "qy")], -1) for i in range(patterns)]
    return {"points": np.concatenate(lists), "starts": np.cumsum([0, *map(len, lists)])}


def lattice(folder, origin="measured") -> Prepared:
    """Origin measured and fitted or given, indexing with a mean lattice that is given, local lattices, strain."""
    data = np.load(folder / "points.npz")
    shape = data["intensity"].shape[:2]
    vectors = py4DSTEM.BraggVectors(shape, (128, 128))
    vectors.set_raw_vectors(point_lists(shape, data["q"], data["intensity"]))
    guess = tuple(data["origin"].mean((0, 1)))
    mean = {"g1": data["g1"], "g2": data["g2"]}
    nodes = data["hk"] @ np.stack([mean["g1"], mean["g2"]])
    lattice = py4DSTEM.PointList(np.zeros(len(nodes), [("qx", float), ("qy", float), ("g1_ind", int), ("g2_ind", int)]))
    lattice.data["qx"], lattice.data["qy"] = nodes.T
    lattice.data["g1_ind"], lattice.data["g2_ind"] = data["hk"].T

    def call():
        if origin == "measured":
            vectors.measure_origin(center_guess=guess)
            fitted = np.stack(vectors.fit_origin(plot=False)[:2], -1)
        else:
            fitted = data["origin"]
            vectors.calibration.set_origin((fitted[..., 0], fitted[..., 1]))
        vectors.setcal(center=True, ellipse=False, pixel=False, rotate=False)
        indexed = add_indices_to_braggvectors(vectors, lattice, 5.0)
        vectors_map = fit_lattice_vectors_all_DPs(indexed)
        return fitted, vectors_map, get_strain_from_reference_g1g2(vectors_map, mean["g1"], mean["g2"])

    def arrays(result):
        fitted, vectors_map, strain = result
        maps = {
            ours: strain.get_slice(theirs).data for ours, theirs in (("exx", "e_xx"), ("eyy", "e_yy"), ("exy", "e_xy"), ("theta", "theta"))
        }
        g = {name: np.stack([vectors_map.get_slice(name + axis).data for axis in "xy"], -1) for name in ("g1", "g2")}
        return maps | g | {"origin": fitted}

    return call, arrays


def orientation(folder, count) -> Prepared:
    """One match for each pattern, by a plan of zone axes and in-plane angles 2° apart that was made beforehand."""
    data = np.load(folder / "orientation.npz")
    crystal = py4DSTEM.process.diffraction.Crystal(np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]), 79, float(data["a"]))
    crystal.setup_diffraction(float(data["energy"]))
    crystal.calculate_structure_factors(float(data["g_max"]))
    crystal.orientation_plan(
        zone_axis_range=np.array([[0, 1, 1], [1, 1, 1]]), angle_step_zone_axis=2.0, angle_step_in_plane=2.0,
        accel_voltage=float(data["energy"]), progress_bar=False,
    )  # fmt: skip
    vectors = py4DSTEM.BraggVectors((1, count), (128, 128))
    fields = [("qx", float), ("qy", float), ("intensity", float)]
    found = py4DSTEM.PointListArray(dtype=fields, shape=(1, count))
    for i in range(count):
        part = data["peaks"][data["starts"][i] : data["starts"][i + 1]]
        rows = np.zeros(len(part), fields)
        rows["qx"], rows["qy"], rows["intensity"] = part.T
        found[0, i].add(rows)
    vectors.set_raw_vectors(found)
    vectors.calibration.set_origin((np.full((1, count), float(data["origin"])),) * 2)
    vectors.calibration.set_Q_pixel_size(float(data["q_pixel"]))
    vectors.calibration.set_Q_pixel_units("A^-1")
    vectors.setcal(center=True, ellipse=False, pixel=True, rotate=False)

    def call():
        return crystal.match_orientations(vectors, num_matches_return=1, min_number_peaks=3, progress_bar=False)

    return call, lambda found: {"turns": np.swapaxes(found.matrix[0, :, 0], -1, -2)}  # its matrices turn lab axes into crystal axes


def images(folder) -> Prepared:
    """Four ring images, mean and maximum pattern of a scan in memory, one pass each."""
    with h5py.File(folder / "scan.h5") as file:
        cube = py4DSTEM.DataCube(file["data"][()])
    masks = np.load(folder / "masks.npy")

    def call():
        found = [cube.get_virtual_image("mask", mask, verbose=False, name=f"image {i}") for i, mask in enumerate(masks)]
        return found, cube.get_dp_mean(returncalc=True), cube.get_dp_max(returncalc=True)

    return call, lambda found: {
        "images": np.stack([np.asarray(image.data) for image in found[0]]),
        "mean": np.asarray(found[1].data),
        "max": np.asarray(found[2].data),
    }


def point_lists(shape, q, intensity):
    fields = [("qx", float), ("qy", float), ("intensity", float)]
    found = py4DSTEM.PointListArray(dtype=fields, shape=shape)
    for rx, ry in np.ndindex(shape):
        there = np.isfinite(intensity[rx, ry])
        rows = np.zeros(there.sum(), fields)
        rows["qx"], rows["qy"] = q[rx, ry][there].T
        rows["intensity"] = intensity[rx, ry][there]
        found[rx, ry].add(rows)
    return found


def dpc(folder) -> Prepared:
    """64 iterations from a centre of mass that is given; preparations are not timed."""
    data = np.load(folder / "field.npz")
    com = data["com"]
    cube = py4DSTEM.DataCube(np.ones((*com.shape[:2], 8, 8), np.float32))
    cube.calibration.set_R_pixel_size(float(data["r_pixel"]))
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(float(data["q_pixel"]))
    cube.calibration.set_Q_pixel_units("A^-1")
    found = DPC(datacube=cube, energy=80e3, verbose=False)
    zero = np.zeros(com.shape[:2])
    found.preprocess(
        force_com_rotation=0, force_com_transpose=False, force_com_measured=[com[..., 0], com[..., 1]], force_com_shifts=[zero, zero],
        plot_center_of_mass=False, plot_rotation=False,
    )  # fmt: skip

    def call():
        return found.reconstruct(reset=True, max_iter=64, progress_bar=False)

    return call, lambda done: {"phase": np.asarray(done.object_phase if hasattr(done, "object_phase") else done.object).real}


def measured(data):
    """A cube with its pixel sizes."""
    cube = py4DSTEM.DataCube(data["patterns"].astype(np.float32))
    cube.calibration.set_R_pixel_size(float(data["r_pixel"]))
    cube.calibration.set_R_pixel_units("A")
    cube.calibration.set_Q_pixel_size(float(data["q_pixel"]))
    cube.calibration.set_Q_pixel_units("A^-1")
    return cube


def parallax(folder) -> Prepared:
    """Stack, alignment with regularised shifts, and the fit of aberrations, as its tutorial does it; nothing but the data is given."""
    with np.load(folder / "far.npz") as stored:
        data = dict(stored)
    cube = measured(data)

    def call():
        found = Parallax(energy=float(data["energy"]), datacube=cube, object_padding_px=(16, 16), verbose=False)
        found.preprocess(edge_blend=4, force_rotation_angle_deg=0, force_transpose=False, plot_average_bf=False)
        found.reconstruct(regularize_shifts=True, progress_bar=False, plot_aligned_bf=False, plot_convergence=False)
        found.aberration_fit(plot_CTF_comparison=False)
        return found

    def arrays(found):
        first = [tuple(order) for order in np.asarray(found._aberrations_mn)[:, :2]].index((1, 0))
        return {"C10": np.asarray(float(found._aberrations_coefs[first]))}

    return call, arrays


def iterative(folder, sweeps) -> Prepared:
    """Gradient descent with the true defocus given and the probe free; preparations are not timed."""
    with np.load(folder / "near.npz") as stored:
        data = dict(stored)
    found = SingleslicePtychography(
        energy=float(data["energy"]), datacube=measured(data), semiangle_cutoff=float(data["semiangle"]), object_type="complex",
        polar_parameters={"C10": -float(data["defocus"])}, verbose=False,
    )  # fmt: skip
    found.preprocess(
        force_com_rotation=0, force_com_transpose=False, plot_center_of_mass=False, plot_rotation=False, plot_probe_overlaps=False
    )

    def call():
        return found.reconstruct(
            reset=True, num_iter=sweeps, max_batch_size=256, step_size=0.5, progress_bar=False, seed_random=0
        )  # fmt: skip

    def arrays(done):
        return {"phase": np.angle(done.object_cropped), "pixel": np.asarray(done.sampling), "loss": np.asarray(done.error_iterations)}

    return call, arrays


def versions():
    return {"py4DSTEM": py4DSTEM.__version__, "numpy": np.__version__}


if __name__ == "__main__":
    serve({"bragg": bragg, "images": images, "close disks": close_disks, "lattice": lattice, "orientation": orientation, "dpc": dpc,
           "parallax": parallax, "iterative": iterative}, versions)  # fmt: skip
