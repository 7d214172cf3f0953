"""The command lines: a module per command, which parses, calls and prints.

`defect-gen COMMAND`, `python -m guided_diffusion COMMAND` and scripts/*.py all come to `run`.
"""

import importlib
import sys
from typing import NoReturn

COMMANDS = {  # what `defect-gen` calls it: module of this folder, one line of help
    "prepare": ("prepare", "turn any known layout into a prepared set: images, index masks, dataset.json"),
    "check": ("check", "look at a data set before training"),
    "train": ("train", "train one network, large or small"),
    "generate": ("inference", "generate labelled images with the two trained networks"),
    "ui": ("ui", "insert defects into photographs by hand, on a page in the browser"),
    "pack": ("pack", "put a trained pair into one folder to share"),
    "export": ("export", "write samples and real images in the layout of another program"),
    "evaluate": ("evaluate", "measure fidelity, novelty, labels, and what the images add to training"),
    "curate": ("curate", "keep the samples that are good enough to train on"),
}


def main() -> NoReturn:
    """The command `defect-gen`: run the subcommand that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        print("usage: defect-gen COMMAND ... (each command has its own --help)\n")
        print("\n".join(f"  {command:{width}}  {help_}" for command, (_, help_) in COMMANDS.items()))
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'; known: {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"defect-gen {name}", *sys.argv[2:]]
    run(COMMANDS[name][0])


def run(name: str) -> NoReturn:
    """Run the module `name` of this folder on sys.argv, and end the process."""
    try:
        from ..errors import run_cli  # here, so that Ctrl-C while libraries load is one line too

        module = importlib.import_module(f".{name}", __name__)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    run_cli(module.main, getattr(module, "leave", sys.exit), getattr(module, "FLAGS", {}))
