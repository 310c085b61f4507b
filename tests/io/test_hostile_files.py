"""Files that are damaged or made to harm: one clear line, no more memory than the plan says, no endless wait, no crash."""

import errno
import logging
import os
import subprocess
import sys
import textwrap
import zlib

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io import read_emd
from gpu4d.io.sources import chunked

SCAN = np.random.default_rng(0).poisson(5, (4, 6, 12, 10)).astype("u2")


def refused(path, *words, call=gpu4d.open, **arguments):
    with pytest.raises(InputError) as caught:
        call(path, **arguments)
    line = str(caught.value)
    assert line.isprintable() and os.path.basename(path) in line and all(word in line for word in words), line
    return line


def alone(code, *arguments, timeout=240):
    """Run code in a process of its own, which may hang, crash or take all memory; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)], capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.split()


def values(cube):
    return cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1]))


# ---------------------------------------------------------------- memory


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_small_chunk_that_unpacks_to_a_gigabyte(tmp_path, shuffle):
    stream, zeros = zlib.compressobj(9), bytes(1 << 24)
    first, again = (stream.compress(zeros) + stream.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    checksum = ((1 << 30) % 65521 << 16) + 1  # Adler-32 of a gigabyte of zeros
    bomb = first + 63 * again + b"\x03\x00" + checksum.to_bytes(4)  # an empty last block
    assert len(bomb) < 2 << 20 and zlib.decompressobj().decompress(bomb, 1 << 20) == zeros[: 1 << 20]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        d = file.create_dataset("s", (2, 2, 16, 16), "u1", chunks=(2, 2, 16, 16), compression="gzip", shuffle=shuffle)
        d.id.write_direct_chunk((0, 0, 0, 0), bomb)
    code = """
        import gpu4d, resource, sys
        cube = gpu4d.open(sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try: gpu4d.sweep(cube, gpu4d.MaxPattern(), memory="64 MB")
        except gpu4d.errors.InputError as error: assert "holds more than 1024 bytes" in str(error), error
        else: raise AssertionError("not refused")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    assert int(alone(code, tmp_path / "a.h5")[0]) < 64_000, "kilobytes more than before"


def test_gzip_streams_that_end_too_early_or_go_on(tmp_path):
    for change in (
        lambda b: b[:-4],
        lambda b: b[: len(b) // 2],
        lambda b: zlib.compress(bytes(959)),
        lambda b: zlib.compress(bytes(961)),
        lambda b: b"",
    ):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            d = file.create_dataset("s", data=SCAN[:, :4, :5, :6], chunks=(4, 4, 5, 6), compression="gzip")
            d.id.write_direct_chunk((0, 0, 0, 0), change(d.id.read_direct_chunk((0, 0, 0, 0))[1]) or b"x")
        cube = gpu4d.open(tmp_path / "a.h5")
        refused(tmp_path / "a.h5", "its chunk at (0, 0, 0, 0) is damaged", call=lambda path, cube=cube: values(cube))


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
@pytest.mark.parametrize("side", [10_000, 1 << 20])
def test_the_index_is_as_large_as_the_chunks_that_are_there(tmp_path, side):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        d = file.create_dataset("s", (side, side, 4, 4), "u1", chunks=(1, 1, 4, 4))
        d[7, 9], d[side - 1, side - 1] = 3, 5
    code = """
        import gpu4d, h5py, resource, sys
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cube = gpu4d.open(sys.argv[1])
        assert [int(cube[at].data.sum()) for at in ((7, 9), (-1, -1), (0, 0))] == [48, 80, 0]
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    assert int(alone(code, tmp_path / "a.h5")[0]) < 100_000, "kilobytes, most of them code"


def test_a_huge_entry_or_axis_does_not_count(tmp_path, caplog):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        root = file.create_group("r")
        root.attrs["emd_group_type"] = "root"
        root["cube/data"] = SCAN
        root.create_dataset("cube/dim0", (1 << 40,), "f8", chunks=(1 << 10,))
        for n in (1, 2, 3):
            root[f"cube/dim{n}"] = np.arange(6.0)
        root.create_dataset("metadatabundle/more/large", (1 << 40,), "f8", chunks=(1 << 10,))
        root["metadatabundle/more/small"] = 3.0
    cube = gpu4d.open(tmp_path / "a.h5")
    assert cube.metadata["metadata"]["more"] == {"small": 3.0} and "large" in caplog.text


# ---------------------------------------------------------------- damage that HDF5 does not survive


def test_a_scan_of_more_bytes_than_can_be_addressed(tmp_path):
    """Chunks that were never written take no space, so HDF5 lets a file say any size."""
    for name, positions in (("whole", 2**20), ("damaged", 2**60)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("s", (4, positions, 12, 10), "u2", chunks=(1, 1, 12, 10), maxshape=(None,) * 4)
    assert gpu4d.open(tmp_path / "whole.h5").shape == (4, 2**20, 12, 10)
    refused(tmp_path / "damaged.h5", "/s", f"4×{2**60}×12×10 uint16", "more bytes than a computer can address")


def test_a_damaged_chunk_index(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w", libver="latest") as file:
        options = {"chunks": (1, 1, 12, 10), "maxshape": (None, None, 12, 10), "compression": "gzip"}
        file.create_dataset("s", data=SCAN, **options)
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[raw.find(b"BTHD") + 20] ^= 1
    (tmp_path / "a.h5").write_bytes(raw)
    code = """
        import gpu4d, sys
        try: gpu4d.open(sys.argv[1])
        except gpu4d.errors.InputError as error: assert "checksum" in str(error), error
        print("refused")
    """
    assert alone(code, tmp_path / "a.h5") == ["refused"]


def test_a_damaged_text_beside_good_patterns(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s"] = SCAN
        file["s"].attrs["note"], file["s"].attrs["number"], file["s"].attrs["short"] = "counts", 3, np.bytes_("abc")
    whole = gpu4d.open(tmp_path / "a.h5").metadata["attributes"]["/s"]
    assert dict(whole) == {"note": "counts", "number": 3, "short": "abc"} and "note" in whole and len(whole) == 3
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    at = raw.find(b"GCOL")
    raw[at + 16 : at + 32] = bytes(16)
    (tmp_path / "a.h5").write_bytes(raw)
    code = """
        import gpu4d, sys
        cube = gpu4d.open(sys.argv[1])
        held = cube.metadata["attributes"]["/s"]
        print(int(cube[0, 0].data.sum()), held["number"], held["short"])
    """
    assert alone(code, tmp_path / "a.h5", timeout=120) == [str(SCAN[0, 0].sum()), "3", "abc"]


@pytest.mark.parametrize("filters", [{}, {"compression": "gzip"}, {"shuffle": True}, {"compression": "gzip", "shuffle": True}])
@pytest.mark.parametrize("chunks", [(2, 3, 12, 10), (3, 4, 7, 10)])
def test_checksums_are_checked_without_hdf5(tmp_path, filters, chunks):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        d = file.create_dataset("s", data=SCAN, chunks=chunks, fletcher32=True, **filters)
        _, at, size = d.id.get_chunk_info(0)[1:4]
    cube = gpu4d.open(tmp_path / "a.h5")
    assert type(cube.source).__name__ == "ChunkedSource"
    np.testing.assert_array_equal(values(cube), SCAN)
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    for place in (at, at + size // 2, at + size - 1):
        raw[place] ^= 4
        (tmp_path / "a.h5").write_bytes(raw)
        refused(tmp_path / "a.h5", "its checksum is wrong", call=lambda path: values(gpu4d.open(path)))
        raw[place] ^= 4


# ---------------------------------------------------------------- metadata


def odd_metadata(path, make):
    with h5py.File(path, "w") as file:
        root = file.create_group("r")
        root.attrs["emd_group_type"] = "root"
        calibration = root.create_group("metadatabundle/calibration")
        root["datacube/data"] = SCAN
        make(calibration)


ODD = {
    "text for a place": lambda c: (c.create_dataset("qx0", data=b"abc"), c.create_dataset("qy0", data=b"abc")),
    "three flags": lambda c: c.create_dataset("QR_flip", data=[1, 2, 3]),
    "a number for a list": lambda c: c.create_dataset("history", data=1.0),
    "a link to nowhere": lambda c: c.__setitem__("energy", h5py.SoftLink("/nowhere")),
    "another file": lambda c: c.__setitem__("energy", h5py.ExternalLink("gone.h5", "/x")),
    "energy without an end": lambda c: (c.create_dataset("energy", data=1e308), c.create_dataset("semiangle", data=1e300)),
    "a large whole number": lambda c: (c.create_dataset("energy", data=10**18), c.create_dataset("Q_pixel_units", data=b"mrad")),
    "an array for an energy": lambda c: c.create_dataset("energy", data=np.ones((2, 2))),
    "a group for a number": lambda c: c.create_group("energy").attrs.__setitem__("type", "list_of_arrays"),
    "a long list of nothing": lambda c: c.create_group("list").attrs.update(type="list_of_strings", length=1 << 40),
    "an empty value": lambda c: c.create_dataset("Q_pixel_size", data=h5py.Empty("f8")),
    "a type that is no text": lambda c: c.create_dataset("energy", data=3e5).attrs.__setitem__("type", [1, 2]),
    "a reference": lambda c: c.create_dataset("energy", data=c.ref, dtype=h5py.ref_dtype),
    "records": lambda c: c.create_dataset("energy", data=np.zeros(3, [("a", "f4"), ("b", "S3")])),
    "no number": lambda c: c.create_dataset("energy", data=np.nan),
    "itself": lambda c: c.__setitem__("me", c),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_remark_does_not_close_the_scan(tmp_path, name):
    odd_metadata(tmp_path / "a.h5", ODD[name])
    np.testing.assert_array_equal(values(gpu4d.open(tmp_path / "a.h5")), SCAN)
    read_emd(tmp_path / "a.h5")


def test_groups_that_many_names_lead_to(tmp_path):
    def make(group):
        for _ in range(40):
            inner = group.create_group("a")
            group["b"] = group["c"] = inner
            group = inner

    odd_metadata(tmp_path / "a.h5", make)
    with h5py.File(tmp_path / "a.h5", "a") as file:
        node = file["r"]
        for _ in range(30):
            inner = node.create_group("a")
            inner.attrs["emd_group_type"] = "array"
            inner["data"] = np.ones((2, 2))
            inner["self"], node["b"] = inner, inner
            node = inner
    code = "import gpu4d, sys; from gpu4d.io import read_emd; print(gpu4d.open(sys.argv[1]).shape[0], len(read_emd(sys.argv[1])))"
    assert alone(code, tmp_path / "a.h5") == ["4", "31"]


@pytest.mark.parametrize(
    "mask", [np.zeros((12, 10), bool), np.ones((3, 3), bool), np.ones((12, 10)) * 1j, np.bytes_("x"), np.ones((12, 10), "u1")]
)
def test_an_impossible_detector_mask(tmp_path, mask):
    gpu4d.save(tmp_path / "a.h5", {"cube": gpu4d.DataCube(SCAN, detector_mask=np.ones((12, 10), bool))})
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["gpu4d/cube/metadatabundle/detector/mask"]
        file["gpu4d/cube/metadatabundle/detector/mask"] = mask
    cube = gpu4d.open(tmp_path / "a.h5")
    assert (cube.detector_mask is not None) == (np.shape(mask) == (12, 10) and np.asarray(mask).dtype.kind == "u")


# ---------------------------------------------------------------- other files


def test_the_file_that_is_read_is_named(tmp_path):
    (tmp_path / "secret.txt").write_bytes(b"root:x:0:0:" * 100)
    SCAN.tofile(tmp_path / "raw.bin")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["scan"] = SCAN
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("external", (1, 1, 20, 50), "u1", external=[(str(tmp_path / "secret.txt"), 0, h5py.h5f.UNLIMITED)])
        halves = [(str(tmp_path / "raw.bin"), 0, SCAN.nbytes // 2), (str(tmp_path / "raw.bin"), SCAN.nbytes // 2, SCAN.nbytes // 2)]
        file.create_dataset("two parts", SCAN.shape, "u2", external=halves)
        file["link"] = h5py.ExternalLink("other.h5", "/scan")
        for name, rows in (("virtual", 4), ("part", 3)):
            layout = h5py.VirtualLayout((rows, *SCAN.shape[1:]), "u2")
            layout[...] = h5py.VirtualSource("other.h5", "scan", SCAN.shape)[:rows]
            file.create_virtual_dataset(name, layout)
        file["own"] = SCAN
    for name, other in {
        "external": "secret.txt",
        "two parts": "raw.bin",
        "link": "other.h5",
        "virtual": "other.h5",
        "part": "other.h5",
    }.items():
        assert f", in {tmp_path / other}" in repr(gpu4d.open(tmp_path / "a.h5", dataset=name)), name
        values(gpu4d.open(tmp_path / "a.h5", dataset=name))
    assert ", in " not in gpu4d.open(tmp_path / "a.h5", dataset="own").source.description


# ---------------------------------------------------------------- headers of .npy files


def npy(path, shape, version=(1, 0), descr="'<u2'"):
    head = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    length = len(head).to_bytes(2 if version[0] == 1 else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes(version) + length + head.encode() + bytes(800))


@pytest.mark.parametrize(
    "shape",
    [
        "(-2, 2, 4, 4)",
        "(True, True, 4, 4)",
        f"({2**63 - 1}, 2, 4, 4)",
        f"({2**64 + 1}, 2, 4, 4)",
        "(2.0, 2, 4, 4)",
        "5",
        "(2, 2",
        "([2], 2, 4, 4)",
    ],
)
def test_shapes_that_are_none(tmp_path, shape):
    npy(tmp_path / "a.npy", shape)
    refused(tmp_path / "a.npy", "not a readable .npy file")


def test_versions_and_types_of_npy(tmp_path):
    for version in ((1, 0), (2, 0), (3, 0)):
        npy(tmp_path / "a.npy", "(2, 2, 4, 4)", version)
        assert gpu4d.open(tmp_path / "a.npy").shape == (2, 2, 4, 4)
    for version in ((9, 9), (0, 0), (1, 1)):
        npy(tmp_path / "a.npy", "(2, 2, 4, 4)", version)
        refused(tmp_path / "a.npy", "version")
    for descr in ("'O'", "'<M8'", "'nonsense'", "[('a', '<f4')]", "'<f16'"):
        npy(tmp_path / "a.npy", "(2, 2, 4, 4)", descr=descr)
        refused(tmp_path / "a.npy")


# ---------------------------------------------------------------- drives that fail


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_read_that_fails_is_told_as_one(tmp_path, monkeypatch, number):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("s", data=SCAN, chunks=(1, 6, 12, 10), compression="gzip")
    cube = gpu4d.open(tmp_path / "a.h5")

    def failing(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(chunked, "_read_at", failing)
    refused(tmp_path / "a.h5", os.strerror(number), "drive failed", call=lambda path: gpu4d.sweep(cube, gpu4d.MeanPattern()))


def test_a_chunk_longer_than_its_file(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("s", data=SCAN, chunks=(1, 6, 12, 10), compression="gzip")
    cube = gpu4d.open(tmp_path / "a.h5")
    os.truncate(tmp_path / "a.h5", cube.source.index.offsets.max() + 2)
    refused(tmp_path / "a.h5", "the file ends inside a chunk", call=lambda path: values(cube))


def test_names_that_no_file_has(tmp_path):
    with pytest.raises(InputError, match=r"a\\x00b.h5"):
        gpu4d.open("a\0b.h5")
    for wrong in ("a\0b.h5", None, 3.5):
        with pytest.raises(InputError, match=r"cannot be the name of a file|takes the path of a file"):
            gpu4d.save(wrong, {})
    path = os.fsencode(tmp_path) + b"/caf\xe9.h5"
    with h5py.File(path, "w") as file:
        file["s"] = SCAN[:1, 0]
    with pytest.raises(InputError) as caught:
        gpu4d.open(os.fsdecode(path))
    assert r"caf\xe9.h5" in str(caught.value) and logging.getLogger("gpu4d") is not None
