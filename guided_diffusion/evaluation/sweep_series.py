"""The points of a sweep before they are measured: a grid of switch steps, or the checkpoints of one training."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from ..errors import InputError
from ..generation.api import DefectGen
from .sweep_checkpoints import TrainedStep, read_checkpoints
from .sweep_rule import CHECKPOINT_RULE, DEFAULT_STEP, STEP_RULE, Rule

STEPS = "0,50,100,200,400,600,800,1000"


@dataclass(frozen=True)
class SweepCell:
    """The cell of a point, see cells.Cell."""

    name: str
    seed: int
    step_inference: int


@dataclass(frozen=True)
class Stop:
    """A point before it is measured: its place on the axis, and how its generator is had."""

    at: int
    label: str
    cell: SweepCell
    load: Callable[[], DefectGen]


@dataclass(frozen=True)
class Series:
    """All stops of a sweep; checkpoints: those of a training, if it is they that differ."""

    kind: str  # "steps" or "checkpoints"
    axis: str
    rule: Rule
    stops: list[Stop]
    checkpoints: list[TrainedStep]


def step_series(args: argparse.Namespace, device: torch.device) -> Series:
    """A stop for each step of the grid. Raises InputError."""
    if args.other:
        raise InputError(f"--other {args.other}: goes with --checkpoints; name the two networks by --large and --small")
    steps = read_steps(args.steps or STEPS)
    if len(steps) < 2:
        raise InputError(f"--steps {args.steps}: name at least 2 different steps to compare")
    generator = load(args, device, args.large, args.small)
    T = generator.diffusion.num_timestep
    for step in steps:
        if not 0 <= step <= T:
            raise InputError(f"--steps {step}: must be from 0 (large network only) to {T} (small network only)")
        for flag, network, needed in (("--large", args.large, step < T), ("--small", args.small, step > 0)):
            if needed and not network:
                raise InputError(f"{flag}: missing, but --steps {step} needs it; name it, or leave that step out")

    def shared() -> DefectGen:
        return generator

    alone = {0: " (large only)", T: " (small only)"}
    stops = [
        Stop(S, f"S={S}{alone.get(S, '')}", SweepCell(f"s{S}_seed{args.seed}", args.seed, S), shared) for S in steps
    ]
    return Series("steps", "step_inference", STEP_RULE, stops, [])


def checkpoint_series(args: argparse.Namespace, device: torch.device) -> Series:
    """A stop for each checkpoint of a training. Raises InputError."""
    for flag in ("large", "small"):
        if getattr(args, flag):
            raise InputError(f"--{flag}: does not go with --checkpoints; name the other network of the pair by --other")
    checkpoints = read_checkpoints(args.checkpoints)
    patch, T = checkpoints[0].config.model.patch, checkpoints[0].config.diffusion.num_timestep
    networks = [(args.other, c.path) if patch else (c.path, args.other) for c in checkpoints]
    loaders = [partial(load, args, device, *pair) for pair in networks]
    if args.other:
        steps = read_steps(args.steps or str(DEFAULT_STEP))
        if len(steps) > 1 or not 0 < steps[0] < T:
            raise InputError(f"--steps {args.steps}: with --other name one step between 0 and {T}")
        S = steps[0]
    elif args.steps:
        raise InputError(f"--steps {args.steps}: one network alone has no switch step; name the other one by --other")
    else:
        S = T if patch else 0
    stops = [
        Stop(c.step, f"step {c.step:,}", SweepCell(f"step{c.step:06d}_s{S}_seed{args.seed}", args.seed, S), loader)
        for c, loader in zip(checkpoints, loaders, strict=True)
    ]
    return Series("checkpoints", "training step", CHECKPOINT_RULE, stops, checkpoints)


def read_steps(text: str) -> list[int]:
    """The different steps of a comma-separated list, ascending. Raises InputError."""
    try:
        return sorted(set(map(int, text.split(","))))
    except ValueError:
        raise InputError(f"--steps {text}: must be whole numbers with commas between, such as {STEPS}") from None


def load(args: argparse.Namespace, device: torch.device, large: str | None, small: str | None) -> DefectGen:
    """The pair, or the one network. Raises InputError."""
    flags = ("--large", "--small")
    if args.checkpoints:
        flags = ("--other", "--checkpoints") if large == args.other else ("--checkpoints", "--other")
    try:
        return DefectGen.load(large, small, device=device, precision=args.precision)
    except InputError as error:
        text = str(error).replace("--large_recep", flags[0]).replace("--small_recep", flags[1])
        raise InputError(text) from error
