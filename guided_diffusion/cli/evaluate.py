"""Measure generated images, and show the figures.

    python scripts/evaluate.py quality --real HELD_OUT --samples SAMPLES --train TRAIN     # faithful? new?
    python scripts/evaluate.py lift --train TRAIN --val HELD_OUT --samples SAMPLES         # do they help a segmenter
    python scripts/evaluate.py compare --large LARGE --small SMALL --real HELD_OUT         # hand-offs, samplers, steps
    python scripts/evaluate.py report --samples SAMPLES                                    # one HTML page of all of it

Needs requirements-eval.txt. Each command has its own --help.
"""

from ..errors import Parser

FLAGS = {"sample_dir": "--out", "step_inference": "--steps", "sampler": "--samplers", "spacing": "--spacings"}


def main(argv: list[str] | None = None) -> None:
    from ..evaluation import compare, lift, quality, report  # not above: run_cli says where a package is missing

    modules = {"quality": quality, "lift": lift, "compare": compare, "report": report}
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in modules.items():
        command = commands.add_parser(name, help=module.__doc__.partition("\n")[0], description=module.__doc__)
        module.add_arguments(command)
    args = parser.parse_args(argv)
    modules[args.command].main(args)
