"""Start the workers of a run, or find those of a scheduler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gpu4d.device.choose import choose_all, cpu_threads, cuda_devices
from gpu4d.errors import InputError
from gpu4d.streaming.cluster import connected
from gpu4d.workflow.recipe import Recipe

if TYPE_CHECKING:
    from distributed import Client

INSTALL = "pip install 'gpu4d[distributed]'"


def check_workers(recipe: Recipe) -> None:
    """Check before the work whether the settings of the workers can be used.

    Raises
    ------
    InputError
    """
    workers, scheduler = recipe.compute.workers, recipe.compute.scheduler
    if workers is not None and scheduler is not None:
        raise InputError(f"--workers {workers} starts workers here, and --scheduler {scheduler} has its own: give one of the two")
    if (workers or scheduler) and find_spec("distributed") is None:
        raise InputError(f"{'--workers' if workers else '--scheduler'} needs Dask: {INSTALL}")
    if scheduler is None:
        choose_all(recipe.compute.device)


@contextmanager
def workers_of(recipe: Recipe) -> Iterator[Client | None]:
    """Yield a client of the workers that a recipe asks for, and end those that were started here. None if it asks for none."""
    compute = recipe.compute
    if compute.scheduler is not None:
        with connected(compute.scheduler) as client:
            yield client
    elif compute.workers is not None:
        with _started(compute.workers, compute.device) as cluster, cluster.get_client() as client:
            client.wait_for_workers(compute.workers)
            yield client
    else:
        yield None


def _started(count: int, device: str) -> Any:
    """Start workers on this machine: one for each GPU, or processes that share the cores."""
    common = {"n_workers": count, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}  # errors are raised here
    if getattr(choose_all(device)[0], "kind", "cpu") == "cuda":
        if count > cuda_devices():
            raise InputError(f"--workers {count} with device={device!r}: need one GPU each, and there are {cuda_devices()}")
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError:
            raise InputError("--workers on GPUs needs dask-cuda: pip install dask-cuda, or give --device cpu") from None
        return LocalCUDACluster(**common)
    from distributed import LocalCluster

    return LocalCluster(**common, processes=True, threads_per_worker=max(1, cpu_threads() // count))
