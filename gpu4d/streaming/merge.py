"""Share a scan among several devices: each has copies of the reductions and its own row blocks, and their results are merged.

Sums are kept for each row block and added in row order (`BlockSums`). Values per position are stored at their positions. So the merged
result has the same bits as that of one device, whichever device had which block.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from gpu4d import arrays
from gpu4d.device.processors.processor import Workspace
from gpu4d.errors import InputError
from gpu4d.streaming.reduction import Reduction

Named = dict[str, Reduction]


def shares(reductions: Named, devices: int) -> list[Named]:
    """Return the reductions for the first device, and copies of them for the others. Called before `start`."""
    try:
        return [reductions, *(pickle.loads(pickle.dumps(reductions)) for _ in range(devices - 1))]
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(f"several devices need reductions that can be pickled: {error}; run on one device, device='cuda:0'") from error


def gather(part: Named, workspace: Workspace) -> dict[str, Any]:
    """Return the states of a device's reductions, after the work in its stream."""
    with workspace.computing(workspace.stream("compute"), "gather"):
        return {name: reduction.state() for name, reduction in part.items()}


def merge(first: Named, states: Mapping[str, Any], workspace: Workspace) -> None:
    """Merge states of another device into the reductions of the first. `workspace` is the first device's."""
    with workspace.computing(workspace.stream("compute"), "merge"):
        for name, state in states.items():
            first[name].merge(state)


@runtime_checkable
class GoesToHost(Protocol):
    """A result that knows how its arrays come to the host."""

    def to_host(self) -> Any:
        """Return the same result with its arrays on the host."""
        ...


def to_host(result: Any) -> Any:
    """Return a result with its arrays on the host, also those inside tuples, lists and mappings."""
    if isinstance(result, GoesToHost):
        return result.to_host()
    if isinstance(result, Mapping):
        return {name: to_host(value) for name, value in result.items()}
    if isinstance(result, tuple | list):
        inside = [to_host(value) for value in result]
        return type(result)(*inside) if hasattr(result, "_fields") else type(result)(inside)
    return arrays.to_numpy(result) if arrays.is_array(result) else result
