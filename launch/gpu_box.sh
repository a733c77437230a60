#!/usr/bin/env bash
# One machine, one process, all its GPUs (or some: CUDA_VISIBLE_DEVICES=0,1). Goes on by itself after SIGTERM.
#
#   launch/gpu_box.sh --config=configs/quickstart.py --workdir=/data/runs/qs
#
# Arguments are those of run.py. PYTHON is the interpreter that has jaxft[cuda]: .venv/bin/python unless set.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

preempted=75 # the exit code of a run that SIGTERM has stopped, all saved
while true; do
    "${PYTHON:-.venv/bin/python}" run.py --processes=1 "$@"
    code=$?
    [[ $code -eq $preempted ]] || exit "$code"
    echo "stopped and saved; going on in 5 s (Ctrl-C ends it)" >&2
    sleep 5
done
