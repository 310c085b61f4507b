"""Members of groups and places of datasets that are found without HDF5 are those that HDF5 knows."""

import os

import h5py
import numpy as np
import pytest

from gpu4d.io.sources.hdf5_members import addresses, members, piece
from gpu4d.io.sources.hdf5_text import FileBytes


def write(path, version="earliest", block=0):
    with h5py.File(path, "w", libver=version, userblock_size=block) as file:
        for n in range(5):
            file[f"s/{n}/Data"] = np.full((3, 4), n, "<f4")
            file[f"s/{n}/Metadata"] = np.bytes_(b"some text")
            file[f"s/{n}/other"] = n
        file["s/5/Data"] = h5py.SoftLink("/s/0/Data")
        file["s/6/Data"] = h5py.ExternalLink("other.h5", "x")
        file.create_dataset("s/7/Data", data=np.zeros((3, 4)), chunks=(1, 4))
        file.create_dataset("s/7/never", (3, 4), "f4")
        file["s/8"] = h5py.SoftLink("/s/0")
        for n in range(40):
            file[f"s/9/{n}"] = n


@pytest.mark.parametrize("version, block", [("earliest", 0), ("earliest", 1024), ("latest", 0)])
def test_they_are_what_hdf5_knows(tmp_path, version, block):
    write(tmp_path / "a.h5", version, block)
    with h5py.File(tmp_path / "a.h5") as file, FileBytes(file) as raw:
        group, known = file["s"], addresses(file["s"])
        assert set(known) == {b"%d" % n for n in range(10)} - {b"8"}, "links elsewhere are no members"
        for n in range(5):
            inside = members(raw, known[b"%d" % n])
            if version == "latest":
                assert inside is None, "groups of the newer form are left to HDF5"
                continue
            assert {name.decode() for name in inside} == {"Data", "Metadata", "other"}
            for name, address in inside.items():
                dataset, found = group[f"{n}/{name.decode()}"], piece(raw, address)
                assert (found.offset, found.nbytes) == (dataset.id.get_offset(), dataset.nbytes), name
        if version == "earliest":
            assert b"Data" not in members(raw, known[b"5"]), "a soft link"
            assert b"Data" not in (members(raw, known[b"6"]) or {}), "a link into another file"
            seventh = members(raw, known[b"7"])
            assert piece(raw, seventh[b"Data"]) is None and piece(raw, seventh[b"never"]) is None, "chunks, and nothing written"
            assert members(raw, known[b"9"]) is None, "more members than fit into a node"


def test_damage_is_left_to_hdf5(tmp_path):
    """Bytes are damaged one by one: nothing is raised, and nothing hangs."""
    write(tmp_path / "a.h5")
    whole = (tmp_path / "a.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        address = addresses(file["s"])[b"3"]
        shift = np.random.default_rng(0)
        for at in range(address, min(address + 3000, len(whole)), 7):
            damaged = bytearray(whole)
            damaged[at] ^= int(shift.integers(1, 256))
            (tmp_path / "b.h5").write_bytes(damaged)
            with FileBytes(file) as raw:
                os.close(raw.descriptor)
                raw.descriptor = os.open(tmp_path / "b.h5", os.O_RDONLY)
                for where in (members(raw, address) or {}).values():
                    piece(raw, where)
