#!/bin/bash
# Analyse all scans of a folder on a cluster with Slurm: one task for each file.
# Use: sbatch --array=1-$(./slurm-batch.sh --count) slurm-batch.sh
# Submit it in this folder. Scans that are done already are skipped, so that it can be submitted again.
#
# Change these lines for your cluster:
#SBATCH --job-name=gpu4d
#SBATCH --time=01:00:00
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --output=slurm-%A_%a.log
##SBATCH --partition=gpu
##SBATCH --gres=gpu:1
set -eu

SCANS="${SCANS:-scans}"                  # folder with the scans
PATTERN="${PATTERN:-*.h5}"               # which of its files
RECIPE="${RECIPE:-recipes/strain.toml}"  # settings
RESULTS="${RESULTS:-results}"            # one folder for each scan is made here
MEMORY="${MEMORY:-4GB}"                  # that a run may allocate: well below --mem

# Lines that a task of yours may need: module load python; source .venv/bin/activate

files=()
while IFS= read -r file; do files+=("$file"); done < <(find -L "$SCANS" -maxdepth 1 -name "$PATTERN" | sort)
if [ "${1:-}" = "--count" ]; then
    echo "${#files[@]}"
    exit 0
fi
number="${SLURM_ARRAY_TASK_ID:?submit it with sbatch --array=1-N, N from ./slurm-batch.sh --count}"
if [ "$number" -gt "${#files[@]}" ]; then
    echo "there are ${#files[@]} files $PATTERN in $SCANS, and this is task $number" >&2
    exit 1
fi
file="${files[$((number - 1))]}"
name="$(basename "${file%.*}")"
if [ -e "$RESULTS/$name/result.h5" ]; then
    echo "$RESULTS/$name is there: nothing to do"
    exit 0
fi
mkdir -p "$RESULTS"
export GPU4D_THREADS="${SLURM_CPUS_PER_TASK:-1}"
gpu4d run "$file" -o "$RESULTS/$name" --recipe "$RECIPE" --memory "$MEMORY" --quiet
