"""Last stage: Nsight Compute on the hot kernels, compute-sanitizer on two of them.

Not every machine lets them look: each is tried, and dropped where its first command does not work.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace

from gpu4d.benchmarks.gpu_run.settings import Settings
from gpu4d.benchmarks.gpu_run.stages import part

FIRST_TRY = 15.0  # seconds in which a tool shows that it works
LATER = 25.0  # seconds of one kernel
SECTIONS = ("SpeedOfLight", "Occupancy", "WarpStateStats", "MemoryWorkloadAnalysis")
PROFILED = (  # name of the kernel, case, patterns: enough to fill a card several times
    ("find_disks_128", "find_disks 128×128, uint16, 21 disks", 8192),
    ("frame_sums", "frame_reductions 128², uint16, 4 masks", 8192),
    ("filter_columns_256", "find_disks 256×256, uint16, 21 disks", 1056),
    ("fit", "poisson_fit 128², 21 disks, 6 parameters", 8192),
    ("separate_disks_3", "separate_disks 128², 21 disks, none close", 8192),
    ("joint_fit_3", "joint_fit 128², 21 disks in one group", 1056),
    ("newton_peaks", "refine_disks 256², 21 peaks", 2048),
    ("weighted_disk", "ssb_sum 8 809 pixels, 128² scan", 800),
)
CHECKED = (
    ("racecheck", "find_disks 64×64, uint16, 21 disks", 4),
    ("memcheck", "find_disks 64×64, uint16, 21 disks", 4),
    ("racecheck", "refine_disks 128², 21 peaks", 4),
    ("memcheck", "refine_disks 128², 21 peaks", 4),
)


def main(settings: Settings) -> bool:
    plain = replace(settings, rehearse=False)  # these tools need the driver itself
    sections = [word for section in SECTIONS for word in ("--section", section)]
    profile = [
        (name, ["ncu", "--clock-control", "none", *sections, "-k", f"regex:{name}", "-c", "1", *part("one-case", plain, case, str(n))])
        for name, case, n in PROFILED
    ]
    check = [
        (f"{tool} {case}", ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *part("one-case", plain, case, str(n))])
        for tool, case, n in CHECKED
    ]
    good = [_tried("ncu", profile), _tried("compute-sanitizer", check)]
    return all(good)


def _tried(tool: str, asked: Sequence[tuple[str, list[str]]]) -> bool:
    """Run all commands of a tool, unless its first shows that it does not work here; False where it found errors."""
    if shutil.which(tool) is None:
        print(f"{tool}: not installed", flush=True)
        return True
    good = True
    for number, (name, command) in enumerate(asked):
        start = time.perf_counter()
        print(f"== {tool} {name}", flush=True)
        try:
            done = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LATER if number else FIRST_TRY,
            )
            said, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as error:
            so_far = error.stdout or b""
            said, code = so_far.decode(errors="replace") if isinstance(so_far, bytes) else so_far, None
        print("\n".join(said.splitlines()[-80:]))
        print(f"== {tool} {name}: {'no end' if code is None else f'code {code}'} after {time.perf_counter() - start:.1f} s", flush=True)
        if number == 0 and code not in (0, 9):
            print(f"{tool}: does not work here, dropped", flush=True)
            return True
        good = good and code == 0
    return good
