#!/usr/bin/env bash
# Starts training in the background on every worker, the same command on each, under the restart loop (worker/restart_loop.sh).
# Run it again at any time: it starts nothing where a loop is alive, and elsewhere resumes the run in WORKDIR.
#
#   run.sh [--dry-run]        --dry-run prints the gcloud commands and runs nothing
source "$(dirname "$0")/common.sh"
begin "$@"
no_more "${rest[@]}"
need CODE CONFIG WORKDIR
[[ $WORKDIR == /* || $WORKDIR == gs://?*/?* ]] || fail 2 "WORKDIR=$WORKDIR in $settings must be gs://BUCKET/FOLDER, or an absolute path \
on a file system that every worker mounts (see PREPARE)."

trainer=(.venv/bin/python -m safedpo_jax.main --config "$CONFIG" --workdir "$WORKDIR" "${OVERRIDES[@]}")
on_workers "its message is above. status.sh shows what each worker does; run.sh again starts the ones that are missing." all \
  "cd $(quote "$CODE") && bash tpu_scripts/worker/start.sh $(quote "${trainer[@]}")"
