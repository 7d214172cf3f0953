"""Keep the samples that are good enough to train on; see guided_diffusion/cli/curate.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("curate")
