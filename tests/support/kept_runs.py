"""Runs of a small scan in processes that can be killed. A server imports what they need once, and forks for each."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np

KNOWN = {"calibration__energy": 200e3, "calibration__semiangle": 3.0, "calibration__r_pixel": 20.0, "images__adf_inner": 1.2}
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
