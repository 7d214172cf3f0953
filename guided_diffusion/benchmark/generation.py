"""What is timed of sampling: a forward pass of one network, and the generation of whole images by the pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import blobfile as bf
import torch
from torch import Tensor

from ..config import Config
from ..diffusion.gaussian_diffusion import create_diffusion
from ..diffusion.samplers import cold, make_predict_x0
from ..diffusion.two_stage import two_stage_plans
from ..generation.api import DefectGen
from ..joint_tensor import clip_released
from ..keyed_random import sample_noise
from ..precision import autocast
from ..training.checkpoint import save_checkpoint
from .compare import Subject, Variant
from .released import FORWARD_RUNGS, Recipe, ladder, released_forward
from .timing import Clock
from .training import flops_per_image, random_model

FORWARD_T = 500  # the timestep of a forward pass; its cost does not depend on it


def forward_variants(
    config: Config,
    clock: Clock,
    folder: str,
    *,
    rungs: bool = False,
    batch: int | None = None,
) -> list[Variant]:
    """One forward pass without gradients, of a network as it samples; variants and batch as for training.

    config: a settled one. folder: for checkpoints, as ours is loaded from one.
    """
    device, flops = clock.device, flops_per_image(config)

    def released(recipe: Recipe) -> Callable[[int], Subject]:
        def build(batch: int) -> Subject:
            model = random_model(config, device).to(memory_format=recipe.memory_format).eval()
            x = first_noise(config, batch, device).contiguous(memory_format=recipe.memory_format)
            t = torch.full((batch,), FORWARD_T, device=device)

            @torch.no_grad()
            def call() -> Tensor:
                with recipe.autocast(device):
                    return released_forward(model, x, t, recipe.sdpa)

            return Subject(batch, flops, "bf16" if recipe.bf16 else "fp32", call)

        return build

    def ours(batch: int) -> Subject:
        generator = our_generator([config], device, folder)
        network = generator.large or generator.small
        predict = make_predict_x0(network.model, config, generator.diffusion)
        x = first_noise(config, batch, device).to(memory_format=torch.channels_last)

        @torch.no_grad()
        def call() -> Tensor:
            with autocast(device, generator.precision):
                return predict(x, FORWARD_T)

        return Subject(batch, flops, generator.precision, call)

    variants = [
        Variant(name, released(recipe), batch or (0 if name == "released" else "released"))
        for name, recipe in ladder(config, FORWARD_RUNGS if rungs else ())
    ]
    return [*variants, Variant("ours eager", ours, batch or 0)]


def generation_variants(
    configs: Sequence[Config],
    clock: Clock,
    folder: str,
    *,
    step_inference: int,
    settings: dict[str, Any],
    steps_timed: int | None = 10,
    batch: int | None = None,
    compiled: bool = False,
) -> list[Variant]:
    """Whole images: the released recipe's walk through all timesteps in float32, and DefectGen.generate.

    configs: settled, of the pair or of one network. folder: for checkpoints, as ours are loaded from them. settings:
    num_steps, sampler and spacing of ours. steps_timed: steps of each network that are timed of the released walk,
    the rest being scaled from them; None: all are walked. compiled: ours under torch.compile as well.
    """
    device, first = clock.device, configs[0]
    diffusion = create_diffusion(first)
    step_inference = shared_out(configs, step_inference)
    flops = [flops_per_image(config) for config in by_stage(configs)]

    def plans(num_steps: Any, spacing: str) -> list[list[tuple[int, int]]]:
        return [p for p in two_stage_plans(diffusion, step_inference, num_steps, spacing, "paper") if p]

    def total_flops(walks: Sequence[Sequence]) -> float:
        return sum(each * len(pairs) for each, pairs in zip(flops, walks, strict=True))

    def released(batch: int) -> Subject:
        models = [random_model(config, device).eval().requires_grad_(False) for config in by_stage(configs)]
        walks = plans(diffusion.num_timestep, "uniform")
        x = first_noise(first, batch, device)
        steps = [pairs[:steps_timed] for pairs in walks]

        def walk(model: torch.nn.Module, pairs: Sequence[tuple[int, int]]) -> Tensor:
            def predict(x_t: Tensor, t: int) -> Tensor:
                return released_forward(model, x_t, torch.full((batch,), t, device=device))

            with torch.no_grad():
                return cold(x, pairs, predict, clip_released, diffusion.alpha_bar, lambda t: x)

        def call() -> None:
            for model, pairs in zip(models, steps, strict=True):
                walk(model, pairs)

        def measure(count: int) -> float:
            seconds = [
                clock.seconds(lambda model=model, pairs=pairs: walk(model, pairs), count)
                for model, pairs in zip(models, steps, strict=True)
            ]
            return scaled(seconds, [len(pairs) for pairs in steps], [len(pairs) for pairs in walks])

        note = ""
        if steps != walks:
            counts = " + ".join(str(len(pairs)) for pairs in walks)
            note = f"extrapolated to {counts} steps from {' + '.join(str(len(pairs)) for pairs in steps)} timed ones"
        return Subject(batch, total_flops(walks), "fp32", call, measure, note)

    def ours(batch: int, compile: bool = False) -> Subject:
        generator = our_generator(configs, device, folder)
        if compile:
            generator.compile(batch)
        walks = plans(settings["num_steps"], settings["spacing"])

        def call() -> object:
            return generator.generate(
                batch, step_inference, batch_size=batch, on_out_of_memory=does_not_fit, **settings
            )

        note = f"{settings['sampler']}, {' + '.join(str(len(pairs)) for pairs in walks)} steps"
        return Subject(batch, total_flops(walks), generator.precision, call, note=note)

    variants = [Variant("released", released, batch or 0), Variant("ours eager", ours, batch or 0)]
    if compiled:
        variants.append(Variant("ours compiled", partial(ours, compile=True), batch or "ours eager"))
    return variants


def does_not_fit(batch_size: int, left: int) -> None:
    """Generating would go on with a smaller batch, but that is not what is timed."""
    raise torch.OutOfMemoryError(f"only {batch_size} images at a time fit into memory")


def scaled(seconds: Sequence[float], timed: Sequence[int], whole: Sequence[int]) -> float:
    """Seconds for `whole` steps of each network, from those that `timed` steps of each took."""
    return sum(s / few * all_ for s, few, all_ in zip(seconds, timed, whole, strict=True))


def by_stage(configs: Sequence[Config]) -> list[Config]:
    """Large before small."""
    return sorted(configs, key=lambda config: config.model.patch)


def shared_out(configs: Sequence[Config], step_inference: int) -> int:
    """The hand-off as asked for; where there is one network only, the one that leaves it all steps."""
    if len(configs) == 1:
        return configs[0].diffusion.num_timestep if configs[0].model.patch else 0
    return step_inference


def first_noise(config: Config, batch: int, device: torch.device) -> Tensor:
    """float32 [batch, C, H, W]"""
    T = config.diffusion.num_timestep
    return sample_noise(0, range(batch), T, (config.layout.num_channels, *config.data.resolution), device)


def our_generator(configs: Sequence[Config], device: torch.device, folder: str) -> DefectGen:
    """The product's generator, loaded from checkpoints of random weights that are written to `folder` once.

    configs: settled ones; the first decides the precision.
    """
    paths: dict[bool, str] = {}
    for config in configs:
        work_dir = paths[config.model.patch] = bf.join(folder, "small" if config.model.patch else "large")
        if not bf.isdir(work_dir):
            payload = {"model": random_model(config, torch.device("cpu")).state_dict(), "config": config.to_dict()}
            save_checkpoint(work_dir, 0, payload)
    return DefectGen.load(paths.get(False), paths.get(True), device=device, precision=configs[0].train.precision)
