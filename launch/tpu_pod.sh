#!/usr/bin/env bash
# A run on a TPU pod slice (Google Cloud): the same command on every host of the slice, from your own machine.
#
#   launch/tpu_pod.sh NAME ZONE --config=configs/k400.py:large --config.data.data_dir=gs://BUCKET/data --workdir=gs://BUCKET/run
#
# The slice exists already, for example by
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-64 --version=v2-alpha-tpuv5-lite
# On first use this copies the repository to every host and installs it there, with JAX for TPUs. The data are prepared
# once, anywhere, into a bucket (docs/data.md); checkpoints go to the workdir, so a slice that was taken away can be made
# again, and the same command goes on.
set -euo pipefail
if [ $# -lt 3 ]; then
  echo "Usage: launch/tpu_pod.sh NAME ZONE --config=... --workdir=gs://..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."
tpu=(gcloud compute tpus tpu-vm)

# Only what git knows travels.
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
"${tpu[@]}" scp --worker=all --zone="$zone" "$archive" "$name:timesformer_jax.tar.gz"
"${tpu[@]}" ssh --worker=all --zone="$zone" "$name" --command="
  set -e
  mkdir -p timesformer_jax && tar xzf timesformer_jax.tar.gz -C timesformer_jax && cd timesformer_jax
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh  # the image's Python is too old
  export PATH=\$HOME/.local/bin:\$PATH
  uv python install 3.12 && make install PYTHON=\$(uv python find 3.12) && .venv/bin/pip install --quiet -e '.[tpu]'
"

# JAX finds the other hosts by itself. Arguments are quoted once more, for the shell at the other end.
"${tpu[@]}" ssh --worker=all --zone="$zone" "$name" --command="cd timesformer_jax && .venv/bin/python main.py --distributed=on $(printf '%q ' "$@")"
