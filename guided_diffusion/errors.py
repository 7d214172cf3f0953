"""One way to tell a user that the input is wrong: one line, exit status 2, no traceback.

Library code names its parameters, in backticks: InputError("`seed` -1: must be 0 or more"). In Python that reads "seed
-1: ...", on a command line "--seed -1: ...".
"""

import argparse
import difflib
import errno
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import blobfile as bf

LONGEST = 2000  # characters of an error line
_PARAMETER = re.compile(r"`(\w+)`")


class InputError(ValueError):
    """Bad input. Its text is one line that names the file or `parameter`, what is wrong and what to do."""

    def __str__(self) -> str:
        return _PARAMETER.sub(r"\1", super().__str__())

    def with_flags(self, flags: Mapping[str, str]) -> str:
        """The text for a command line, where parameter `name` is the flag flags[name], or else --name."""
        return _PARAMETER.sub(lambda match: flags.get(match[1], f"--{match[1]}"), super().__str__())


def reason(error: Exception) -> str:
    """Why a file could not be used, without Python's numbers: "Permission denied"."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class Parser(argparse.ArgumentParser):
    """Flags of a command, whose description keeps its lines. Wrong usage is an InputError, one line as all others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        words = sys.argv[1:] if args is None else args
        for before, word in zip(["", *words], words, strict=False):
            # A shell's variable that is not set would pass for a flag left out; "=--" is no value that argparse sees.
            if word == "" or re.fullmatch(r"--[\w-]+=(--)?", word):
                flag = word.partition("=")[0] or before
                self.error(f"{flag}: has no value" if flag.startswith("-") else "an argument is empty")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message.removeprefix('argument ')}; --help lists the flags")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that `name` is not one of `known`, offering the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    hint = f"did you mean '{near[0]}'?" if near else "known: " + ", ".join(known)
    return f"unknown {kind} '{name}' ({hint})"


def check_range(args: argparse.Namespace, **bounds: tuple[float, float]) -> None:
    """Raise InputError where a number on the command line, if given, or one of several, is not in (least, most)."""
    for name, (least, most) in bounds.items():
        given = getattr(args, name)
        for value in given if isinstance(given, (list, tuple)) else [given]:
            if value is not None and not least <= value <= most:
                raise InputError(f"--{name} {brief(value)}: must be from {least:,} to {most:,}")


def whole(name: str, value: Any, most: int) -> int:
    """A whole number from 0, of any type that is one. Raises InputError."""
    if not is_whole(value):
        raise InputError(f"`{name}` {brief(value)}: must be a whole number")
    if not 0 <= operator.index(value) <= most:
        raise InputError(f"`{name}` {brief(value)}: must be from 0 to {most:,}")
    return operator.index(value)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number of any type; an array of several only looks like one."""
    try:
        return operator.index(value) is not None
    except TypeError:
        return False


def brief(value: Any) -> str:
    """A value as messages show it, however large it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints no number of more than 4,300 digits
        text = "a value that cannot be printed"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text):,} characters)"


def run_cli(
    main: Callable[[list[str] | None], int | None],
    leave: Callable[[int], NoReturn] = sys.exit,
    flags: Mapping[str, str] | None = None,
) -> NoReturn:
    """Run a script's main(); an InputError becomes one line on stderr and exit status 2. leave: what ends the process,
    dist_util.leave where it may be one of several. flags: see InputError.with_flags."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by a shell's >&-
            setattr(sys, name, open(os.devnull, "w"))
        getattr(sys, name).reconfigure(errors="backslashreplace")  # names that are not of the terminal's encoding
    try:
        status = main(None)
        sys.stdout.flush()
    except (InputError, ImportError, OSError, bf.Error) as error:  # blobfile says which path it cannot use
        text = error.with_flags(flags or {}) if isinstance(error, InputError) else str(error)
        if isinstance(error, OSError):
            place = error.filename or ("the current folder" if error.errno == errno.ENOENT else "the output")
            text = f"{place}: {reason(error)}; look at the path, its permissions and its disk"
        if isinstance(error, ImportError):  # evaluation's packages are imported where they are used
            text += "; pip install -r requirements-eval.txt"
        with suppress(OSError):  # its disk, too, may be full
            # What files hold may be long, or tell the terminal something.
            text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
            text = text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
            print("error: " + text, file=sys.stderr, flush=True)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        status = 130
    try:
        sys.stdout.flush()
    except OSError:  # it would fail once more, with a traceback, while Python takes itself down
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    leave(status or 0)
