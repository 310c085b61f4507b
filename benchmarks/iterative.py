"""Time a step of iterative ptychography against the Fourier transforms in it: `python -m gpu4d.benchmarks.iterative`.

The floor is the time of the transforms alone: as many, of the same arrays, in the same groups and threads, in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import gpu4d
from gpu4d import arrays, fft
from gpu4d.ptychography.experiment import geometry
from gpu4d.ptychography.iterative._reconstruct import Start, _begin
from gpu4d.ptychography.iterative.options import Options

CASES = {  # label: pattern, positions of a batch, modes, slices
    "64², one mode": (64, 512, 1, 1),
    "64², four modes": (64, 256, 4, 1),
    "128², one mode": (128, 256, 1, 1),
    "96², five slices": (96, 128, 1, 5),
}
ROUNDS = 5  # the best of which counts: others share the machine


def best(call: Callable[[], Any], clock: Callable[[], float]) -> float:
    """Return the least seconds of a call."""
    found = []
    for _ in range(ROUNDS):
        begin = clock()
        call()
        found.append(clock() - begin)
    return min(found)


def step_and_floor(pattern: int, batch: int, modes: int, slices: int, device: str) -> tuple[float, float]:
    """Return the seconds of a step for a batch of positions, and of its Fourier transforms."""
    side = int(np.ceil(np.sqrt(batch)))
    data = np.random.default_rng(0).poisson(2.0, (side, side, pattern, pattern)).astype("uint8")
    known = gpu4d.Calibration(energy=80e3, semiangle=22.0, q_pixel=1 / 24, r_pixel=0.3, origin=(pattern // 2,) * 2, rotation=0.0)
    cube = gpu4d.DataCube(data, known)
    fixed = (None, False, "poisson", 0.1, "complex", 0.0, None, batch, 0.0, 0.0, 0.0, 0.1, 0, 2, 0, "single")
    options = Options(1, slices, 100.0, modes, *fixed)
    _, run, state = _begin(cube, geometry(cube), options, Start({"defocus": 150.0}, None, None), {"device": device})
    index = np.arange(batch)  # noise is no scan, so that steps of any length would diverge: they have length 0 here
    run.step(state, index, True)
    waves = [
        arrays.from_numpy(np.ones((len(part), modes, pattern, pattern), np.complex64), state.object) for part in run._groups(index, state)
    ]

    def transforms(wave: Any) -> Any:
        """Do what a step does: to the object, forth and back between slices, to the detector and back, and back to the aperture."""
        for i in range(4 + 4 * (slices - 1)):
            wave = fft.fft2(wave) if i % 2 else fft.ifft2(wave)
        return float(arrays.to_numpy(arrays.namespace(wave).abs(wave[0, 0, :1, :1]))[0, 0])  # waits for a device

    clock = time.process_time if device == "cpu" else time.perf_counter  # of all threads: others use the machine, too
    return best(lambda: run.step(state, index, True), clock), best(lambda: list(run._map(transforms, waves)), clock)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    device = parser.parse_args().device
    print(f"{'case':20} {'step':>9} {'FFTs':>9} {'FFTs / step':>12} {'patterns/s':>11}")
    for label, (pattern, batch, modes, slices) in CASES.items():
        step, floor = step_and_floor(pattern, batch, modes, slices, device)
        print(f"{label:20} {step * 1e3:6.1f} ms {floor * 1e3:6.1f} ms {floor / step:12.2f} {batch / step:11.0f}")


if __name__ == "__main__":
    main()
