"""Compare results with a truth or with each other: what is compared, how, and the picture of it."""
