#!/bin/sh
# Analyse all scans of a folder with one recipe, on this machine. Scans that are done already are skipped.
# Use: ./run-all.sh, or RECIPE=recipes/dpc.toml ./run-all.sh
set -eu
cd "$(dirname "$0")"

SCANS="${SCANS:-scans}"                  # folder with the scans
RECIPE="${RECIPE:-recipes/strain.toml}"  # settings
RESULTS="${RESULTS:-results}"            # one folder for each scan is made here

gpu4d recipe check "$RECIPE"
gpu4d batch "$SCANS" -o "$RESULTS" --recipe "$RECIPE"
