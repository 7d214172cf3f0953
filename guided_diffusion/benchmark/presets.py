"""Presets: everything in one call, on a CPU and on an H100-class GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from ..config import Config
from ..config_file import load_config
from .parts import dataset_sizes, forward, generation, out_of_memory, processes, training
from .run import Benchmark, Part

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STEP_INFERENCE = 400  # the released script's hand-off
H100_SECONDS = 500  # for all parts; with starting and ending, under nine minutes
# --tiny: small enough to try the code within seconds, too small to mean anything
TINY = {
    "model.model_channels": 32,
    "model.norm_groups": 8,
    "model.channel_mult": [1, 1],
    "model.num_res_blocks": 1,
    "model.attention_downsample": [2],
    "data.resolution": 16,
    "data.bs_per_gpu": 2,
}


def pair(prefix: str, suffix: str, num_defect: int, overrides: dict[str, Any]) -> tuple[Config, Config]:
    """The committed configurations of a large and a small network."""
    large, small = (
        load_config(str(CONFIGS / f"{prefix}{size}{suffix}.yml"), num_defect, overrides) for size in ("large", "small")
    )
    return large, small


def cpu(run: Benchmark, overrides: dict[str, Any], settings: dict[str, Any]) -> list[Part]:
    """The released networks at width 64, 128 px, batch 4, and the demo size: training, forward, generation."""
    reduced = {"model.model_channels": 64, "data.resolution": 128, "data.bs_per_gpu": 4}
    released = pair("", "_recep", 5, reduced | overrides)
    demo = pair("demo_", "", 3, overrides)
    parts = []
    for name, configs in (("width 64", released), ("demo size", demo)):
        for config in configs:
            size, batch = "small" if config.model.patch else "large", config.data.bs_per_gpu
            parts += [
                Part(f"training, {size}, {name}", partial(training, run, config, batch=batch, compiled=True)),
                Part(f"forward, {size}, {name}", partial(forward, run, config, batch=batch)),
            ]
        work = partial(generation, run, configs, STEP_INFERENCE, settings=settings, batch=configs[0].data.bs_per_gpu)
        parts.append(Part(f"generation, {name}", work))
    return [
        *parts,
        Part("data set sizes", partial(dataset_sizes, run, demo[0], [25, 2500])),
        Part("processes", partial(processes, run, demo[0], 2)),
        Part("out of memory", partial(out_of_memory, run, demo, STEP_INFERENCE, settings, 8)),
    ]


def h100(run: Benchmark, overrides: dict[str, Any], settings: dict[str, Any]) -> list[Part]:
    """The released configurations at 256 px, five types: what is asked of a GPU, the dearest parts last."""
    large, small = pair("", "_recep", 5, overrides)
    train = partial(training, run, first_batch=4, operators=True)
    generate = partial(generation, run, (large, small), STEP_INFERENCE, settings=settings)
    return [
        Part("training, small", partial(train, small), 80),
        Part("training, large", partial(train, large), 80),
        Part("memory at batch 2, small", partial(training, run, small, batch=2, rounds=2), 25),
        Part("memory at batch 2, large", partial(training, run, large, batch=2, rounds=2), 25),
        Part("generation", partial(generate, first_batch=8), 80),
        Part("out of memory", partial(out_of_memory, run, (large, small), STEP_INFERENCE, settings, 16), 40),
        Part("training compiled, small", partial(train, small, compiled=True), 110),
        Part("training compiled, large", partial(train, large, compiled=True), 140),
        Part("generation compiled", partial(generate, first_batch=8, compiled=True), 120),
    ]


PRESETS = {"cpu": cpu, "h100": h100}
SECONDS = {"cpu": None, "h100": H100_SECONDS}
