"""Counting: electrons in raw frames of a direct detector, all of which are known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from gpu4d.benchmarks.suite import data
from gpu4d.benchmarks.suite.workload import BANDWIDTH, Check, Place, Prepared, Size, Workload, WrongAnswer, implementations

import gpu4d
from gpu4d.preprocess import count_electrons

SIDE = 256  # px
LEAST_SIGNAL, STEP = 128, 8  # ADU, of one electron: sixteen values from 128 to 248
SIGNAL = LEAST_SIGNAL + 7.5 * STEP  # ADU, their mean
NOISE = 4.0  # ADU, of a pixel's reading, which is at most 15 ADU off: at least half of 128 always stands out of a quarter and the noise
LEVEL = 64  # ADU, the least dark level; pixels differ by up to 31
STRUCK = 1 << 24  # of 2³² hashes: one pixel in 256 is struck
LOWER, UPPER = 0.25, 10.0  # electrons
FRAMES = {True: 256, False: 16}  # that are made or checked at a time, on a GPU and on the host
NEAR = 2  # px: electrons farther than this from each other do not share a pixel's surroundings


def raw_frames(place: Place, n: int, seed: int) -> tuple[Any, np.ndarray]:
    """Return n frames of 256² pixels, uint16, and the dark level of their pixels, float64.

    All is made of whole numbers. An electron leaves a quarter or an eighth of its signal in a pixel beside it along each axis.
    """
    xp = place.xp
    dark = LEVEL + (data.hashed(np, seed ^ 0x55555555, 0, SIDE * SIDE) >> np.uint32(27)).astype(np.int32).reshape(SIDE, SIDE)
    noise, level = xp.asarray(noise_table()), xp.asarray(dark)
    out = xp.empty((n, SIDE, SIDE), "uint16")
    for first, random in hashes(place, n, seed):
        read = level + noise[((random >> np.uint32(12)) & np.uint32(4095)).astype(xp.int32)]
        add_charges(xp, read, random)
        out[first : first + len(random)] = read.astype(out.dtype)  # 64 - 15 to 95 + 15 + 248 + 4 · 62 at most
    return out, dark.astype(float)


def add_charges(xp: Any, read: Any, random: Any) -> None:
    """Add the charges of the struck pixels' electrons to frames (n, 256, 256), int32. What leaves a frame is lost."""
    where = xp.nonzero(struck(random))
    bits = random[where].astype(xp.int32) & 255  # apart from the bits of the noise and of the choice
    signal = LEAST_SIGNAL + STEP * (bits & 15)
    kept = signal
    for axis, size, side in ((1, 16, 64), (2, 32, 128)):
        share = xp.where((bits & size) > 0, signal >> 2, signal >> 3)
        kept = kept - share
        for step, there in ((1, (bits & side) > 0), (-1, (bits & side) == 0)):
            place = list(where)
            place[axis] = where[axis] + step
            inside = there & (place[axis] >= 0) & (place[axis] < SIDE)
            read[tuple(p[inside] for p in place)] += share[inside]  # no place comes twice within one direction
    read[where] += kept


def hashes(place: Place, n: int, seed: int) -> Iterator[tuple[int, Any]]:
    """Yield the number of a frame, and the hashes of the pixels of some frames from it on."""
    step = FRAMES[place.on_gpu]
    for first in range(0, n, step):
        frames = min(step, n - first)
        yield first, data.hashed(place.xp, seed, first * SIDE * SIDE, frames * SIDE * SIDE).reshape(frames, SIDE, SIDE)


def struck(random: Any) -> Any:
    """Return the pixels that an electron strikes."""
    return random < np.uint32(STRUCK)


def noise_table() -> np.ndarray:
    """Return 4096 quantiles of a normal distribution in whole ADU, int32."""
    from scipy.special import ndtri

    return np.rint(NOISE * ndtri((np.arange(data.LEVELS) + 0.5) / data.LEVELS)).astype(np.int32)


def shifted(xp: Any, values: Any, x: int, y: int) -> Any:
    """Return frames moved by x and y pixels, with zeros (False) where nothing is moved to."""
    out = xp.zeros_like(values)
    to, of = zip(*((slice(max(s, 0), min(s, 0) or None), slice(max(-s, 0), min(-s, 0) or None)) for s in (x, y)))
    out[:, *to] = values[:, *of]
    return out


def any_near(xp: Any, mask: Any, reach: int) -> Any:
    """Return where a pixel of a mask lies within a square of 2 · reach + 1 pixels, itself not counted."""
    out = xp.zeros_like(mask)
    for x in range(-reach, reach + 1):
        for y in range(-reach, reach + 1):
            if x or y:
                out |= shifted(xp, mask, x, y)
    return out


def counting(place: Place, size: Size, seed: int) -> Prepared:
    """Count electrons in resident raw frames. Every frame is read, and eight bytes of each electron are written."""
    n, xp = size["frames"], place.xp
    frames, dark = raw_frames(place, n, seed)
    level = xp.asarray(dark)

    def count(part: Any) -> Any:
        return count_electrons(part, level, LOWER, UPPER, electron=SIGNAL)

    def check(found: dict[str, np.ndarray]) -> Check:
        offsets, total = found["offsets"].astype(np.int64), len(found["qx"])
        in_order = len(offsets) == n + 1 and offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all()
        if not (in_order and total == len(found["qy"]) == len(found["intensity"])):
            raise WrongAnswer(f"the numbers of electrons do not fit to each other: {n} frames, {len(offsets)} offsets, {total} electrons")
        wrong = 0
        for first, random in hashes(place, n, seed):
            last = first + len(random)
            part = {name: found[name][offsets[first] : offsets[last]] for name in ("qx", "qy", "intensity")}
            part["offsets"] = offsets[first : last + 1] - offsets[first]
            wrong += unlike_definition(place, count, frames[first:last], part) + unlike_truth(xp, random, part)
        oracle = "the definition and the electrons of the simulation, all frames"
        return Check(float(wrong), 0.0, sum(v.size for v in found.values()), oracle)

    def arrays(found: Any) -> dict[str, np.ndarray]:
        return {name: place.host(getattr(found, name)) for name in ("offsets", "qx", "qy", "intensity")}

    return Prepared(
        lambda: count(frames),
        arrays,
        check,
        n,
        data.digest(xp, frames, level),
        bytes=float(frames.nbytes + 8 * n * SIDE * SIDE * STRUCK / 2**32),
        moved="read",
        implementation=implementations(frames, "count_electrons"),
    )


def unlike_definition(place: Place, count: Any, frames: Any, part: dict[str, np.ndarray]) -> int:
    """Return how many values of some frames' electrons are not those of the definition, to the last bit."""
    with gpu4d.using("definition"):
        wanted = count(frames)
    wrong = 0
    for name, got in part.items():
        want = place.host(getattr(wanted, name))
        wrong += int((got != want).sum()) if got.shape == want.shape else max(got.size, want.size)
    return wrong


def unlike_truth(xp: Any, random: Any, part: dict[str, np.ndarray]) -> int:
    """Return how many lonely electrons are not found in their pixel, and how many are found where none is near."""
    electrons = struck(random)
    at = xp.zeros_like(electrons)
    frame = np.repeat(np.arange(len(random)), np.diff(part["offsets"]))
    at[tuple(xp.asarray(a) for a in (frame, part["qx"].astype(np.int64), part["qy"].astype(np.int64)))] = True
    lost = electrons & ~any_near(xp, electrons, NEAR) & ~at
    false = at & ~electrons & ~any_near(xp, electrons, 1)
    return int(lost.sum()) + int(false.sum())


WORKLOADS = [
    Workload(
        "counting",
        "electron counting",
        BANDWIDTH,
        "frames",
        {tier: {"frames": n} for tier, n in (("quick", 16), ("S", 256), ("M", 8192), ("L", 65536))},
        counting,
        "Local maxima between two thresholds in raw frames of a direct detector: the first step of every scan that such a camera takes.",
    ),
]
