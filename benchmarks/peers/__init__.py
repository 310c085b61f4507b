"""Comparisons with other tools; each script runs in an environment of theirs, described at its top."""
