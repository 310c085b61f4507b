"""Open files of plain numbers whose layout the caller describes."""

from __future__ import annotations

import os
from typing import ClassVar

from gpu4d.data.source import Source
from gpu4d.errors import InputError
from gpu4d.io.foreign import reason, shown
from gpu4d.io.format import Facts, Format, Opened, OpenOptions
from gpu4d.io.formats.records import refuse_dataset, stem
from gpu4d.io.raw_layout import RawLayout
from gpu4d.io.sources.frame_files import FrameFiles, Plain, Stretch
from gpu4d.io.sources.layout import check_scan_shape, decide_scan_shape
from gpu4d.io.sources.mapped import MappedSource


class Raw(Format):
    """Plain numbers. Nothing in such a file says what it is, so it is never recognised: its layout is given."""

    name: ClassVar = "raw"
    accepts: ClassVar = "plain numbers (with layout= or --shape)"
    facts: ClassVar = Facts(
        endings=(".raw", ".bin", ".dat"),
        reading="mapped",
        covers="patterns of one size at equal distances, in either byte order; the caller describes them. Not: packed bits, several files",
        tried_on="files made from the description",
    )

    def recognise(self, path: str, head: bytes) -> bool:
        return False

    def open(self, path: str, options: OpenOptions) -> Opened:
        layout = options.layout
        if layout is None:
            raise InputError(f"{shown(path)}: the format raw needs layout=gpu4d.RawLayout((Qx, Qy), dtype), or --shape Qx,Qy --dtype T")
        refuse_dataset(options, path, "a file of plain numbers")
        try:
            size = os.path.getsize(path)
        except OSError as error:
            raise InputError(f"{shown(path)}: cannot be read ({reason(error)})") from error
        source = raw_source(path, size, layout, options.scan_shape)
        return Opened(source, metadata={"layout": str(layout)}, name=stem(path))


def raw_source(path: str, size: int, layout: RawLayout, scan_shape: tuple[int, int] | None) -> Source:
    """Return the source of a file of plain numbers.

    Raises
    ------
    InputError
        The file has more or fewer bytes than the layout needs, or nothing says the scan shape.
    """
    patterns, rest = layout.patterns_in(size)
    said = f"{'×'.join(map(str, layout.detector_shape))} {layout.dtype.name}, {layout.pattern_bytes} bytes a pattern"
    said += f", {layout.gap} between two" if layout.gap else ""
    said += f", {layout.offset} before the first" if layout.offset else ""
    if layout.scan_shape is not None:
        needed = layout.needed(layout.scan_shape[0] * layout.scan_shape[1])
        if size not in (needed, needed + layout.gap):
            more = f"{abs(size - needed)} {'more' if size > needed else 'fewer'}"
            raise InputError(
                f"{shown(path)}: the layout needs {needed} bytes ({layout.scan_shape[0]}×{layout.scan_shape[1]} patterns of {said}), "
                f"the file has {size}, {more}: correct the layout, or copy the file again"
            )
    elif rest or not patterns:
        raise InputError(
            f"{shown(path)}: the layout does not fit ({said}): the file has {size} bytes, {patterns} whole patterns and a rest of {rest}: "
            "correct shape, dtype, offset or gap"
        )
    if layout.scan_shape is not None and scan_shape is None:
        scan = check_scan_shape(layout.scan_shape, patterns, shown(path))
    else:
        scan = decide_scan_shape(scan_shape, layout.scan_shape, patterns, shown(path))
    if layout.gap == 0:
        return MappedSource(path, layout.offset, (*scan, *layout.detector_shape), layout.dtype, "plain numbers")
    stretch = Stretch(path, layout.offset, layout.stride, patterns)
    return FrameFiles([stretch], Plain(layout.detector_shape, layout.dtype.str), scan, "plain numbers")
