"""Keep the samples worth training on; see guided_diffusion/cli/curate.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("curate")
