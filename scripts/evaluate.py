"""Measure generated images; see guided_diffusion/cli/evaluate.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("evaluate")
