#!/usr/bin/env bash
# On a worker: makes .venv in the code's directory with safedpo_jax[tpu,gcs]. uv brings the Python asked for, whatever the image has.
#
#   install.sh VERSION        3.11 or 3.12
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$HOME/.local/bin:$PATH
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[[ -x .venv/bin/python ]] || uv venv --quiet --python "$1" .venv
uv pip install --quiet --python .venv/bin/python -e '.[tpu,gcs]'
.venv/bin/python -c 'import importlib.metadata as m; print(*(f"{p} {m.version(p)}" for p in ("safedpo_jax", "jax", "libtpu")), sep=", ")'
