"""What every engine is told, read back by its documented layout, is the scan: places, orientation, counts, energy, angle, focus.

PtyRAD: arrays (n, y, x); positions are the raster times [[c, s], [-s, c]] of `pos_scan_affine`; C10 in Å. phaser: (slow, fast, y, x);
positions are `affine` times (y, x); defocus in Å, positive for overfocus. Pty-Chi: (n, y, x); positions and pixels in m; the probe itself.
"""

import json

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d import physics
from gpu4d.data.scan_axes import scan_matrix
from gpu4d.probe.wavefunction import chi
from gpu4d.ptychography import hand_over

ENGINES = ("ptyrad", "phaser", "pty-chi")
SHAPE, DETECTOR, ORIGIN, STEP, ENERGY, ANGLE, FOCUS = (3, 5), (12, 14), (5.0, 7.0), 0.37, 80e3, 22.0, 120.0
SIDE = 14  # of the written patterns, with the disk at (7, 7)


def _scan(rotation, transpose):
    """A scan with counts that tell their position, and a mark in the first pixel of the detector at position (1, 3)."""
    data = np.random.default_rng(0).poisson(5.0, (*SHAPE, *DETECTOR)).astype("u2")
    data[:, :, 6, 6] += 100 + np.arange(15, dtype="u2").reshape(SHAPE)
    data[1, 3, 0, 0] = 7777
    known = gpu4d.Calibration(
        energy=ENERGY, semiangle=ANGLE, q_pixel=0.1, r_pixel=STEP, origin=ORIGIN, rotation=rotation, transpose=transpose
    )
    return gpu4d.DataCube(data, known)


def _read(folder, engine, yaml):
    """Return patterns (n, N, N), places (n, 2) in Å along the patterns' axes, pixel of the object, energy, angle and C10."""
    with h5py.File(folder / "data.h5") as file:
        patterns = file["dp"][:].reshape(-1, SIDE, SIDE)
    raster = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2)
    if engine == "ptyrad":
        told = yaml.safe_load((folder / "ptyrad.yaml").read_text())["init_params"]
        assert (told["pos_N_scan_slow"], told["pos_N_scan_fast"]) == SHAPE and told["meas_Npix"] == SIDE
        assert told["pos_scan_rand_std"] is None, "its default adds noise to the positions"
        turn = np.radians(told["pos_scan_affine"][2])
        places = told["pos_scan_step_size"] * raster @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        pixel = 1 / (SIDE * told["meas_calibration"]["value"])
        return patterns, places, pixel, told["probe_kv"] * 1e3, told["probe_conv_angle"], told["probe_aberrations"]["C10"]
    if engine == "phaser":
        told = yaml.safe_load((folder / "phaser.yaml").read_text())
        raw, probe, scan = told["raw_data"], told["init"]["probe"], told["init"]["scan"]
        assert tuple(scan["shape"]) == SHAPE
        places = scan["step_size"] * raster @ np.array(scan["affine"]).T
        pixel = physics.wavelength(ENERGY) / (SIDE * raw["diff_step"] * 1e-3)
        return patterns, places, pixel, raw["kv"] * 1e3, probe["conv_angle"], probe["defocus"]
    told = json.loads((folder / "settings.json").read_text())
    with h5py.File(folder / "parameters.h5") as file:
        places = np.stack([file["probe_position_y_m"][:], file["probe_position_x_m"][:]], -1) * 1e10
        probe, pixel = file["probe"][0, 0], file["probe"].attrs["pixel_height_m"] * 1e10
    wavelength = told["data_options"]["wavelength_m"] * 1e10
    k = np.fft.fftfreq(SIDE, pixel)
    radius = np.hypot(k[:, None], k)
    wave = np.fft.fft2(np.fft.ifftshift(probe))
    lit = radius < 0.4  # 1/Å: farther out χ exceeds half a turn
    semiangle = np.sqrt((np.abs(wave) ** 2).sum() / (np.abs(wave) ** 2).max() / np.pi) / (SIDE * pixel) * wavelength * 1e3
    curve = np.angle(wave / wave[0, 0])[lit] / (-np.pi * wavelength)
    focus = np.linalg.lstsq((radius[lit] ** 2)[:, None], curve, rcond=None)[0][0]
    energy = min(np.linspace(79e3, 81e3, 2001), key=lambda e: abs(physics.wavelength(e) - wavelength))
    return patterns, places, pixel, energy, semiangle, focus


@pytest.mark.parametrize(("rotation", "transpose"), [(0.0, False), (0.3, False), (-0.7, True)])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_read_back_is_the_scan(engine, rotation, transpose, tmp_path, need):
    cube = _scan(rotation, transpose)
    hand_over(cube, tmp_path, engine=engine, aberrations={"defocus": FOCUS})
    patterns, places, pixel, energy, angle, focus = _read(tmp_path, engine, need("yaml"))

    truth = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2) * STEP
    along = places[:, ::-1] if transpose else places  # patterns are written with exchanged axes
    back = along @ scan_matrix(rotation, transpose).T
    np.testing.assert_allclose(back - back.mean(0), truth - truth.mean(0), atol=1e-6)

    marked = np.argwhere(patterns == 7777)
    corner = (SIDE // 2 - 5, SIDE // 2 - 7)
    assert marked.tolist() == [[1 * 5 + 3, *(corner[::-1] if transpose else corner)]]
    np.testing.assert_array_equal(patterns.sum((1, 2)), np.asarray(cube).sum((2, 3)).reshape(-1))

    assert pixel == pytest.approx(1 / (SIDE * 0.1)) and energy == pytest.approx(ENERGY, rel=1e-5)
    assert angle == pytest.approx(ANGLE, rel=0.03 if engine == "pty-chi" else 1e-9)  # of the written probe, whose edge is in pixels
    assert focus == pytest.approx(-FOCUS, rel=0.02), "C10 of underfocus is negative, in all engines"


@pytest.mark.parametrize(("rotation", "transpose"), [(0.0, False), (0.3, False), (-0.7, True)])
def test_ptyrad_itself_reads_the_scan(rotation, transpose, tmp_path, need):
    """With PtyRAD 1.0's own reader: places, mark, counts, wavelength, and the probe that it makes of its parameters."""
    initializer, parameters = need("ptyrad.init"), need("ptyrad.params")
    cube = _scan(rotation, transpose)
    hand_over(cube, tmp_path, engine="ptyrad", aberrations={"defocus": FOCUS})
    made = initializer.Initializer(parameters.load_params(str(tmp_path / "ptyrad.yaml"))["init_params"])
    made.init_all()
    found = made.init_variables
    places = (np.asarray(found["crop_pos"], float) + np.asarray(found["probe_pos_shifts"], float)) * found["dx"]
    back = (places[:, ::-1] if transpose else places) @ scan_matrix(rotation, transpose).T
    truth = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).reshape(-1, 2) * STEP
    np.testing.assert_allclose(back - back.mean(0), truth - truth.mean(0), atol=1e-6)
    patterns = np.asarray(found["measurements"])
    corner = (SIDE // 2 - 5, SIDE // 2 - 7)
    assert np.unravel_index(patterns.argmax(), patterns.shape) == (8, *(corner[::-1] if transpose else corner))
    counts = np.asarray(cube).sum((2, 3)).reshape(-1)
    np.testing.assert_allclose(patterns.sum((1, 2)) / patterns.sum(), counts / counts.sum(), rtol=1e-5)
    assert float(found["lambd"]) == pytest.approx(physics.wavelength(ENERGY), rel=1e-6)
    wave = np.fft.fft2(np.fft.ifftshift(np.asarray(found["probe"]).squeeze()))
    k = np.fft.fftfreq(SIDE, 1 / (SIDE * 0.1))
    expected = np.exp(-1j * chi(k[:, None], k, {"defocus": FOCUS}, ENERGY))
    lit = np.abs(wave) > 0.5 * np.abs(wave).max()
    np.testing.assert_allclose(np.angle(wave * expected.conj() / (wave[0, 0] * expected[0, 0].conj()))[lit], 0, atol=1e-4)


def test_the_probe_of_pty_chi_is_the_wave_with_this_focus(tmp_path):
    """The sign of the phase, at every lit pixel: exp(-iχ)."""
    hand_over(_scan(0.0, False), tmp_path, engine="pty-chi", aberrations={"defocus": FOCUS})
    with h5py.File(tmp_path / "parameters.h5") as file:
        wave = np.fft.fft2(np.fft.ifftshift(file["probe"][0, 0]))
    k = np.fft.fftfreq(SIDE, 1 / (SIDE * 0.1))
    expected = np.exp(-1j * chi(k[:, None], k, {"defocus": FOCUS}, ENERGY))
    lit = np.abs(wave) > 0.5 * np.abs(wave).max()
    np.testing.assert_allclose(np.angle(wave * expected.conj() / (wave[0, 0] * expected[0, 0].conj()))[lit], 0, atol=1e-3)


def test_measured_positions_reach_pty_chi_exactly(tmp_path):
    cube = _scan(0.3, True)
    rng = np.random.default_rng(1)
    places = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1) * STEP + rng.normal(0, 0.05, (*SHAPE, 2))
    cube.calibration.set(positions=places)
    hand_over(cube, tmp_path, engine="pty-chi")
    with h5py.File(tmp_path / "parameters.h5") as file:
        found = np.stack([file["probe_position_x_m"][:], file["probe_position_y_m"][:]], -1) * 1e10  # exchanged, as the patterns
    back, truth = found @ scan_matrix(0.3, True).T, places.reshape(-1, 2)
    np.testing.assert_allclose(back - back.mean(0), truth - truth.mean(0), atol=1e-6)
