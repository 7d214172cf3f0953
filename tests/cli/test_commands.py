"""The command defect-gen, python -m guided_diffusion, and the scripts that call the same modules."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("evaluate.py quality --real {0} --samples no/where", "--samples no/where: does not exist"),
        (
            "evaluate.py lift --train no/where --val {0} --samples {0} --out {0}/out",
            "--train no/where: does not exist",
        ),
        ("evaluate.py compare --large no/where --real {0}", "--large no/where: no such checkpoint file"),
        ("evaluate.py report --samples no/where", "--samples no/where: does not exist"),
        ("curate.py --samples no/where --train {0} --out {0}/out", "--samples no/where: has no manifest.jsonl"),
        ("export_data.py no/where {0}/out --format coco", "SAMPLES no/where: is not a folder"),
    ],
)
def test_a_folder_that_is_not_there_is_one_line(command: str, line: str, tmp_path: Path, run_script: Callable) -> None:
    result = run_script(*command.format(tmp_path).split())
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {line}") and result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
