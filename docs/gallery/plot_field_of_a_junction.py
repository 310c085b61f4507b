"""
Electric field by DPC
=====================

The centre of mass of each pattern moves with the electric field. Colour shows the direction and strength of the field. The wheel is the
key to the colours.
"""

import numpy as np

import gpu4d

STEP, ENERGY, THICKNESS, Q = 40.0, 200e3, 1500.0, 5e-4  # Å, eV, Å, 1/Å
x, y = np.meshgrid(np.arange(48.0), np.arange(32.0), indexing="ij")
peak = 2.5e-3 * np.exp(-((((x - 24) + 0.25 * (y - 16)) / 5) ** 2))  # V/Å across a slanted junction
field = np.stack([peak, 0.25 * peak], -1) / np.hypot(1, 0.25)
shift = -gpu4d.physics.interaction_constant(ENERGY) * THICKNESS * field / (2 * np.pi) / Q
qx, qy = np.indices((40, 40))
disk = np.clip(12.5 - np.hypot(qx - 19.5 - shift[..., 0, None, None], qy - 19.5 - shift[..., 1, None, None]), 0, 1)
counts = np.random.default_rng(0).poisson(disk * 20_000 / disk.sum((2, 3), keepdims=True)).astype("uint16")
cube = gpu4d.DataCube(counts, gpu4d.Calibration(energy=ENERGY, semiangle=0.15, q_pixel=Q, r_pixel=STEP, rotation=0.0, transpose=False))

# %%
# Positions far from the junction show where the beam is without a field.
free = np.abs(x - 24) > 15
found = gpu4d.dpc(cube, thickness=THICKNESS, descan="mean", descan_where=free)
picture = gpu4d.plot.com(found.electric_field(), "Electric field", remove_mean=False, arrows=True)
