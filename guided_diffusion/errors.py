"""One way to tell a user that the input is wrong: one line, exit status 2, no traceback."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

import blobfile as bf


class InputError(ValueError):
    """Bad input. Its text is one line that names the file or flag, what is wrong and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is not one of `known`, offering the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
    return f"unknown {kind} '{name}' ({hint})"


def run_cli(main: Callable[[list[str] | None], int | None], leave: Callable[[int], NoReturn] = sys.exit) -> NoReturn:
    """Run a script's main(); an InputError becomes one line on stderr and exit status 2.

    leave: what ends the process, dist_util.leave where it may be one of several.
    """
    try:
        status = main(None)
    except (InputError, bf.Error) as error:  # blobfile says which path of the user's it cannot use
        line = " ".join(str(error).split())
        print(f"error: {line}", file=sys.stderr, flush=True)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    leave(status or 0)
