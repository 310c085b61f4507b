"""Open scans of the EMPAD detector: a `.raw` file of float32 patterns, and the `.xml` file that names it and states the scan.

A pattern has 130 rows of 128 numbers. The last two rows are no pixels. Rows and columns are given in the order of the file.
"""

from __future__ import annotations

import os
import re
from typing import ClassVar
from xml.etree import ElementTree

from gpu4d.data.calibration import Calibration
from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import check_inside, refuse_dataset, stem
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.io.sources.layout import decide_scan_shape
from gpu4d.io.units import log
from gpu4d.io.xml_file import flat, read_xml

DETECTOR, ROWS = (128, 128), 130
PATTERN_BYTES = ROWS * DETECTOR[1] * 4
NAMES = re.compile(r"(?:.*_)?(?:scan_x(\d{1,6})_y(\d{1,6})|series_x(\d{1,7}))\.raw", re.IGNORECASE)  # the detector's program gives them
MOST_SIDECARS = 64  # XML files of a folder that are looked into for the name of a .raw file
VOLTAGES = ("iom_measurements/high_voltage", "iom_measurements/source.get_voltage")  # V, in new and old files


class Empad(Format):
    """EMPAD: `.raw` and `.xml`. Either may be given."""

    name: ClassVar = "empad"
    accepts: ClassVar = "EMPAD (.xml, .raw)"
    facts: ClassVar = Facts(
        endings=(".xml", ".raw"),
        reading="mapped",
        covers="scans and series of the first EMPAD, float32; the scan shape and the energy from the XML. Not: pixel sizes, which the XML "
        "states without saying of what; EMPAD-G2, whose patterns need files of the sensor",
        tried_on="three XML files of versions 0.51 and 1.2.2, with patterns made from the description",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        if b"<root" in head[:200] and b"<software_version>" in head:
            return True
        return _holds_patterns(path) and (NAMES.fullmatch(os.path.basename(path)) is not None or sidecar_of(path) is not None)

    def open(self, path: str, options: OpenOptions) -> Opened:
        refuse_dataset(options, path, "an EMPAD file")
        try:
            with open(path, "rb") as file:
                is_xml = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<")
            sidecar = path if is_xml else sidecar_of(path)
            root = None if sidecar is None else read_xml(sidecar)
            raw = path if root is None or not is_xml else _raw_of(path, root)
            size = os.path.getsize(raw)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be read ({reason(error)})") from error
        frames = size // PATTERN_BYTES
        if frames == 0:
            raise InputError(
                f"{shown(raw)}: an EMPAD pattern has {PATTERN_BYTES} bytes, the file has {size}: it is truncated, copy it again"
            )
        scan = decide_scan_shape(options.scan_shape, stated_shape(root, raw, frames), frames, shown(raw))
        if size % PATTERN_BYTES:
            log.warning("%s: the last pattern is not whole, and left out", shown(raw))
        source = FrameFiles([Stretch(raw, 0, PATTERN_BYTES, frames)], Plain(DETECTOR, "<f4", rows=ROWS), scan, "EMPAD")
        metadata = {} if root is None else {"xml": flat(root)}
        calibration = Calibration() if root is None else _calibration(root, shown(path))
        return Opened(source, calibration, metadata, stem(path))


def _holds_patterns(path: str) -> bool:
    """Say whether a file has the size of whole patterns."""
    size = os.path.getsize(path)
    return size > 0 and size % PATTERN_BYTES == 0


def sidecar_of(raw: str) -> str | None:
    """Return the XML file beside a `.raw` file that names it, or has its name."""
    folder, base = os.path.split(raw)
    found = sorted(name for name in os.listdir(folder or ".") if name.lower().endswith(".xml"))
    own = os.path.splitext(base)[0].lower() + ".xml"
    for name in sorted(found, key=lambda name: name.lower() != own)[:MOST_SIDECARS]:
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            continue
        try:
            root = read_xml(path)
        except (InputError, OSError):
            continue
        named = _named(root)
        if named == base or (named is not None and name.lower() == own):
            return path
    return None


def _named(root: ElementTree.Element) -> str | None:
    """Return the name of the `.raw` file that an XML file states, without folders: they are those of the detector's computer."""
    node = root.find("raw_file")
    name = None if node is None else re.split(r"[/\\]", node.get("filename", ""))[-1]
    return name if name and "\0" not in name and name not in (".", "..") else None


def _raw_of(sidecar: str, root: ElementTree.Element) -> str:
    """Return the file with the patterns: the one that the XML file names, or the one with its name."""
    named, own = _named(root), os.path.splitext(os.path.basename(sidecar))[0] + ".raw"
    if named is None:
        raise InputError(f"{shown(sidecar)}: names no file with patterns (raw_file filename): it is damaged, or of no EMPAD scan")
    for name in (named, own):
        found = os.path.join(os.path.dirname(sidecar), name)
        if os.path.isfile(found) and os.path.realpath(found) != os.path.realpath(sidecar):
            check_inside(found, sidecar)
            return found
    raise InputError(f"{shown(sidecar)}: its patterns are in {shown(named)}, which is not beside it: copy it there")


def stated_shape(root: ElementTree.Element | None, raw: str, frames: int) -> tuple[int, int] | None:
    """Return the scan shape that an XML file and the name of a `.raw` file state.

    Of several, it is the one with as many positions as there are patterns, else the first. The XML file states two shapes, of the scan that
    was recorded and of a quick one before it, and some versions record with the second.
    """
    found: list[tuple[int, int]] = []

    def add(x: object, y: object) -> None:
        if all(isinstance(n, str) and re.fullmatch(r"\d{1,7}", n.strip(), re.ASCII) for n in (x, y)):
            found.append((int(str(y)), int(str(x))))

    if root is not None:
        add(root.findtext("pix_x"), root.findtext("pix_y"))
        if root.findtext("type") == "series":
            add(root.findtext("count"), "1")
        for mode in ("acquire", "search"):
            for node in root.findall("scan_parameters"):
                if node.get("mode") == mode:
                    add(node.findtext("scan_resolution_x"), node.findtext("scan_resolution_y"))
    if match := NAMES.fullmatch(os.path.basename(raw)):
        add(match.group(1) or match.group(3), match.group(2) or "1")
    return next((shape for shape in found if shape[0] * shape[1] == frames), found[0] if found else None)


def _calibration(root: ElementTree.Element, what: str) -> Calibration:
    """Return the beam energy: the only quantity whose unit and meaning are clear."""
    for place in VOLTAGES:
        try:
            volts = float(root.findtext(place) or "")
            if 1e3 <= volts <= 3e6:
                return Calibration(energy=volts)
            log.warning("%s: the XML states %g V as the voltage: left out", what, volts)
        except ValueError:
            continue
    return Calibration()
