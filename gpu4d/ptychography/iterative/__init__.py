"""Iterative ptychography: object, probes and positions by the likelihood of all patterns."""
