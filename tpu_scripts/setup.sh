#!/usr/bin/env bash
# Brings the code to every worker (a copy of this checkout's last commit, or a clone) and installs safedpo_jax[tpu,gcs] there in a
# virtual environment. Run it again after a change, and after every create.sh.
#
#   setup.sh [--dry-run]      --dry-run prints the gcloud commands and runs nothing
source "$(dirname "$0")/common.sh"
begin "$@"
no_more "${rest[@]}"
need SOURCE CODE PYTHON
advice="its message is above. Several workers need a key in the agent: ssh-add ~/.ssh/google_compute_engine."

if [[ -n ${PREPARE:-} ]]; then
  on_workers "$advice Otherwise look at PREPARE in $settings." all "$PREPARE"
fi
target=$(quote "$CODE")
if [[ $SOURCE == copy ]]; then
  archive=${TMPDIR:-/tmp}/safedpo_jax-$TPU_NAME.tar.gz
  if ! ((dry_run)); then
    git -C "$here/.." archive --format=tar.gz --output="$archive" HEAD ||
      fail 1 "git could not pack $(dirname "$here"): SOURCE=copy needs a git checkout; or set SOURCE to a URL to clone."
    git -C "$here/.." diff --quiet HEAD || echo "note: changes that are not committed are not copied." >&2
  fi
  to_workers "$advice" "$archive" safedpo_jax.tar.gz
  fetch="mkdir -p $target && tar -xzf safedpo_jax.tar.gz -C $target"
else
  need REVISION
  fetch="git init -q $target && git -C $target fetch -q --depth=1 $(quote "$SOURCE" "$REVISION") && git -C $target checkout -qf FETCH_HEAD"
fi
on_workers "$advice" all "$fetch && bash $target/tpu_scripts/worker/install.sh $(quote "$PYTHON")"
