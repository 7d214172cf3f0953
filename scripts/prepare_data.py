"""Prepare a data set for training; see guided_diffusion/cli/prepare.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("prepare")
