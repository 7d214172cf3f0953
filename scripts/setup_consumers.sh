#!/usr/bin/env bash
# What tests/export/test_export_consumers.py needs besides: the programs that exports are for, in an environment of its own,
# .venv-consumers, that sees the packages of the project's Python. Then run:
#
#   .venv-consumers/bin/python -m pytest tests/export/test_export_consumers.py
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/setup_env.sh"

setup_env requirements.txt requirements-eval.txt requirements-dev.txt
side_env .venv-consumers
# torch is named so that none of these brings another one. What reads the exports comes without its dependencies, which
# ask for a second OpenCV among others; those that are used are named here.
"$venv/bin/python" -m pip install -qq --disable-pip-version-check torch==2.13.0 \
    datasets==5.2.0 \
    psutil polars requests \
    docstring-parser einops freia imagecodecs 'jsonargparse[signatures]<4.47' kornia lightning==2.6.6 omegaconf \
    platformdirs rich rich-argparse scikit-image tifffile torchmetrics \
    addict termcolor yapf
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-deps \
    ultralytics==8.4.190 ultralytics-thop==2.2.3 anomalib==2.7.0 mmengine==0.10.7
echo "ready: $venv/bin/python -m pytest $ROOT/tests/export/test_export_consumers.py"
