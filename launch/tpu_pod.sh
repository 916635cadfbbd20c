#!/usr/bin/env bash
# A run on a TPU pod slice (Google Cloud), from your own machine:
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/k400.py:large --config.data.data_dir=gs://BUCKET/data --workdir=gs://BUCKET/run
#   launch/tpu_pod.sh NAME ZONE --logs [WORKER]     follow the log of a worker (default: 0, which reports); Ctrl-C stops only this
#   launch/tpu_pod.sh NAME ZONE --stop              save and stop on all workers
#
# The slice must exist already, created for example by
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-64 --version=v2-alpha-tpuv5-lite
# The first command copies the repository's current commit to every worker and installs it, with JAX for TPUs; later commands do so
# only for another commit. The run is detached and survives a dropped connection. Prepare the data once, anywhere, in a bucket
# (docs/data.md). Checkpoints are in the workdir, so the same command resumes, even on a newly created slice.
set -euo pipefail
usage() {
  echo "Usage: launch/tpu_pod.sh NAME ZONE --config=... --workdir=gs://... | --logs [WORKER] | --stop" >&2
  exit 2
}
[ $# -ge 3 ] || usage
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."
on_workers() { # WORKER COMMAND
  gcloud compute tpus tpu-vm ssh --worker="$1" --zone="$zone" "$name" --command="$2"
}
# shellcheck disable=SC2016  # for the shells of the workers
running='[ -f timesformer.pid ] && kill -0 $(cat timesformer.pid) 2>/dev/null'

case $1 in
  --logs)
    exec gcloud compute tpus tpu-vm ssh --worker="${2:-0}" --zone="$zone" "$name" --command="tail -n 100 -F timesformer.log"
    ;;
  --stop)
    # SIGTERM to one process is enough, but a process may have ended already.
    on_workers all "if $running; then kill -TERM \$(cat timesformer.pid); while $running; do sleep 1; done; fi; tail -n 3 timesformer.log"
    exit
    ;;
  --config=*) ;;
  *) usage ;;
esac

# Copy only files tracked by git, and only if the workers have another commit.
commit=$(git rev-parse HEAD)
if ! on_workers all "[ \"\$(cat timesformer_jax/.installed)\" = $commit ]" 2>/dev/null; then
  archive=$(mktemp --suffix=.tar.gz)
  trap 'rm -f "$archive"' EXIT
  git archive --format=tar.gz --output="$archive" "$commit"
  gcloud compute tpus tpu-vm scp --worker=all --zone="$zone" "$archive" "$name:timesformer_jax.tar.gz"
  on_workers all "
    set -e
    mkdir -p timesformer_jax && tar xzf timesformer_jax.tar.gz -C timesformer_jax && cd timesformer_jax
    command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh  # the image's Python is too old
    export PATH=\$HOME/.local/bin:\$PATH
    uv python install 3.12 && make install PYTHON=\$(uv python find 3.12) && .venv/bin/pip install --quiet -e '.[tpu]'
    echo $commit > .installed
  "
fi

# JAX finds the other workers by itself. Arguments are quoted again for the remote shell.
on_workers all "
  if $running; then echo 'Error: a run is under way here: --logs follows it, --stop ends it.' >&2; exit 1; fi
  cd timesformer_jax
  setsid nohup .venv/bin/python main.py --distributed=on $(printf '%q ' "$@") > ../timesformer.log 2>&1 < /dev/null &
  echo \$! > ../timesformer.pid
"
echo "Started on all workers. Follow it: launch/tpu_pod.sh $name $zone --logs"
