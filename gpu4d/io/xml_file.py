"""Read small XML texts that detectors write beside their patterns. Entities are refused: a few of them can stand for gigabytes of text."""

from __future__ import annotations

from collections import deque
from typing import Any
from xml.etree import ElementTree

from gpu4d.errors import InputError
from gpu4d.io.foreign import shown

MOST_BYTES = 1 << 20  # of a file with settings; real ones have some thousand
MOST_DEPTH = 100  # elements inside each other
PIECE = 1 << 14  # bytes that are parsed before the depth is looked at


def read_xml(path: str) -> ElementTree.Element:
    """Return the root of an XML file. `parse_xml` says what is refused."""
    with open(path, "rb") as file:
        return parse_xml(file.read(MOST_BYTES + 1), f"{shown(path)}: the XML file")


def parse_xml(data: bytes, what: str, most: int = MOST_BYTES) -> ElementTree.Element:
    """Return the root of settings in XML.

    Parameters
    ----------
    data : bytes
    what : str
        What they are, for messages: "scan.xml: the XML file".
    most : int
        Bytes that settings of this kind have at most.

    Raises
    ------
    InputError
        It is no XML, longer than `most`, defines entities, or elements lie too deep inside each other.
    """
    if len(data) > most:
        raise InputError(f"{what} is larger than {most >> 20} MiB: no settings are so long, check the file")
    plain = data.replace(b"\0", b"").replace(b"<!--", b"").replace(b"<![CDATA[", b"")  # in 16 bits, too
    if b"<!" in plain:
        raise InputError(f"{what} has a document type of its own, or entities: accepted are plain elements")
    parser: Any = ElementTree.XMLPullParser(("start", "end"))  # its types do not know which events give what
    depth, root = 0, None
    try:
        for first in range(0, len(data), PIECE):
            parser.feed(data[first : first + PIECE])
            for event, element in parser.read_events():
                root = element if root is None else root
                depth += 1 if event == "start" else -1
                if depth > MOST_DEPTH:
                    raise InputError(f"{what} has elements more than {MOST_DEPTH} deep in each other: it is damaged, copy it again")
        parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{what} is no readable XML ({shown(str(error))}): it is damaged, copy it again") from error
    assert root is not None  # a file without elements is no XML
    return root


def flat(root: ElementTree.Element) -> dict[str, str | list[str]]:
    """Return texts and attributes of all elements by their paths: "a/b" and "a/b@name". Several of one path are a list.

    Examples
    --------
    >>> flat(ElementTree.fromstring('<r><a n="1">x</a><b><c>y</c><c>z</c></b></r>'))
    {'a': 'x', 'a@n': '1', 'b/c': ['y', 'z']}
    """
    found: dict[str, list[str]] = {}
    waiting = deque([("", root)])
    while waiting:
        path, element = waiting.popleft()
        if element.text and element.text.strip():
            found.setdefault(path, []).append(element.text.strip())
        for name, value in element.attrib.items():
            found.setdefault(f"{path}@{name}", []).append(value)
        waiting.extend((f"{path}/{child.tag}" if path else str(child.tag), child) for child in element)
    return {path: texts[0] if len(texts) == 1 else texts for path, texts in found.items()}
