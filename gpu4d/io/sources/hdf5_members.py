"""Find members of small HDF5 groups, and where their values lie, without HDF5: a scan may have a group for every pattern.

HDF5 takes 0.1 ms to open a group and two datasets in it, this module a few microseconds. It knows groups of the older form, whose members
fit into one node, and datasets in one piece. For all others it returns None, and HDF5 is asked.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import h5py

from gpu4d.io.sources.hdf5_text import DamagedText, FileBytes

SPACE, TYPE, LAYOUT, EXTERNAL, TABLE = 0x01, 0x03, 0x08, 0x07, 0x11  # kinds of messages in an object header
SHARED = 2  # flag of a message that is stored elsewhere
CONTIGUOUS = 1  # class of a layout
NOWHERE = (1 << 64) - 1  # address of what was never written
TREE = struct.Struct("<4sBBHQQQQ")  # signature, type, level, entries, two neighbours, first key, first child
ENTRY = struct.Struct("<QQI4x16x")  # of a member: place of its name in the heap, address, what is kept of it (2: a soft link)
MOST_MEMBERS = 32  # of a node of the usual size; larger ones are left to HDF5
NAMES_BYTES = 4096  # of the names of a small group


class Piece(NamedTuple):
    """A dataset in one piece: its first byte in the file, its bytes, and its shape and type as they are written."""

    offset: int
    nbytes: int
    kind: tuple[bytes, bytes]


def addresses(group: h5py.Group) -> dict[bytes, int]:
    """Return the addresses of all members of a group that are no links elsewhere."""
    found: dict[bytes, int] = {}

    def see(name: bytes, info: h5py.h5l.LinkInfo) -> None:
        if info.type == h5py.h5l.TYPE_HARD:
            found[bytes(name)] = info.u

    group.id.links.iterate(see, info=True)
    return found


def members(file: FileBytes, address: int) -> dict[bytes, int] | None:
    """Return the addresses of the members of the group at an address; None if it is of another form, or damaged."""
    try:
        table = next((body for kind, _, body in file.messages(address) if kind == TABLE), None) if file.usual else None
        if table is None or len(table) < 16:
            return None
        tree, heap = struct.unpack_from("<QQ", table)
        mark, kind, level, entries, _, _, _, child = TREE.unpack(file.read(file.shift + tree, TREE.size))
        head = file.read(file.shift + heap, 32)
        node = file.read(file.shift + child, 8)
        count = int.from_bytes(node[6:8], "little")
        if (mark, kind, level, entries) != (b"TREE", 0, 0, 1) or head[:4] != b"HEAP" or node[:4] != b"SNOD" or count > MOST_MEMBERS:
            return None
        size, _, place = struct.unpack_from("<QQQ", head, 8)
        if size > NAMES_BYTES:
            return None
        names = file.read(file.shift + place, size)
        held = ENTRY.iter_unpack(file.read(file.shift + child + 8, count * ENTRY.size))
        return {names[at : names.index(b"\0", at)]: where for at, where, kept in held if kept != 2}
    except (DamagedText, ValueError, struct.error):
        return None


def piece(file: FileBytes, address: int | None) -> Piece | None:
    """Return where the dataset at an address lies; None if it is not in one piece in this file, or not written."""
    shape = kind = place = None
    try:
        for message, flags, body in () if address is None or not file.usual else file.messages(address):
            if message == EXTERNAL or (message in (SPACE, TYPE, LAYOUT) and flags & SHARED):
                return None
            if message == SPACE:
                shape = body
            elif message == TYPE:
                kind = body
            elif message == LAYOUT and len(body) >= 18 and body[0] in (3, 4) and body[1] == CONTIGUOUS:
                place = struct.unpack_from("<QQ", body, 2)
    except (DamagedText, struct.error):
        return None
    if shape is None or kind is None or place is None or place[0] == NOWHERE:
        return None
    return Piece(file.shift + place[0], place[1], (shape, kind))
