"""DM3 and DM4 files, written here tag by tag: both orders of a scan's axes, stacks, calibration, and what is refused."""

import struct

import numpy as np
import pytest

import gpu4d
from gpu4d import physics
from gpu4d.errors import InputError
from gpu4d.io.formats.digitalmicrograph import DigitalMicrograph
from gpu4d.testing.formats import FormatTests

# Letters of `struct` by the number of a type in the file, and the number of an image's data type.
LETTERS = {2: "h", 3: "i", 4: "H", 5: "I", 6: "f", 7: "d", 8: "?", 10: "B", 12: "Q"}
ENCODED = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "u1": 10}
DATA_TYPE = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "u2": 10, "u4": 11, "f8": 12, "c8": 3}


class Tag:
    """Bytes of tags of one version and byte order. Structure is big-endian always, values are in the file's order."""

    def __init__(self, version, order="<"):
        self.version, self.order = version, order

    def count(self, n):
        return struct.pack(">Q" if self.version == 4 else ">I", n)

    def entry(self, kind, name, held):
        name = name.encode("latin-1")
        length = self.count(len(held)) if self.version == 4 else b""
        return struct.pack(">BH", kind, len(name)) + name + length + held

    def group(self, entries):
        """A group of (name, bytes of an entry's content, kind)."""
        return (
            b"\1\0"
            + self.count(len(entries))
            + b"".join(self.entry(20 if is_group else 21, name, held) for name, held, is_group in entries)
        )

    def value(self, kind, number):
        return b"%%%%" + self.count(1) + self.count(kind) + struct.pack(self.order + LETTERS[kind], number)

    def text(self, words):
        units = words.encode("utf-16-le" if self.order == "<" else "utf-16-be")
        return b"%%%%" + self.count(3) + self.count(20) + self.count(4) + self.count(len(units) // 2) + units

    def array(self, kind, data, n):
        return b"%%%%" + self.count(3) + self.count(20) + self.count(kind) + self.count(n) + data

    def structure(self, kind, numbers):
        info = [15, 0, len(numbers)] + [part for _ in numbers for part in (0, kind)]
        return (
            b"%%%%"
            + self.count(len(info))
            + b"".join(map(self.count, info))
            + struct.pack(self.order + LETTERS[kind] * len(numbers), *numbers)
        )

    def structures(self, n):
        """An array of n pairs of a short and a float."""
        info = [20, 15, 0, 2, 0, 2, 0, 6, n]
        return b"%%%%" + self.count(len(info)) + b"".join(map(self.count, info)) + struct.pack(self.order + "hf" * n, *([1, 2.0] * n))

    def tree(self, tags):
        """A group of a dictionary. Bytes are contents that are made already."""
        out = []
        for name, held in tags.items():
            name = "" if isinstance(name, int) else name
            if isinstance(held, dict):
                out.append((name, self.tree(held), True))
            elif isinstance(held, bytes):
                out.append((name, held, False))
            elif isinstance(held, bool):
                out.append((name, self.value(8, held), False))
            elif isinstance(held, str):
                out.append((name, self.text(held), False))
            else:
                out.append((name, self.value(5 if isinstance(held, int) else 6, held), False))
        return self.group(out)

    def file(self, tags):
        root = self.tree(tags)
        return struct.pack(">I", self.version) + self.count(len(root)) + struct.pack(">I", self.order == "<") + root + bytes(8)


def image(tag, stored, axes=(), tags=None, name="scan", pad=0):
    """One image. `stored` is in C order, so its last axis is the file's first; `axes` are (scale, units), the first axis first."""
    kind = stored.dtype.str[1:]
    data = stored.astype(stored.dtype.newbyteorder(tag.order)).tobytes()
    steps = {i: {"Origin": 0.0, "Scale": float(scale), "Units": units} for i, (scale, units) in enumerate(axes)}
    held = {
        "Calibrations": {"Dimension": steps, "Brightness": {"Scale": 1.0, "Units": "e-"}},
        "Data": tag.array(ENCODED.get(kind, 6), data, stored.size * (2 if kind == "c8" else 1)),
        "DataType": DATA_TYPE[kind],
        "Dimensions": {i: n for i, n in enumerate(stored.shape[::-1])},
        "PixelDepth": stored.itemsize,
    }
    return {"ImageData": held, "ImageTags": {"p" * pad: {}} | (tags or {}), "Name": name, "UniqueID": tag.structure(5, (1, 2, 3, 4))}


def write(path, images, version=4, order="<"):
    tag = Tag(version, order)
    made = {0: image(tag, np.zeros((70, 80), "u4"), name="thumbnail")} | {i + 1: image(tag, *each) for i, each in enumerate(images)}
    document = {"AnnotationGroupList": {}, "Thumbnails": {0: {"ImageIndex": 0}}, "Table": tag.structures(3), "InImageMode": True}
    path.write_bytes(tag.file({"ApplicationBounds": tag.structure(2, (0, 0, 5, 7)), "DocumentObjectList": document, "ImageList": made}))


def patterns(scan, detector, dtype):
    return np.random.default_rng(0).integers(0, 200, (*scan, *detector)).astype(dtype)


SCAN_AXES, DETECTOR_AXES = [(2.0, "nm"), (2.0, "nm")], [(0.05, "1/nm"), (0.05, "1/nm")]
MICROSCOPE = {"Microscope Info": {"Voltage": 200e3, "STEM Camera Length": 130.0}}
SWAPPED = MICROSCOPE | {"Meta Data": {"Format": "Diffraction image", "Data Order Swapped": True}}


class TestPatternsFirst(FormatTests):
    """A scan of newer versions: (kx, ky, x, y)."""

    format, ending = DigitalMicrograph(), ".dm4"

    def write(self, path):
        data = patterns((3, 4), (14, 30), "<u2")
        write(path, [(data, DETECTOR_AXES + SCAN_AXES, SWAPPED)])
        return data


class TestScanFirst(FormatTests):
    """A scan of older versions: (x, y, kx, ky), at an odd byte."""

    format, ending = DigitalMicrograph(), ".dm4"

    def write(self, path):
        data = patterns((3, 5), (70, 30), "<f4")
        write(path, [(data.transpose(2, 3, 0, 1), SCAN_AXES + DETECTOR_AXES, MICROSCOPE, "scan", 1)])
        return data


class TestBigEndianDm3(FormatTests):
    """A DM3 file of a Macintosh, a stack with the scan's shape among the tags of a spectrum image."""

    format, ending = DigitalMicrograph(), ".dm3"

    def write(self, path):
        data = patterns((4, 3), (20, 25), "<i2")
        sampling = {"SI": {"Acquisition": {"Spatial Sampling": {"Height (pixels)": 4, "Width (pixels)": 3}}}}
        write(path, [(data.reshape(12, 20, 25), (), sampling)], version=3, order=">")
        return data


class TestScanFirstBigEndian(FormatTests):
    """Nothing says which axes are those of the scan: they are the first ones. One scan row, and its lines are longer than a strip."""

    format, ending = DigitalMicrograph(), ".dm3"

    def write(self, path):
        data = patterns((2, 300), (3, 5), "<u4")
        write(path, [(data.transpose(2, 3, 0, 1),)], version=3, order=">")
        return data


def test_calibration_and_what_else_the_file_says(tmp_path):
    path = tmp_path / "scan.dm4"
    data = TestPatternsFirst().write(path)
    cube = gpu4d.open(path)
    c = cube.calibration
    np.testing.assert_allclose((c.q_pixel, c.r_pixel, c.energy), (0.005, 20.0, 200e3), rtol=1e-6)
    assert cube.name == "scan" and cube.metadata["image"] == "ImageList/1"
    tags = cube.metadata["tags"]
    assert tags["ImageTags"]["Microscope Info"]["STEM Camera Length"] == 130 and tags["UniqueID"] == (1, 2, 3, 4)
    np.testing.assert_array_equal(np.asarray(cube), data)


def test_angles_become_frequencies(tmp_path):
    write(tmp_path / "a.dm4", [(patterns((3, 4), (20, 30), "<f4"), [(0.5, "mrad")] * 2 + [(1.0, "µm")] * 2, SWAPPED)])
    c = gpu4d.open(tmp_path / "a.dm4").calibration
    assert c.q_pixel == pytest.approx(physics.angle_to_frequency(0.5, 200e3)) and c.r_pixel == pytest.approx(1e4)


@pytest.mark.parametrize("tags, axes, scan_first", [
    ({"Meta Data": {"Data Order Swapped": True}}, SCAN_AXES + DETECTOR_AXES, False),  # the tag counts more than units
    ({"Meta Data": {"Data Order Swapped": False}}, (), True),
    ({}, DETECTOR_AXES + SCAN_AXES, False),
    ({}, SCAN_AXES + DETECTOR_AXES, True),
    ({}, (), True),
])  # fmt: skip
def test_which_axes_are_those_of_the_scan(tmp_path, tags, axes, scan_first):
    stored = patterns((16, 18), (17, 19), "<u2")
    write(tmp_path / "a.dm4", [(stored, axes, tags)])
    found = np.asarray(gpu4d.open(tmp_path / "a.dm4"))
    np.testing.assert_array_equal(found, stored.transpose(2, 3, 0, 1) if scan_first else stored)


def test_a_stack_needs_a_scan_shape(tmp_path):
    data = patterns((4, 6), (20, 30), "u1")
    write(tmp_path / "a.dm4", [(data.reshape(24, 20, 30),)])
    with pytest.raises(InputError, match=r"24 patterns, and its scan shape is not stated.*4,6, 6,4"):
        gpu4d.open(tmp_path / "a.dm4")
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.dm4", scan_shape=(4, 6))), data)
    assert gpu4d.open(tmp_path / "a.dm4", scan_shape="frames").shape == (1, 24, 20, 30)


def test_a_line_of_patterns_with_the_scan_axis_first(tmp_path):
    data = patterns((1, 9), (20, 30), "u1")
    write(tmp_path / "a.dm4", [(data[0].transpose(1, 2, 0), SCAN_AXES[:1] + DETECTOR_AXES)])
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.dm4")), data)


def test_the_scan_among_other_images(tmp_path):
    """Consolidated files hold the survey image, a virtual image and a pattern as well."""
    data = patterns((3, 4), (20, 30), "<u2")
    others = [(np.zeros((90, 80), "f4"),), (np.zeros((2, 60, 70), "u2"),)]
    write(tmp_path / "a.dm4", [*others, (data, (), SWAPPED)])
    np.testing.assert_array_equal(np.asarray(gpu4d.open(tmp_path / "a.dm4")), data)
    assert gpu4d.open(tmp_path / "a.dm4", dataset="ImageList/2", scan_shape=(1, 2)).shape == (1, 2, 60, 70)
    write(tmp_path / "b.dm4", [(data, (), SWAPPED), (data, (), SWAPPED)])
    with pytest.raises(InputError, match=r"several scans: ImageList/1 .*dataset='ImageList/1'"):
        gpu4d.open(tmp_path / "b.dm4")


@pytest.mark.parametrize("images, message", [
    ([(np.zeros((80, 90), "f4"),)], "no scan in it"),
    ([(np.zeros((30, 20, 20), "f4"), (), {"Meta Data": {"Format": "Spectrum image"}})], "no scan in it"),
    ([(np.zeros((3, 4, 20, 30), "c8"), (), SWAPPED)], "holds complex"),
    ([(np.zeros((2, 3, 4, 20, 30), "u1"), (), SWAPPED)], "no scan in it"),
])  # fmt: skip
def test_what_is_no_scan(tmp_path, images, message):
    write(tmp_path / "a.dm4", images)
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.dm4")


def nested(tag, depth):
    held = tag.group([])
    for _ in range(depth):
        held = tag.group([("", held, True)])
    return held


@pytest.mark.parametrize("content, message", [
    (lambda t: t.group([("a", b"%%%%" + t.count(3) + t.count(20) + t.count(4) + t.count(1 << 40), False)]), "truncated"),
    (lambda t: b"\1\0" + t.count(1 << 50), "a group of"),
    (lambda t: nested(t, 5000), "inside each other"),
    (lambda t: t.group([("a", b"%%%%" + t.count(1 << 40), False)]), "a type of"),
    (lambda t: t.group([("a", b"%%%%" + t.count(3) + t.count(15) + t.count(0) + t.count(1 << 40), False)]), "a structure"),
])  # fmt: skip
def test_hostile_tags(tmp_path, content, message):
    """Counts of more than there is, and groups inside each other without an end, are refused before anything is allocated."""
    tag = Tag(4)
    root = content(tag)
    (tmp_path / "a.dm4").write_bytes(struct.pack(">IQI", 4, len(root), 1) + root + bytes(64))
    with pytest.raises(InputError, match=message):
        gpu4d.open(tmp_path / "a.dm4")
