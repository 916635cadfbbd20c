#!/usr/bin/env bash
# A run on one or several nodes under Slurm. Submit it from the root of the repository; main.py receives all arguments after the
# script:
#
#   sbatch --nodes=4 launch/slurm.sh --config=configs/k400.py:modern --config.data.root=/data/k400 --workdir=/runs/k400
#
# The run uses whole nodes: one process per node, with all its GPUs, cores and memory, whether that is 1 GPU and 8 cores or 8 GPUs
# and 96 cores. The workdir and the prepared data must be on a disk shared by all nodes.
#
# Options of sbatch, before the script:
#   --gpus-per-node=4 --cpus-per-task=32   use a part of a node, together with --exclusive=user or --oversubscribe; --gres=gpu:4 has
#                                          the same effect, --gpus-per-task is refused
#   --ntasks-per-node=2                    two processes per node, which divide its GPUs
#   --time=0:08:00 --signal=TERM@60        for limits below ten minutes: by default, a run saves and stops 5 minutes before its end
#   --dependency=afterok:JOB               run after another job, such as one that only prepares the data on a CPU node:
#                                          sbatch --nodes=1 --gpus-per-node=0 launch/slurm.sh --mode=prepare ...
#   --output=logs/%j.log                   path of the log; every line begins with the number of its process
#   --array=1-4                            one job per number, which replaces %a in the arguments:
#                                          --config.seed=%a --workdir=/runs/seeds/%a (launch/sweep.sh runs a list of settings)
#
# Environment variables:
#   PYTHON=PATH             Python to run (default: .venv/bin/python)
#   MAX_RESTARTS=20         maximum number of times that an unfinished job is requeued
#   SRUN_OUTPUT=logs/%j-%t  write one log per process (%t) instead
#
# To read the data from each node's local disk, copy the prepared data there first, in a line before `exec` below, such as
#   mkdir -p /scratch/data && rsync -a /shared/data/ /scratch/data/
# and give --config.data.data_dir=/scratch/data.
#
# The processes connect to a port of the first node that is derived from the job's number; export JAX_COORDINATOR_PORT=PORT to set
# another.
#
# Slurm sends SIGTERM 5 minutes before the time limit and when it preempts the job; the run then saves its state. An unfinished job
# is requeued and resumes, even after a process was killed or a node was lost. `scancel` cancels it for good.
#SBATCH --job-name=timesformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"

refuse() {
  echo "Error: $1" >&2
  exit 2
}

# In a job array, replace %a by the number, and add the arguments of that line of launch/sweep.sh's file.
set -- "${@//%a/${SLURM_ARRAY_TASK_ID:-%a}}"
if [ -n "${SWEEP:-}" ]; then
  mapfile -d '' -t settings < <(sed -n "${SLURM_ARRAY_TASK_ID:?launch/sweep.sh sets it}p" "$SWEEP" | xargs printf '%s\0')
  set -- "$@" "${settings[@]}"
fi

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || refuse "there is no Python at $python: run make install, or set PYTHON."
tasks=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE%%(*}}
[[ $tasks != *,* ]] || refuse "the nodes have $SLURM_TASKS_PER_NODE processes: give --ntasks-per-node, the same number for each."
gpus=${SLURM_GPUS_ON_NODE:-0}
[ -z "${SLURM_GPUS_PER_TASK:-}" ] || refuse "--gpus-per-task hides each process's GPUs from the others: give --gpus-per-node."
[ "$((gpus % tasks))" = 0 ] || refuse "$gpus GPUs can't be divided among $tasks processes a node: change --ntasks-per-node."
export GPUS_PER_TASK=$((gpus / tasks))
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-$((SLURM_CPUS_ON_NODE / tasks))}

# JAX reads the processes and the address of the first one from Slurm, but would use only one GPU per process.
# shellcheck disable=SC2016  # for the shells of the processes
launch='
if [ "$GPUS_PER_TASK" -gt 0 ]; then
  first=$((SLURM_LOCALID * GPUS_PER_TASK))
  export JAX_LOCAL_DEVICE_IDS=$(seq -s, "$first" $((first + GPUS_PER_TASK - 1)))
fi
exec "$0" main.py --distributed=on --exit_code_if_stopped=75 "$@"
'
trap : TERM  # stay alive to requeue the job; srun forwards the signal to the processes
code=0
srun --label --kill-on-bad-exit=1 ${SRUN_OUTPUT:+--output="$SRUN_OUTPUT"} bash -c "$launch" "$python" "$@" || code=$?

# 75: stopped early, with everything saved. Above 128: killed by a signal. Any other failure would happen again.
if [ "$code" = 75 ] || [ "$code" -gt 128 ]; then
  state=$(scontrol show job "$SLURM_JOB_ID" --oneliner | grep -o 'JobState=[A-Z_]*')
  # A cancelled job is COMPLETING while this script is still running.
  if [ "$state" = JobState=RUNNING ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "${MAX_RESTARTS:-20}" ]; then
    echo "The run has not finished (exit code $code): queueing the job again, restart $((${SLURM_RESTART_COUNT:-0} + 1))." >&2
    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script meanwhile
  fi
fi
exit "$code"
