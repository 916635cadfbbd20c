#!/usr/bin/env bash
# A run on several GPU nodes under Slurm: one process a node, all its GPUs. Submit it from the repository's root:
#
#   sbatch --nodes=4 launch/slurm.sh --config=configs/k400.py:modern --config.data.root=/data/k400 --workdir=/runs/k400
#
# The workdir and the data must be on a disk that all nodes see. Five minutes before the time is over, and where the job is
# preempted, Slurm sends SIGTERM: the run saves its state and ends. A preempted job is started again by --requeue; after the
# time limit submit the same command again.
#SBATCH --job-name=timesformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?start this with sbatch}"

# JAX would take one GPU for each Slurm task; this is one task with all GPUs of its node.
gpus=${SLURM_GPUS_ON_NODE:-8}
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
export JAX_LOCAL_DEVICE_IDS
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}  # srun doesn't take it over by itself; decoding needs the cores

# JAX reads the rest (who is there, how many, where the first one is) from Slurm. Where one process fails, the others don't wait
# for it.
exec srun --kill-on-bad-exit=1 .venv/bin/python main.py --distributed=on "$@"
