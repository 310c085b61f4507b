"""zarr stores, written here from the descriptions of versions 2 and 3, byte by byte."""

import itertools
import json
import os
import pickle
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import gpu4d
from gpu4d.errors import InputError
from gpu4d.io.formats.zarr import Zarr, ZarrZip
from gpu4d.io.sources import codecs
from gpu4d.io.writing.encoders import Blosc
from gpu4d.testing.formats import FormatTests

SHAPE = (5, 7, 9, 11)
GZIP = {"name": "gzip", "configuration": {"level": 5}}
BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
INDEX = [BYTES, {"name": "crc32c"}]


def scan(dtype="uint16", shape=SHAPE):
    """Counts whose bytes all matter, of which some chunks are all zero."""
    values = np.random.default_rng(3).integers(0, 60000, shape).astype(dtype)
    values[:2, :2] = 0
    return values


def crc32c(data):
    """The checksum by its definition: the remainder of a division of polynomials, bit by bit."""
    total = 0xFFFFFFFF
    for byte in bytes(data):
        total ^= byte
        for _ in range(8):
            total = total >> 1 ^ (0x82F63B78 if total & 1 else 0)
    return total ^ 0xFFFFFFFF


def zstd(data):
    """Zstandard by its reference library."""
    codecs.FUNCTIONS["ZSTD_compress"] = ("zstd", codecs.SIZE, (codecs.ADDRESS, codecs.SIZE, codecs.ADDRESS, codecs.SIZE, codecs.NUMBER))
    source, out = np.frombuffer(data, np.uint8), np.empty(len(data) + 1000, np.uint8)
    return out[: codecs.function("ZSTD_compress")(out.ctypes.data, out.size, source.ctypes.data, source.size, 1)].tobytes()


def blocks(data, chunks):
    """Numbers and values of every chunk; those over the edge are filled up with 1."""
    for place in itertools.product(*(range(-(-n // c)) for n, c in zip(data.shape, chunks))):
        part = data[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, chunks))]
        yield place, np.pad(part, [(0, c - n) for c, n in zip(chunks, part.shape)], constant_values=1)


def put(folder, key, content):
    file = folder.joinpath(*key.split("/"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def version2(folder, data, chunks, *, key="", stored=">u2", order="C", separator=".", attributes=None, encode=zlib.compress, **meta):
    """Write an array of version 2: a file for each chunk."""
    given = {"zarr_format": 2, "shape": data.shape, "chunks": chunks, "dtype": stored, "order": order, "fill_value": 0, "filters": None}
    given |= {"compressor": {"id": "zlib", "level": 1}, "dimension_separator": separator, **meta}
    put(folder, key + ".zarray", given)
    put(folder, key + ".zattrs", attributes or {})
    for place, values in blocks(data, chunks):
        put(folder, key + separator.join(map(str, place)), encode(values.astype(stored).tobytes(order)))


def node3(shape, stored, codecs, dtype="uint16", separator="/", **more):
    grid = {"name": "regular", "configuration": {"chunk_shape": stored}}
    naming = {"name": "default", "configuration": {"separator": separator}}
    given = {"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": dtype, "chunk_grid": grid, "fill_value": 0}
    return {**given, "chunk_key_encoding": naming, "codecs": codecs, "attributes": {"note": "a scan"}, **more}


def version3(folder, data, chunks, *, encode=lambda b: zlib.compress(b, wbits=31), codecs=(BYTES, GZIP), stored="<u2", axes=None, **more):
    put(folder, "zarr.json", node3(data.shape, chunks, list(codecs), **more))
    for place, values in blocks(data, chunks):
        turned = values.astype(stored) if axes is None else np.ascontiguousarray(values.astype(stored).transpose(axes))
        put(folder, "c/" + "/".join(map(str, place)), encode(turned.tobytes()))


def sharded(folder, data, chunks, shards, *, place="end", order="little", encode=lambda b: zlib.compress(b, wbits=31), inner=(BYTES, GZIP)):
    """Write an array of version 3 whose files hold several chunks and an index: offset and length of each, and a CRC32C."""
    index_codecs = [{"name": "bytes", "configuration": {"endian": order}}, {"name": "crc32c"}]
    settings = {"chunk_shape": chunks, "codecs": list(inner), "index_codecs": index_codecs, "index_location": place}
    put(folder, "zarr.json", node3(data.shape, shards, [{"name": "sharding_indexed", "configuration": settings}]))
    size = np.prod([s // c for s, c in zip(shards, chunks)]) * 16 + 4
    for number, values in blocks(data, shards):
        parts, index, at = [], [], int(size) if place == "start" else 0
        for _, chunk in blocks(values, chunks):
            coded = encode(chunk.astype("<u2").tobytes()) if chunk.any() else None
            index += [at, len(coded)] if coded is not None else [2**64 - 1] * 2
            parts.append(coded or b"")
            at += len(parts[-1])
        entries = struct.pack(f"{'<' if order == 'little' else '>'}{len(index)}Q", *index)
        entries += struct.pack("<I", crc32c(entries))
        body = b"".join(parts)
        put(folder, "c/" + "/".join(map(str, number)), entries + body if place == "start" else body + entries)


class TestVersion2(FormatTests):
    format, ending = Zarr(), ".zarr"

    def write(self, path):
        data = scan()
        put(path, ".zgroup", {"zarr_format": 2})
        version2(path, data, (2, 3, 9, 6), key="scan/", separator="/")
        return data


class TestShards(FormatTests):
    format, ending = Zarr(), ".zarr"

    def write(self, path):
        data = scan()
        sharded(path, data, (1, 2, 9, 11), (2, 4, 9, 11))
        return data


class TestOneRow(FormatTests):
    format, ending = Zarr(), ".zarr"

    def write(self, path):
        data = scan("float32", (1, 13, 9, 11))
        version3(path, data, (1, 4, 9, 11), stored="<f4", dtype="float32", encode=zstd, codecs=(BYTES, {"name": "zstd"}))
        return data


class TestZip(FormatTests):
    format, ending = ZarrZip(), ".zip"

    def write(self, path):
        data = scan()
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path, "w") as held:  # members are not compressed
            version3(Path(folder), data, (2, 4, 9, 11))
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    held.writestr(str(file.relative_to(folder)), file.read_bytes())
        return data


def check(path, expected, **options):
    source = gpu4d.open(path, **options).source
    for one in (source, pickle.loads(pickle.dumps(source))):
        got = one.read(slice(0, one.shape[0]), slice(0, one.shape[1]))
        np.testing.assert_array_equal(got, expected.reshape(one.shape))
        np.testing.assert_array_equal(one.read(slice(1, 3), slice(2, 6)), expected.reshape(one.shape)[1:3, 2:6])
    assert got.dtype.isnative


def blosc(name):
    return lambda data: Blosc(name, 2)(np.frombuffer(data, np.uint16)).tobytes()


def shuffled(data):
    return np.frombuffer(data, np.uint8).reshape(-1, 2).T.tobytes()


def differences(data):
    values = np.frombuffer(data, ">u2").astype(np.uint16)
    return np.diff(values, prepend=np.uint16(0)).astype(">u2").tobytes()


def with_sum(data):
    return data + struct.pack("<I", crc32c(data))


@pytest.mark.parametrize(
    "meta, encode",
    [
        ({"compressor": None}, bytes),
        ({"compressor": {"id": "blosc", "cname": "lz4"}}, blosc("lz4")),
        ({"compressor": {"id": "zstd", "level": 1}, "order": "F"}, zstd),
        ({"compressor": None, "filters": [{"id": "shuffle", "elementsize": 2}]}, shuffled),
        ({"filters": [{"id": "delta", "dtype": ">u2"}]}, lambda b: zlib.compress(differences(b))),
    ],
)
def test_codecs_and_filters_of_version_2(tmp_path, meta, encode):
    data = scan()
    version2(tmp_path / "a", data, (2, 3, 9, 6), encode=encode, **meta)
    check(tmp_path / "a", data)


@pytest.mark.parametrize(
    "codecs, options",
    [
        ([BYTES, {"name": "crc32c"}], {"encode": with_sum}),
        (
            [BYTES, {"name": "blosc", "configuration": {"cname": "zstd"}}, {"name": "crc32c"}],
            {"encode": lambda b: with_sum(blosc("zstd")(b))},
        ),
        ([{"name": "bytes", "configuration": {"endian": "big"}}], {"encode": bytes, "stored": ">u2"}),
        ([{"name": "transpose", "configuration": {"order": [2, 0, 3, 1]}}, BYTES, GZIP], {"axes": (2, 0, 3, 1)}),
        ([BYTES, "numcodecs.shuffle"], {"encode": lambda b: np.frombuffer(b, np.uint8).reshape(-1, 4).T.tobytes()}),
    ],
)
def test_codecs_of_version_3(tmp_path, codecs, options):
    data = scan()
    version3(tmp_path / "a", data, (2, 4, 9, 6) if "axes" in options else (2, 4, 9, 11), codecs=codecs, **options)
    check(tmp_path / "a", data)


@pytest.mark.parametrize(
    "place, order, encode, inner", [("start", "big", bytes, (BYTES,)), ("end", "little", with_sum, (BYTES, {"name": "crc32c"}))]
)
def test_shards_with_their_index_at_either_end(tmp_path, place, order, encode, inner):
    data = scan()
    sharded(tmp_path / "a", data, (1, 2, 3, 11), (2, 4, 9, 11), place=place, order=order, encode=encode, inner=inner)
    check(tmp_path / "a", data)


def test_missing_chunks_have_the_fill_value(tmp_path):
    data = scan("float32")
    data[2:4, 4:] = np.nan
    version3(tmp_path / "a", data, (2, 4, 9, 11), stored="<f4", dtype="float32", fill_value="NaN")
    (tmp_path / "a/c/1/1/0/0").unlink()
    check(tmp_path / "a", data)


def test_more_and_fewer_axes(tmp_path):
    data = scan()
    version2(tmp_path / "five", data[:, :, None], (2, 3, 1, 9, 6))
    check(tmp_path / "five", data)
    version2(tmp_path / "three", data.reshape(35, 9, 11), (4, 9, 11))
    check(tmp_path / "three", data, scan_shape=(5, 7))
    with pytest.raises(InputError, match=r"3D, frames first.*= 35"):
        gpu4d.open(tmp_path / "three")


def axis(name, scale, units, size, navigate):
    return {"_type": "UniformDataAxis", "name": name, "scale": scale, "offset": 0.0, "size": size, "units": units, "navigate": navigate}


def test_hyperspy_axes_and_microscope(tmp_path):
    """As HyperSpy 2.5 writes `.zspy`."""
    data, above = scan(), "Experiments/my scan/"
    for group in ("", "Experiments/", above, above + "metadata/", above + "metadata/Acquisition_instrument/"):
        put(tmp_path, group + ".zgroup", {"zarr_format": 2})
    version2(tmp_path, data, (2, 3, 9, 6), key=above + "data/", separator="/")
    for n, given in enumerate(
        (("y", 2.0, "nm", 5, True), ("x", 2.0, "nm", 7, True), ("ky", 0.1, "1/nm", 9, False), ("kx", 0.1, "1/nm", 11, False))
    ):
        put(tmp_path, f"{above}axis-{n}/.zattrs", axis(*given))
    put(tmp_path, above + "metadata/Acquisition_instrument/TEM/.zgroup", {"zarr_format": 2})
    put(
        tmp_path,
        above + "metadata/Acquisition_instrument/TEM/.zattrs",
        {"beam_energy": 200.0, "convergence_angle": 3.5, "camera_length": 110},
    )
    cube = gpu4d.open(tmp_path)
    c = cube.calibration
    assert (cube.name, c.r_pixel, round(c.q_pixel, 9), c.energy, c.semiangle) == ("my scan", 20.0, 0.01, 200e3, 3.5)
    assert cube.metadata["metadata"]["Acquisition_instrument"]["TEM"]["camera_length"] == 110
    check(tmp_path, data)


def test_abtem_axes_and_beam(tmp_path):
    """As abTEM 1.0.11 writes diffraction patterns: the offset of an axis is the frequency of its first pixel."""
    data = scan("float32")
    version3(tmp_path / "array0", data, (5, 7, 9, 11), stored="<f4", dtype="float32")
    steps = [{"sampling": 1.5, "units": "Å"}, {"sampling": 1.5, "units": "Å"}, {"sampling": 0.25, "offset": -1.0, "units": "1/Å"}]
    steps.append({"sampling": 0.25, "offset": -1.25, "units": "1/Å"})
    held = {"energy": 80e3, "semiangle_cutoff": 20, "axes": {f"axis_{n}": step for n, step in enumerate(steps)}}
    put(tmp_path, "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {"metadata0": held}})
    c = gpu4d.open(tmp_path).calibration
    assert (c.energy, c.semiangle, c.q_pixel, c.r_pixel, c.origin.tolist()) == (80e3, 20.0, 0.25, 1.5, [4.0, 5.0])


def test_several_arrays_are_listed(tmp_path):
    put(tmp_path, ".zgroup", {"zarr_format": 2})
    for name in ("a", "b"):
        version2(tmp_path, scan(), (2, 3, 9, 6), key=name + "/")
    with pytest.raises(InputError, match=r"2 arrays could be the scan: /a 5×7×9×11 uint16; /b .*--dataset"):
        gpu4d.open(tmp_path)
    check(tmp_path, scan(), dataset="/b")


# ---------------------------------------------------------------- stores that mean harm


def refused(path, words, **options):
    with pytest.raises(InputError, match=words):
        cube = gpu4d.open(path, **options)
        cube.source.read(slice(0, cube.shape[0]), slice(0, cube.shape[1]))


def changed(folder, **more):
    put(folder, ".zarray", json.loads((folder / ".zarray").read_text()) | more)


@pytest.fixture
def plain(tmp_path):
    version2(tmp_path / "a", scan(), (2, 3, 9, 11))
    return tmp_path / "a"


def test_links_out_of_the_store_are_refused(plain, tmp_path):
    (tmp_path / "secret").write_bytes((plain / "0.0.0.0").read_bytes())
    (plain / "0.0.0.0").unlink()
    (plain / "0.0.0.0").symlink_to(tmp_path / "secret")
    refused(plain, "leads out of the zarr store")
    (plain / "0.0.0.0").unlink()
    (plain / "inside").write_bytes((tmp_path / "secret").read_bytes())
    (plain / "0.0.0.0").symlink_to(plain / "inside")
    check(plain, scan())
    refused(plain, "no array", dataset="/../a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_in_the_place_of_a_chunk_does_not_hang(plain):
    (plain / "0.0.0.0").unlink()
    os.mkfifo(plain / "0.0.0.0")
    refused(plain, "not a regular file")


@pytest.mark.parametrize(
    "more, words",
    [
        ({"shape": [5, 7, 90_000, 110_000]}, "its files hold|chunks"),
        ({"shape": [5_000_000, 7_000_000, 9, 11], "chunks": [1, 1, 9, 11]}, "too small to be read"),
        ({"chunks": [2, 3, 90_000, 11_000]}, "chunks of .* bytes, more than"),
        ({"chunks": [2, 3, 900, 1100]}, "damaged"),
        ({"shape": [2**62, 2**62, 9, 11]}, "more bytes than a computer can address"),
        ({"shape": [5, 7, 9, True]}, "no shape of whole numbers"),
        ({"compressor": {"id": "lzma"}}, "encoded with lzma, which gpu4d does not decode"),
        ({"dtype": "|O"}, "values of type"),
        ({"dimension_separator": "../"}, "between their numbers"),
        ({"fill_value": 70_000}, "fill value 70000, which is no uint16"),
        ({"order": "G"}, "order"),
    ],
)
def test_damaged_descriptions_are_refused(plain, more, words):
    changed(plain, **more)
    refused(plain, words)


def test_chunks_are_never_larger_than_they_say(plain):
    (plain / "0.0.0.0").write_bytes(zlib.compress(bytes(50 << 20)))  # a few kilobytes that become 50 MB
    refused(plain, "chunk at .0, 0, 0, 0. is damaged .it holds more than 1188 bytes")
    (plain / "0.0.0.0").write_bytes(bytes(1 << 20))
    refused(plain, "1048576 bytes for a chunk of 1188")


def test_descriptions_inside_themselves_are_refused(plain):
    (plain / ".zarray").write_bytes(b"[" * 200_000)
    refused(plain, "no JSON")


def test_damaged_indices_of_shards_are_refused(tmp_path):
    sharded(tmp_path, scan(), (1, 2, 9, 11), (2, 4, 9, 11))
    shard = tmp_path / "c/1/1/0/0"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:])
    refused(tmp_path, "its index is damaged .its checksum is wrong")
    shard.write_bytes(whole[-40:])
    refused(tmp_path, "shorter than its index")


def test_equals_zarr_python(tmp_path, need):
    zarr = need("zarr")
    data = scan()
    for version, options in ((2, {}), (3, {}), (3, {"shards": (4, 4, 9, 11)})):
        path = tmp_path / f"{version}{len(options)}.zarr"
        made = zarr.create_array(path, shape=data.shape, dtype=data.dtype, chunks=(2, 2, 9, 11), zarr_format=version, **options)
        made[...] = data
        check(path, data)
