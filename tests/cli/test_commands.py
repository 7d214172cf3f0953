"""The command defect-gen, python -m guided_diffusion, and the scripts that call the same modules."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT, plain_environment

from guided_diffusion.cli import COMMANDS, main


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, *map(str, arguments)], environment or plain_environment()
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_names_every_command(tmp_path: Path) -> None:
    shown = run("-m", "guided_diffusion", "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("  ")] == list(COMMANDS)
    unknown = run("-m", "guided_diffusion", "trian", cwd=tmp_path)
    assert unknown.returncode == 2
    assert unknown.stderr == f"error: unknown command 'trian'; known: {', '.join(COMMANDS)}\n"


@pytest.mark.parametrize("command", [*COMMANDS, "evaluate quality", "evaluate lift", "evaluate compare"])
def test_every_command_has_help_under_its_own_name(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["defect-gen", *command.split(), "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0 and capsys.readouterr().out.startswith(f"usage: defect-gen {command} ")


@pytest.mark.parametrize("script", ["draw_demo_data.py", "train.py"])
def test_scripts_run_from_any_folder_without_an_installed_package(script: str, tmp_path: Path) -> None:
    shown = run(ROOT / "scripts" / script, "--help", cwd=tmp_path, PATH=os.environ["PATH"])
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: {script} ")


def test_outside_the_environment_a_script_says_how_to_get_it(tmp_path: Path) -> None:
    without_site_packages = ("-S", "-E", ROOT / "scripts" / "inference.py", "--help")
    result = run(*without_site_packages, cwd=tmp_path, PATH=os.environ["PATH"])
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {sys.executable} has no module ") and ".venv" in result.stderr
