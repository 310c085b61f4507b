"""Follow names and links in HDF5 files, step by step: every file that a link leads to is checked before HDF5 opens it.

HDF5 follows links by itself. It then waits for ever where a link leads to a pipe, and says nothing of the file that is missing. All of
gpu4d therefore looks for groups and datasets with these functions. Paths are text. Bytes of a name that are no UTF-8 are kept in it as
Python keeps those of file names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import h5py

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown
from gpu4d.io.sources.hdf5_file import open_file

MOST_LINKS = 40  # links that lead to one object, one behind the other; more are a ring (HDF5 allows 16, Linux 40)
MOST_MEMBERS = 1_000_000  # groups and datasets that are visited in one file

Node = Any  # h5py.Group, h5py.Dataset or h5py.Datatype


class BrokenLink(InputError):
    """A name leads nowhere.

    Attributes
    ----------
    missing : str or None
        The file that a link leads to, and in parentheses why it cannot be opened. None if a name inside a file is missing.
    """

    def __init__(self, message: str, missing: str | None = None):
        self.missing = missing
        super().__init__(message)

    def __reduce__(self) -> Any:
        return type(self), (str(self), self.missing)


def follow(group: h5py.Group, path: str) -> Node:
    """Return the group or dataset that a path leads to, over links of any kind.

    Parameters
    ----------
    group : h5py.Group or h5py.File
        Where the path begins. A path that begins with "/" begins at the root of its file.
    path : str

    Raises
    ------
    BrokenLink
        A part of the path is not there, or a file that a link leads to is missing or not a regular file, or links form a ring.
    """
    return _follow(group, _encoded(path), MOST_LINKS)


def found(group: h5py.Group, path: str) -> Node | None:
    """Return what a path leads to, or None if it leads nowhere."""
    try:
        return follow(group, path)
    except BrokenLink:
        return None


def group_at(group: h5py.Group, path: str) -> h5py.Group | None:
    """Return the group that a path leads to, or None if there is no group."""
    node = found(group, path)
    return node if isinstance(node, h5py.Group) else None


def dataset_at(group: h5py.Group, path: str) -> h5py.Dataset | None:
    """Return the dataset that a path leads to, or None if there is no dataset."""
    node = found(group, path)
    return node if isinstance(node, h5py.Dataset) else None


def names(group: h5py.Group) -> list[str]:
    """Return the names in a group, in the order of the file."""
    return [_decoded(name) for name in group.id]


def path_of(node: Node) -> str:
    """Return the path of a group or dataset in its own file."""
    name = h5py.h5i.get_name(node.id)
    return "" if name is None else _decoded(name)


def visit(file: h5py.File, lost: dict[str, BrokenLink] | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """Visit every dataset of a file, over links too. Each stored object appears once, under the first path that leads to it.

    Parameters
    ----------
    file : h5py.File
    lost : dict, optional
        Is filled with the links that lead nowhere, by their paths.
    """
    seen = {hash(file["/"])}
    waiting: list[Iterator[tuple[str, h5py.Group, str]]] = [_members("", file)]
    while waiting:
        path, group, name = next(waiting[-1], ("", None, ""))
        if group is None:
            waiting.pop()
            continue
        try:
            node = follow(group, name)
        except BrokenLink as broken:
            if lost is not None:
                lost[path] = BrokenLink(str(broken), broken.missing)  # a new one: this one's traceback would keep the file open
            continue
        if hash(node) in seen:
            continue
        seen.add(hash(node))
        if len(seen) > MOST_MEMBERS:
            raise InputError(f"{file.filename}: more than {MOST_MEMBERS} groups and datasets: name the scan with --dataset or dataset=")
        if isinstance(node, h5py.Group):
            waiting.append(_members(path, node))
        elif isinstance(node, h5py.Dataset):
            yield path, node


def _members(above: str, group: h5py.Group) -> Iterator[tuple[str, h5py.Group, str]]:
    """Yield path, group and name of everything in a group."""
    for name in names(group):
        yield f"{above}/{name}", group, name


def place_of_link(file: h5py.File, name: str) -> str | None:
    """Return the path of a file that an external link of `file` names, where HDF5 looks for it. None if it is in none of these places."""
    beside = os.path.join(os.path.dirname(os.path.abspath(file.filename)), name)
    last = os.path.join(os.path.dirname(os.path.abspath(file.filename)), os.path.basename(name))
    return next((place for place in (beside, name, last) if os.path.lexists(place)), None)


def _follow(node: Node, path: bytes, links: int) -> Node:
    if path.startswith(b"/"):
        node = node.file["/"]
    for part in path.split(b"/"):
        if part in (b"", b"."):
            continue
        node = _step(node, part, links)
    return node


def _step(group: Node, name: bytes, links: int) -> Node:
    """Return what one name in a group leads to."""
    if not isinstance(group, h5py.Group) or not group.id.links.exists(name):
        raise BrokenLink(f"{_where(group, name)} is not there")
    kind = group.id.links.get_info(name).type
    if kind == h5py.h5l.TYPE_HARD:
        return group[name]
    where = _where(group, name)
    if links == 0:
        raise BrokenLink(f"{where} is a link in a ring of links")
    if kind == h5py.h5l.TYPE_SOFT:
        target = group.id.links.get_val(name)
        try:
            return _follow(group, target, links - 1)
        except BrokenLink as broken:
            raise BrokenLink(f"{where} is a link to {shown(_decoded(target))}: {broken}", broken.missing) from None
    if kind != h5py.h5l.TYPE_EXTERNAL:
        raise BrokenLink(f"{where} is a link of a kind that only the program that made it knows")
    file, target = group.id.links.get_val(name)
    called = os.fsdecode(file)
    place = place_of_link(group.file, called)
    if place is None or not os.path.exists(place):
        raise BrokenLink(
            f"{where} is a link into the file {shown(called)}, which is not there: put it back, beside this file", f"{called} (not there)"
        )
    try:
        return _follow(open_file(place), b"/" + target, links - 1)
    except BrokenLink as broken:
        raise BrokenLink(f"{where} is a link into the file {shown(called)}: {broken}", broken.missing) from None
    except InputError as error:
        raise BrokenLink(f"{where} is a link into the file {shown(called)}: {error}", f"{called} (not readable)") from error


def _where(group: Node, name: bytes) -> str:
    return f"{group.file.filename}: {shown(path_of(group).rstrip('/') + '/' + _decoded(name))}"


def _encoded(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _decoded(name: bytes | str) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
