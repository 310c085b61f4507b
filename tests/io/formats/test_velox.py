"""Velox' .emd files: stacks whose last axis counts the frames, the description of each, and which of several images is the scan."""

import io
import json

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.format import OpenOptions
from gpu4d.io.formats.velox import Velox
from gpu4d.testing.formats import FormatTests

DETECTOR = (9, 7)
PATH = "Data/Image/5c415056c9dc4df8be289b4bf4d63e8c"


def frames(n=12):
    return np.random.default_rng(0).integers(-100, 3000, (n, *DETECTOR)).astype("int16")


def said(unit="1/m", size="1e8", scan=(0, 0), convergence="-0.03", camera="BM-Ceta"):
    """Return the description of an image as Velox writes it: all numbers are text."""
    return {
        "Optics": {"AccelerationVoltage": "300000", "BeamConvergence": convergence, "CameraLength": "0.378"},
        "Scan": {"ScanSize": {"width": str(scan[1]), "height": str(scan[0])}},
        "BinaryResult": {
            "AcquisitionUnit": "CameraImage" if camera == "BM-Ceta" else "",
            "Detector": camera,
            "PixelSize": {"width": size, "height": size},
            "PixelUnitX": unit,
            "PixelUnitY": unit,
        },
    }


def add(file, path, stack, description, chunks=None, **layout):
    """Add an image: a stack (frames, rows, columns) with its frames last, and a column of bytes for each frame."""
    group = file.create_group(path)
    data = np.ascontiguousarray(np.moveaxis(stack, 0, 2))
    group.create_dataset("Data", data=data, chunks=chunks, **layout)
    column = np.zeros((2000, len(stack)), "uint8")
    text = json.dumps(description).encode()
    column[: len(text)] = np.frombuffer(text, "uint8")[:, None]
    group.create_dataset("Metadata", data=column, chunks=(2000, 1))


def write(path, stack, description, chunks=(*DETECTOR, 1), **layout):
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([b'{"version": "8", "format": "Velox"}'], "O")
        file["Operations/CameraInputOperation/a"] = np.array([b'{"cameraName": "Ceta"}'], "O")
        add(file, PATH, stack, description, chunks, **layout)


class TestVelox(FormatTests):
    """A chunk for each frame, in a stack that could grow, as Velox writes camera images."""

    format, ending = Velox(), ".emd"

    def write(self, path):
        write(path, frames(), said(scan=(3, 4)), maxshape=(*DETECTOR, None))
        return frames().reshape(3, 4, *DETECTOR)


class TestVeloxSeveralInAChunk(FormatTests):
    """Chunks of five frames, packed with gzip; the last one is not full."""

    format, ending = Velox(), ".emd"

    def write(self, path):
        write(path, frames(), said(), chunks=(5, 4, 5), compression="gzip")
        return frames().reshape(2, 6, *DETECTOR)

    def options(self):
        return OpenOptions(scan_shape=(2, 6))


class TestVeloxWithoutChunks(FormatTests):
    format, ending = Velox(), ".emd"

    def write(self, path):
        write(path, frames(), said(), chunks=None)
        return frames().reshape(1, 12, *DETECTOR)

    def options(self):
        return OpenOptions(scan_shape=(1, -1))


def test_calibration_and_metadata(tmp_path):
    write(tmp_path / "a.emd", frames(1), said(convergence="0.002"))
    cube = gpu4d.open(tmp_path / "a.emd")
    assert cube.shape == (1, 1, *DETECTOR) and cube.name == "BM-Ceta"
    assert abs(cube.calibration.q_pixel - 0.01) < 1e-12 and cube.calibration.energy == 300e3 and cube.calibration.semiangle == 2.0
    assert cube.metadata["image"]["Optics"]["CameraLength"] == "0.378"
    assert cube.metadata["Operations"]["CameraInputOperation"]["a"] == '{"cameraName": "Ceta"}' and "Velox" in cube.metadata["Version"]
    write(tmp_path / "a.emd", frames(1), said(unit="rad", size="1e-3"))
    cube = gpu4d.open(tmp_path / "a.emd")
    assert abs(cube.calibration.q_pixel - 1e-3 / cube.calibration.wavelength) < 1e-9 and cube.calibration.semiangle is None


def test_the_scan_shape_is_asked_for(tmp_path):
    write(tmp_path / "a.emd", frames(), said())
    with pytest.raises(InputError, match=r"12 patterns, and its scan shape is not stated.*3,4"):
        gpu4d.open(tmp_path / "a.emd")
    write(tmp_path / "a.emd", frames(), said(scan=(5, 3)))  # broken off
    with pytest.raises(InputError, match="states a scan of 5×3"):
        gpu4d.open(tmp_path / "a.emd")
    assert gpu4d.open(tmp_path / "a.emd", scan_shape="frames").shape == (1, 12, *DETECTOR)


def test_one_of_several_images(tmp_path):
    path, image = tmp_path / "a.emd", np.zeros((1, 16, 16), "uint16")
    write(path, frames(), said(scan=(3, 4)))
    with h5py.File(path, "a") as file:
        add(file, "Data/Image/b", image, said(unit="m", camera="HAADF"), (16, 16, 1))
    assert gpu4d.open(path).shape == (3, 4, *DETECTOR), "the other one is in real space"
    with h5py.File(path, "a") as file:
        add(file, "Data/Image/c", frames(2), said(), None)
    with pytest.raises(InputError, match=r"2 stacks of diffraction patterns.*9×7×12 of BM-Ceta"):
        gpu4d.open(path)
    assert gpu4d.open(path, dataset="Data/Image/c", scan_shape=(1, 2)).shape == (1, 2, *DETECTOR)
    assert gpu4d.open(path, dataset="/Data/Image/b/Data").shape == (1, 1, 16, 16)
    with h5py.File(path, "a") as file:
        del file["Data/Image/c"], file[PATH]
    with pytest.raises(InputError, match=r"no diffraction patterns.*16×16×1 of HAADF"):
        gpu4d.open(path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{}", b"\xff\xfe", b"", b'{"BinaryResult": 3, "Optics": [1]}'])
def test_a_description_that_is_none(tmp_path, text):
    write(tmp_path / "a.emd", frames(), said())
    with h5py.File(tmp_path / "a.emd", "a") as file:
        del file[PATH]["Metadata"]
        if text:
            file[PATH]["Metadata"] = np.frombuffer(text, "uint8")[:, None]
    cube = gpu4d.open(tmp_path / "a.emd", dataset=PATH, scan_shape=(3, 4))
    assert cube.calibration.energy is None
    np.testing.assert_array_equal(cube.source.read(slice(0, 3), slice(0, 4)).reshape(-1, *DETECTOR), frames())


@pytest.mark.shared
def test_a_frame_of_a_ceta(shared_data):
    """It lies as Velox shows it in the thumbnail of the file."""
    path = shared_data / "vendor/velox/Camera_Ceta_Diffraction_Micro.emd"
    cube = gpu4d.open(path)
    assert cube.shape == (1, 1, 512, 512) and cube.source.dtype == np.int16 and cube.name == "BM-Ceta"
    frame = cube.source.read(slice(0, 1), slice(0, 1))[0, 0]
    assert frame[0, :5].tolist() == [-8, -5, -3, -2, -2] and frame[-1, :2].tolist() == [-9, -3] and frame[:3, 0].tolist() == [-8, -8, -7]
    assert abs(cube.calibration.q_pixel - 0.01144296802) < 1e-10 and cube.calibration.energy == 300e3
    assert cube.calibration.semiangle is None, "its convergence angle is negative"
    image = pytest.importorskip("PIL.Image")
    with h5py.File(path) as file:
        thumbnail = np.asarray(image.open(io.BytesIO(file["Thumbnail.jpg"][()].tobytes())).convert("L"), float)
    agreement = {
        name: np.corrcoef(turned.ravel(), thumbnail.ravel())[0, 1]
        for name, turned in (("as it is", frame), ("up", frame[::-1]), ("left", frame[:, ::-1]), ("transposed", frame.T))
    }
    assert agreement["as it is"] > 0.95 and max(agreement, key=agreement.get) == "as it is", agreement
