"""Several devices at one scan: the same reductions on each, fed with row blocks of its own, merged into one answer.

Sums are kept per row block and added in row order (`BlockSums`), values per position go to their places: whichever device had which
block, the merged answer is that of one device, to the last bit.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

from gpu4d import arrays
from gpu4d.device.processors.processor import Workspace
from gpu4d.errors import InputError
from gpu4d.streaming.reduction import Reduction

Named = dict[str, Reduction]


def shares(reductions: Named, devices: int) -> list[Named]:
    """The reductions themselves for the first device, copies of them for the others; before `start`."""
    try:
        return [reductions, *(pickle.loads(pickle.dumps(reductions)) for _ in range(devices - 1))]
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"several devices need reductions that can be pickled: {error}; run on one device, device='cuda:0'") from error


def gather(part: Named, workspace: Workspace) -> dict[str, Any]:
    """What a device found: the states of its reductions, in the order of the stream they were made in."""
    with workspace.computing(workspace.stream("compute"), "gather"):
        return {name: reduction.state() for name, reduction in part.items()}


def merge(first: Named, states: Mapping[str, Any], workspace: Workspace) -> None:
    """Bring states of another device into the reductions of the first, whose workspace this is."""
    with workspace.computing(workspace.stream("compute"), "merge"):
        for name, state in states.items():
            first[name].merge(state)


def to_host(result: Any) -> Any:
    """A result with its arrays on the host; tuples, lists and mappings of results are looked into."""
    if hasattr(result, "to_host"):
        return result.to_host()
    if isinstance(result, Mapping):
        return {name: to_host(value) for name, value in result.items()}
    if isinstance(result, tuple | list):
        inside = [to_host(value) for value in result]
        return type(result)(*inside) if hasattr(result, "_fields") else type(result)(inside)
    return arrays.to_numpy(result) if arrays.is_array(result) else result
