"""List the eight neighbours of a pixel in two halves, so that of two equal neighbouring pixels exactly one is a maximum."""

ABOVE = ((-1, -1), (0, -1), (1, -1), (-1, 0))  # (dx, dy) of neighbours that a maximum must exceed
NOT_BELOW = ((1, 0), (-1, 1), (0, 1), (1, 1))  # (dx, dy) of neighbours that it must not fall below
