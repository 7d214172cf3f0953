"""Compare samplers; see guided_diffusion/cli/compare_samplers.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("compare_samplers")
