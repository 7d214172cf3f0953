#!/usr/bin/env bash
# What tests/test_page_browser.py and tests/evaluation/test_report_browser.py need besides: Chromium with its driver, and an
# environment, .venv-browser, that sees the packages of the project's Python and adds selenium and gradio. Then run:
#
#   .venv-browser/bin/python -m pytest tests/test_page_browser.py tests/evaluation/test_report_browser.py
set -eu
ROOT=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
. "$ROOT/scripts/setup_env.sh"

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null ||
        fail "no chromium and chromedriver here: install them (Debian's packages are chromium and chromium-driver)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver
fi

setup_env requirements.txt requirements-eval.txt requirements-dev.txt
side_env .venv-browser
"$venv/bin/python" -m pip install -qq --disable-pip-version-check selenium==4.51.0 gradio==6.31.0
echo "ready: $venv/bin/python -m pytest $ROOT/tests/test_page_browser.py $ROOT/tests/evaluation/test_report_browser.py"
