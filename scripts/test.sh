#!/usr/bin/env bash
# Set up the environment, then check style and run the tests; arguments go to pytest.
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/setup_env.sh"
setup_env requirements.txt requirements-eval.txt requirements-dev.txt

cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# A process per core, each with a file of tests at a time and one thread: together they would slow each other.
export OMP_NUM_THREADS=1
exec "$PYTHON" -m pytest -q -n auto --dist loadfile "$@"
