"""Time this program against the released recipe; see guided_diffusion/cli/benchmark.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("benchmark")
