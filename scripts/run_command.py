"""Run a command of this checkout, whether or not the package is installed."""

import sys
from pathlib import Path


def run_command(name: str) -> None:
    """Run guided_diffusion/cli/<name>.py. A clone runs its own code, not that of an installed copy."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    try:
        from guided_diffusion.cli import run

        run(name)
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} has no module {error.name}: activate the environment that scripts/setup_env.sh "
            "makes (. .venv/bin/activate), or pip install -r requirements.txt",
            file=sys.stderr,
        )
        sys.exit(2)
