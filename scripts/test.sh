#!/usr/bin/env bash
# Set up the environment, then check style and run the tests; arguments go to pytest.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/setup_env.sh"
setup_env requirements.txt requirements-eval.txt requirements-dev.txt

cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
exec "$PYTHON" -m pytest -q "$@"
