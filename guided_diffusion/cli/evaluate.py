"""Measure what generated images are worth, and show it.

    python scripts/evaluate.py quality --real HELD_OUT --samples SAMPLES --train TRAIN  # how good, how new
    python scripts/evaluate.py lift --train TRAIN --val HELD_OUT --samples SAMPLES      # do they help a segmenter
    python scripts/evaluate.py sweep --large LARGE --small SMALL --real HELD_OUT        # which step_inference
    python scripts/evaluate.py control --real HELD_OUT --train TRAIN --samples SAMPLES  # are they as asked for
    python scripts/evaluate.py report --samples SAMPLES --train TRAIN                   # one HTML page of all of it

Needs requirements-eval.txt. Each command has its own --help.
"""

from __future__ import annotations

import argparse

from ..errors import InputError


def main(argv: list[str] | None = None) -> None:
    try:
        from ..evaluation import control, lift, quality, report, sweep
    except ImportError as error:
        raise InputError(f"evaluate.py: {error}; pip install -r requirements-eval.txt") from error
    modules = {"quality": quality, "lift": lift, "sweep": sweep, "control": control, "report": report}
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__, formatter_class=formatter)
        module.add_arguments(command)
    args = parser.parse_args(argv)
    modules[args.command].main(args)
