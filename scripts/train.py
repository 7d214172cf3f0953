"""Train one network; see guided_diffusion/cli/train.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("train")
