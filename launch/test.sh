#!/usr/bin/env bash
# Runs ruff and pytest in the repository's own environment, which it makes on first use.
#
#   bash launch/test.sh [pytest arguments]
#   bash launch/test.sh tests/masking -k spans
#   bash launch/test.sh --thorough  # runs are killed 20 times instead of 5
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

"$VENV_PYTHON" -m ruff check
"$VENV_PYTHON" -m ruff format --check
# Two processes, a file never split between them: most of the time goes into compiling.
# A process that dies fails the run: with another in its place, pytest-xdist waits for ever.
"$VENV_PYTHON" -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder \
  --max-worker-restart=0 "$@"
