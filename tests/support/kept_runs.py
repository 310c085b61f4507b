"""Runs of a small scan in processes that can be killed. A server imports what they need once, and forks for each."""

import multiprocessing
import os
import re
import time
from pathlib import Path

import h5py
import numpy as np

KNOWN = {"calibration__energy": 200e3, "calibration__semiangle": 3.0, "calibration__r_pixel": 20.0, "images__adf_inner": 1.2}
TIMES = re.compile(r"metadatabundle/(log|calibration/history)")  # of a result file: when something was done, and how long it took
MODULES = ("kept_runs", "recipes_in_tests", "gpu4d.workflow", "gpu4d.plot", "jinja2", "h5py", "scipy.optimize")


def no_pictures(state, folder):
    """Draw nothing: pictures take most of the time of a small scan."""
    return []


def one_run(place, cache, out):
    """Run the scan of a folder."""
    os.environ["GPU4D_CACHE"] = str(cache)
    from recipes_in_tests import recipe

    from gpu4d.workflow import pipeline

    pipeline.draw = no_pictures
    pipeline.run(place / "scan.h5", place / out, recipe=recipe(**KNOWN), overwrite=True, cache=True)


def start(place, cache, out):
    """Start a run in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(MODULES))
    process = context.Process(target=one_run, args=(Path(place), Path(cache), out))
    process.start()
    return process


def entries(cache):
    """How many entries are kept."""
    return len(list(Path(cache).rglob("*.kept")))


def killed(process, cache, number=None, after=None):
    """Kill a run when it has kept a number of entries, or after some seconds. Return False if it ended before."""
    end = None if after is None else time.monotonic() + after
    while process.is_alive():
        if time.monotonic() >= end if number is None else entries(cache) >= number:
            process.kill()
            process.join()
            return process.exitcode < 0
        time.sleep(0.002)
    process.join()
    return False


def tiny_scan():
    """A scan of a spot, in which nothing but images can be made."""
    scan = np.random.default_rng(0).poisson(0.2, (3, 4, 16, 16)).astype(np.uint8)
    scan[:, :, 7:9, 7:9] += 20
    return scan


def content(path):
    """All values and attributes of a result file, times aside."""
    found = {}

    def take(name, item):
        if TIMES.search(name):
            return
        for key, value in item.attrs.items():
            found[f"{name}@{key}"] = np.asarray(value).tolist()
        if isinstance(item, h5py.Dataset):
            value = item[()]
            found[name] = (
                item.dtype.str,
                item.shape,
                value.tobytes() if item.dtype != object and hasattr(value, "tobytes") else repr(value),
            )

    with h5py.File(path) as file:
        file.visititems(take)
    return found


def same(one, other):
    """Whether two result folders have the same results: the file's values, every picture, the recipe."""
    names = [sorted(p.name for p in folder.iterdir()) for folder in (one, other)]
    if names[0] != names[1] or content(one / "result.h5") != content(other / "result.h5"):
        return False
    alike = [name for name in names[0] if name.endswith((".png", ".toml"))]
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in alike)
