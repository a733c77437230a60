#!/usr/bin/env bash
# A TPU slice of one or many hosts: puts this checkout on every host and starts run.py on all of them at once.
#
#   gcloud compute tpus tpu-vm create NAME --zone=ZONE --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#   launch/tpu_vm.sh NAME ZONE --config=configs/glue.py:sst2 --workdir=gs://BUCKET/sst2
#
# --workdir may also be a folder that all hosts share (Filestore, another NFS). One on the host itself goes with the
# machine. The same command again resumes. What is committed is sent, not what is edited.
set -euo pipefail
if [[ $# -lt 3 ]]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
name=$1 zone=$2
shift 2
cd "$(dirname "$0")/.."

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$name:jaxft.tar.gz" --zone="$zone" --worker=all

# The images come with Python 3.10, jaxft needs 3.11: uv brings one.
install='set -e
mkdir -p jaxft && tar -xzf jaxft.tar.gz -C jaxft && cd jaxft
python3 -m pip install --quiet --user uv
test -x .venv/bin/python || python3 -m uv venv --quiet --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu,gs]"'
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$install"

# JAX finds the other hosts by the metadata server.
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
    --command="cd jaxft && exec .venv/bin/python run.py $(printf '%q ' "$@")"
