"""The steps of `gpu4d calibrate`: sums of the file, Bragg disks, rings, and what is left where there is neither."""
