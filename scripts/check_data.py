"""Look at a data set before training; see guided_diffusion/cli/check.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("check")
