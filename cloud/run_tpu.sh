#!/usr/bin/env bash
# Runs launch.py on a Cloud TPU slice: one host or many, the same commands. See tpu.md.
#
#   export PROJECT=my-project ZONE=us-west4-a TPU=jiqa ACCELERATOR=v5litepod-32 WORKDIR=gs://my-bucket/runs/quality
#   cloud/run_tpu.sh create                                # queue for the slice and wait until it is there
#   cloud/run_tpu.sh install                               # copy this checkout to every host and install it
#   cloud/run_tpu.sh train --config=configs/reiqa.py       # start on every host; returns at once
#   cloud/run_tpu.sh logs                                  # follow the first host
#   cloud/run_tpu.sh stop                                  # save a checkpoint and end, on every host
#   cloud/run_tpu.sh delete                                # stop paying
#   cloud/run_tpu.sh keep --config=configs/reiqa.py        # all of it on a spot slice, again after every preemption
#
# Further variables: RUNTIME (chosen by the accelerator), DATA (folder of a bucket with prepared sets, copied to every
# host), SPOT=1 (cheaper, may be taken away at any time).
set -euo pipefail

: "${PROJECT:?project to pay for it}" "${ZONE:?such as us-west4-a}" "${TPU:=jiqa}"
: "${ACCELERATOR:?such as v5litepod-32, the smallest v5e slice that configs/reiqa.py fits}"
here=$(cd "$(dirname "$0")/.." && pwd)

runtime() {
  case "$ACCELERATOR" in
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) echo "run_tpu.sh: set RUNTIME for the accelerator $ACCELERATOR" >&2; return 2 ;;
  esac
}

state() {
  gcloud compute tpus queued-resources describe "$TPU" --project="$PROJECT" --zone="$ZONE" \
    --format='value(state.state)' 2>/dev/null || echo ABSENT
}

on_all() {
  gcloud compute tpus tpu-vm ssh "$TPU" --project="$PROJECT" --zone="$ZONE" --worker=all --command="$1"
}

create() {
  local more=()
  [ -z "${SPOT:-}" ] || more+=(--spot)
  if [ "$(state)" = ABSENT ]; then
    gcloud compute tpus queued-resources create "$TPU" --node-id="$TPU" --project="$PROJECT" --zone="$ZONE" \
      --accelerator-type="$ACCELERATOR" --runtime-version="${RUNTIME:-$(runtime)}" "${more[@]}"
  fi
  local now=""
  while now=$(state); [ "$now" != ACTIVE ]; do
    case "$now" in
      FAILED | SUSPENDED | ABSENT) echo "run_tpu.sh: the request for $TPU is $now" >&2; return 1 ;;
    esac
    sleep 30
  done
}

install() {
  local archive
  archive=$(mktemp --suffix=.tar.gz)
  git -C "$here" archive --format=tar.gz --output="$archive" HEAD
  gcloud compute tpus tpu-vm scp "$archive" "$TPU:jiqa.tar.gz" --project="$PROJECT" --zone="$ZONE" --worker=all
  rm -f "$archive"
  # The images come with an older Python; uv brings its own.
  on_all 'set -e; mkdir -p jiqa; tar -xzf jiqa.tar.gz -C jiqa; cd jiqa
    command -v ~/.local/bin/uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
    ~/.local/bin/uv venv --allow-existing --python=3.12
    ~/.local/bin/uv pip install --quiet -e ".[train,tpu,gcs]"
    .venv/bin/python -c "import jax; print(jax.local_device_count(), jax.devices()[0].device_kind)"'
  if [ -n "${DATA:-}" ]; then
    on_all "mkdir -p data; gcloud storage rsync --recursive '$DATA' data"
  fi
}

train() {
  : "${WORKDIR:?gs://BUCKET/FOLDER}"
  local flags
  flags=$(printf ' %q' "$@")
  # setsid: the run outlives the connection. The number of the process is kept for `stop`.
  on_all "cd jiqa; TFDS_DATA_DIR=\$HOME/data setsid nohup .venv/bin/python launch.py --distributed \
    --workdir=$(printf %q "$WORKDIR")$flags > ../jiqa.log 2>&1 < /dev/null & echo \$! > pid"
}

logs() {
  gcloud compute tpus tpu-vm ssh "$TPU" --project="$PROJECT" --zone="$ZONE" --worker=0 --command='tail -n 50 -f jiqa.log'
}

stop() {
  # shellcheck disable=SC2016  # for the hosts to expand
  on_all 'kill -TERM "$(cat jiqa/pid)"; while kill -0 "$(cat jiqa/pid)" 2>/dev/null; do sleep 1; done'
}

delete() {
  gcloud compute tpus queued-resources delete "$TPU" --project="$PROJECT" --zone="$ZONE" --force --quiet
}

keep() {
  : "${WORKDIR:?gs://BUCKET/FOLDER}"
  SPOT=1
  until gcloud storage ls "$WORKDIR/results.json" >/dev/null 2>&1; do
    if [ "$(state)" != ACTIVE ]; then
      [ "$(state)" = ABSENT ] || delete
      create || { sleep 60; continue; }
      install
      train "$@"
    fi
    sleep 60
    # shellcheck disable=SC2016  # for the hosts to expand
    if [ "$(state)" = ACTIVE ] && ! on_all 'kill -0 "$(cat jiqa/pid)"' 2>/dev/null &&
      ! gcloud storage ls "$WORKDIR/results.json" >/dev/null 2>&1; then
      echo "run_tpu.sh: the run has ended without results; see run_tpu.sh logs, then run_tpu.sh delete" >&2
      return 1
    fi
  done
  delete
}

action=${1:?create, install, train, logs, stop, delete or keep}
shift
case "$action" in
  create | install | train | logs | stop | delete | keep) "$action" "$@" ;;
  *) echo "run_tpu.sh: unknown action $action" >&2; exit 2 ;;
esac
