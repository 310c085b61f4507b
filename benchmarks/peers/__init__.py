"""Scripts that run in an environment of the peers, where gpu4d need not be installed."""
