#!/usr/bin/env bash
# A sweep under Slurm: one job per line of a file, with the arguments of that line and its own workdir. From the root of the
# repository:
#
#   launch/sweep.sh FILE [OPTIONS OF SBATCH] -- --config=configs/k400.py --config.data.root=/data/k400 --workdir=/runs/rates
#
# A FILE of the two lines
#   --config.optimizer.learning_rate=0.005
#   --config.optimizer.learning_rate=0.01 --config.train.num_epochs=10
# runs in /runs/rates/1 and /runs/rates/2. Prepare the data beforehand in a single job (see launch/slurm.sh).
set -euo pipefail
if [ $# -lt 3 ] || [ ! -f "$1" ]; then
  echo "Usage: launch/sweep.sh FILE [OPTIONS OF SBATCH] -- --config=... --workdir=FOLDER" >&2
  exit 2
fi
SWEEP=$(realpath "$1")
export SWEEP
shift
options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  options+=("$1")
  shift
done
[ $# -gt 0 ] && shift
arguments=() found=
for argument in "$@"; do
  case $argument in
    --workdir=*) arguments+=("$argument/%a") found=1 ;;
    *) arguments+=("$argument") ;;
  esac
done
[ -n "$found" ] || { echo "Error: --workdir=FOLDER must be given behind --." >&2; exit 2; }
lines=$(grep -c '' "$SWEEP") || { echo "Error: $SWEEP is empty." >&2; exit 2; }
exec sbatch --array="1-$lines" "${options[@]}" "$(dirname "$0")/slurm.sh" "${arguments[@]}"
