"""The command defect-gen, python -m guided_diffusion, and the scripts that call the same modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, plain_environment

from guided_diffusion.cli import COMMANDS


def run(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=plain_environment(), cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("-m", "guided_diffusion", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")] == list(COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate quality", "evaluate lift", "evaluate compare"])
def test_every_command_has_help_under_its_own_name(command: str) -> None:
    shown = run("-m", "guided_diffusion", *command.split(), "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: defect-gen {command} ")


def test_an_unknown_command_gets_one_line() -> None:
    result = run("-m", "guided_diffusion", "trian")
    assert result.returncode == 2
    assert result.stderr == f"error: unknown command 'trian'; known: {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("scripts/*.py")))
def test_scripts_run_from_any_folder_without_an_installed_package(script: str, tmp_path: Path) -> None:
    if script == "run_command.py":
        return
    environment = {key: value for key, value in plain_environment().items() if key != "PYTHONPATH"}
    command = [sys.executable, str(ROOT / "scripts" / script), "--help"]
    shown = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: {script} ")


def test_outside_the_environment_a_script_says_how_to_get_it(tmp_path: Path) -> None:
    command = [sys.executable, "-S", "-E", str(ROOT / "scripts" / "inference.py"), "--help"]  # without site-packages
    result = subprocess.run(command, env={"PATH": os.environ["PATH"]}, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {sys.executable} has no module ") and ".venv" in result.stderr
    assert result.stderr.count("\n") == 1
