"""Generate labelled images; see guided_diffusion/cli/inference.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("inference")
