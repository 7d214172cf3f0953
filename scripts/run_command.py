"""Run a command of this checkout, whether or not the package is installed."""

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone runs its own code, not an installed copy's


def run_command(name: str) -> None:
    """Run guided_diffusion/cli/<name>.py."""
    run(lambda: __import__("guided_diffusion.cli", fromlist=["run"]).run(name))


def run(call: Callable[[], None]) -> None:
    """Make the call; where a module is not installed, say in one line how to get it, with exit status 2."""
    try:
        call()
    except ModuleNotFoundError as error:
        print(
            f"error: {sys.executable} has no module {error.name}: activate the environment that scripts/quickstart.sh "
            "makes (. .venv/bin/activate), or pip install -r requirements.txt",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:  # while libraries are imported; errors.run_cli does the rest
        print("interrupted", file=sys.stderr)
        sys.exit(130)
