"""Write samples in other programs' layouts; see guided_diffusion/cli/export.py."""

from run_command import run_command

if __name__ == "__main__":
    run_command("export")
