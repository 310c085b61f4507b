"""
Counting electrons
==================

Raw frames of a direct detector are turned into single electrons. The thresholds follow from the frames. Look whether they lie between the
noise and the signals of electrons.
"""

import gpu4d

raw = gpu4d.simulate.raw_frames((6, 6), (128, 128), occupancy=0.004, seed=1)
counted = gpu4d.preprocess.count_scan(raw.cube, raw.darks)
print(f"{counted.electrons} of {len(raw.electrons)} electrons, {counted.compression:.0f} times smaller")
picture = gpu4d.plot.counting_histogram(counted.setup)
