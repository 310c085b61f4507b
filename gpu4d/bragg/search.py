"""From patterns to refined disks: `find_disks`, then `poisson_fit` where it is asked for, on whatever device the patterns are."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from gpu4d import arrays
from gpu4d.bragg.find_disks import Disks, find_disks
from gpu4d.bragg.poisson_fit import disk_profile, poisson_fit
from gpu4d.device.choose import cpu_threads
from gpu4d.probe.template_kernel import Template

LEAST_SHARE = 32  # patterns of an array that are worth a thread
BATCH = 32  # patterns the definition works on at once, on arrays that have no twin


def likelihood(template: Template, parameters: int) -> dict[str, Any]:
    """What `search` needs for the fit."""
    profile = disk_profile(template)
    return {"profile": profile, "parameters": parameters, "spacing": profile.reach + profile.radius}


def search(frames: Any, arguments: dict[str, Any], options: dict[str, Any], fit: dict[str, Any] | None = None) -> Disks:
    """`find_disks` with its host arrays moved beside the frames, then the likelihood fit; definitions in batches, which bound
    their memory."""
    given = [arrays.from_numpy(arguments[name], frames) for name in ("spectrum", "moments", "allowed")]
    mask = None if arguments["mask"] is None else arrays.from_numpy(arguments["mask"], frames)
    call = {**options, "mask": mask, "fill_width": arguments["fill_width"]}
    template = [arrays.from_numpy(a, frames) for a in (fit["profile"].table, fit["profile"].pixels)] if fit else None

    def one(some: Any) -> Disks:
        disks = find_disks(some, *given, **call)
        return disks if fit is None else _fitted(some, disks, template, mask, fit)

    if find_disks.choose(frames, *given, **call) != "definition" or frames.shape[0] <= BATCH:
        return one(frames)
    xp = arrays.namespace(frames)
    ends = [min(i + BATCH, frames.shape[0]) for i in range(0, frames.shape[0], BATCH)]
    parts = [one(frames[max(0, end - 1) // BATCH * BATCH : end, ...]) for end in ends]
    return Disks(*(xp.concat(columns) for columns in zip(*parts)))


def _fitted(frames: Any, disks: Disks, template: Any, mask: Any, fit: dict[str, Any]) -> Disks:
    """Positions and standard errors of the likelihood where its fit succeeds, of the correlation elsewhere."""
    xp = arrays.namespace(frames)
    found = poisson_fit(frames, disks.qx, disks.qy, disks.count, *template, mask, parameters=fit["parameters"], spacing=fit["spacing"])
    sx, sy = (
        xp.where(found.ok, xp.sqrt(xp.where(found.ok, v, xp.ones_like(v))), old) for v, old in ((found.xx, disks.sx), (found.yy, disks.sy))
    )
    return disks._replace(qx=found.x, qy=found.y, sx=sx, sy=sy)


def search_in_threads(frames: Any, arguments: dict[str, Any], options: dict[str, Any], fit: dict[str, Any] | None) -> Disks:
    """`search` with the frames shared out among threads, where compiled code holds no lock."""
    workers = min(cpu_threads(), frames.shape[0] // LEAST_SHARE) if find_disks.choose(frames) == "cpu" else 1
    if workers < 2:
        return search(frames, arguments, options, fit)
    ends = [frames.shape[0] * i // workers for i in range(workers + 1)]
    with ThreadPoolExecutor(workers, thread_name_prefix="gpu4d-disks") as pool:
        shares = [pool.submit(contextvars.copy_context().run, search, frames[i:j, ...], arguments, options, fit) for i, j in pairwise(ends)]
    xp = arrays.namespace(frames)
    return Disks(*(xp.concat(columns) for columns in zip(*(share.result() for share in shares))))
