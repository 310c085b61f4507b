"""Text of any length in HDF5 files, read without HDF5: as h5py reads it, and refused where it is damaged."""

import h5py
import numpy as np
import pytest

import gpu4d
from gpu4d.io.sources.hdf5_text import DamagedText, attribute, value

TEXTS = {f"a{k}": f"Text é {k} " * (k + 1) for k in range(30)}


def write(path, libver="earliest", userblock=0, attributes=TEXTS):
    with h5py.File(path, "w", libver=libver, userblock_size=userblock) as file:
        group = file.create_group("g")
        group.attrs["number"], group.attrs["fixed"] = 3.5, np.bytes_("nm")
        group.attrs["list"], group.attrs["empty"] = ["x", "", "zzz"], ""
        for key, text in attributes.items():
            group.attrs[key] = text
        file["scalar"], file["two"] = "scalar", np.array([b"a", b"bb"], "O")
        file.create_dataset("chunk", data=np.array(["q"], "O"), dtype=h5py.string_dtype(), chunks=(1,))
        file.create_dataset("never", (2,), dtype=h5py.string_dtype())


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("userblock", [0, 1024])
@pytest.mark.parametrize("many", [False, True])
def test_text_is_what_h5py_reads(tmp_path, libver, userblock, many):
    attributes = TEXTS if many else {"a1": TEXTS["a1"]}  # the newest files keep many attributes apart
    write(tmp_path / "a.h5", libver, userblock, attributes)
    with h5py.File(tmp_path / "a.h5") as file:
        group = file["g"]
        assert {key: attribute(group, key) for key in attributes} == attributes
        assert attribute(group, "number") == 3.5 and attribute(group, "fixed") == b"nm"
        assert attribute(group, "list").tolist() == ["x", "", "zzz"] and attribute(group, "empty") == ""
        assert value(file["scalar"]) == "scalar" and value(file["two"]).tolist() == ["a", "bb"] and value(file["chunk"]).tolist() == ["q"]
        assert value(file["never"]).tolist() == ["", ""]
        with pytest.raises(KeyError):
            attribute(group, "nothing")


def test_damaged_text_is_refused(tmp_path):
    """HDF5 itself would never return from some of these, and crash in others."""
    write(tmp_path / "a.h5", attributes={"a": "a text"})
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    heap = raw.index(b"GCOL")
    changes = {
        "never ends": (heap + 24, b"\xf0" + b"\xff" * 7),
        "longer than the heap": (heap + 24, b"\xff\xff\0\0\0\0\0\0"),
        "no heap": (heap, b"XX"),
        "heap longer than the file": (heap + 8, b"\0\0\0\x00\x40\0\0\0"),
        "another number": (heap + 16, b"\x77"),
    }
    for name, (at, bad) in changes.items():
        damaged = bytes(raw[:at]) + bad + bytes(raw[at + len(bad) :])
        (tmp_path / "b.h5").write_bytes(damaged)
        with h5py.File(tmp_path / "b.h5") as file:
            texts = 0
            for read in (
                lambda f=file: attribute(f["g"], "a"),
                lambda f=file: attribute(f["g"], "list"),
                lambda f=file: value(f["scalar"]),
            ):
                try:
                    read()
                except DamagedText as error:
                    assert str(error).isprintable()
                    texts += 1
            assert texts, name
    (tmp_path / "b.h5").write_bytes(raw[: heap + 40])
    with pytest.raises(gpu4d.errors.InputError):
        gpu4d.open(tmp_path / "b.h5")


def test_values_of_any_length_that_are_no_text_are_left_alone(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        kind = h5py.vlen_dtype("i4")
        file.create_dataset("vlen", (2,), kind)
        file.attrs.create("vlen", [np.arange(3), np.arange(2)], dtype=kind)
        file.attrs["reference"] = file["vlen"].ref
        for read in (lambda: attribute(file, "vlen"), lambda: attribute(file, "reference"), lambda: value(file["vlen"])):
            with pytest.raises(gpu4d.errors.InputError, match="any length"):
                read()
