"""What is timed of training: a step of the released recipe, of its rungs, and of ours, on random data and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from ..config import Config, ModelConfig
from ..data.image_datasets import DefectDataset
from ..keyed_random import numpy_generator, torch_generator
from ..networks.estimate import estimate
from ..networks.unet import UNet, create_model
from ..training.train_util import TrainLoop
from .compare import Subject, Variant
from .released import Recipe, ReleasedTraining, ladder
from .timing import Clock

FEW_SHOT = 25  # images in the data set: five of each of five types
_FLOPS: dict[tuple[ModelConfig, tuple[int, ...]], int] = {}


def training_variants(
    config: Config, clock: Clock, *, rungs: bool = False, compiled: bool = False, batch: int | None = None
) -> list[Variant]:
    """One training step: the released recipe, its rungs if asked for, ours eager, ours compiled if asked for.

    config: a settled one, whose precision is that of ours. batch: None: each at its best; rungs at the released
    recipe's, ours compiled at ours eager's.
    """
    device, flops = clock.device, 3 * flops_per_image(config)

    def released(recipe: Recipe) -> Callable[[int], Subject]:
        def build(batch: int) -> Subject:
            own = with_train(config, batch)
            training = ReleasedTraining(own, random_model(own, device), random_data(own), device, recipe)
            return Subject(batch, flops, "bf16" if recipe.bf16 else "fp32", training.step)

        return build

    def ours(compile: str) -> Callable[[int], Subject]:
        def build(batch: int) -> Subject:
            own = with_train(config, batch, compile=compile)
            return Subject(batch, flops, own.train.precision, training_loop(own, device).train_step)

        return build

    variants = [
        Variant(name, released(recipe), batch or (0 if name == "released" else "released"))
        for name, recipe in (ladder(config) if rungs else ladder(config, ()))
    ]
    variants.append(Variant("ours eager", ours("off"), batch or 0))
    if compiled:
        variants.append(Variant("ours compiled", ours("on"), batch or "ours eager"))
    return variants


def dataset_variants(config: Config, clock: Clock, sizes: list[int]) -> list[Variant]:
    """Our training step on data sets of so many images, at the batch of a settled configuration."""
    device, flops = clock.device, 3 * flops_per_image(config)

    def on(size: int) -> Callable[[int], Subject]:
        def build(batch: int) -> Subject:
            step = training_loop(config, device, size).train_step
            return Subject(batch, flops, config.train.precision, step)

        return build

    return [Variant(f"{size} images", on(size), config.data.bs_per_gpu) for size in sizes]


def training_loop(config: Config, device: torch.device, images: int = FEW_SHOT) -> TrainLoop:
    """The product's own loop, with random data and weights. As long as one only steps it writes nothing."""
    loop = TrainLoop(config, "", random_data(config, images), None, device)
    randomise(loop.model)
    loop.ema.load_state_dict(loop.model.state_dict())
    return loop


def flops_per_image(config: Config) -> int:
    """Of a forward pass; counted once for a network and resolution, as that takes seconds."""
    key = (config.model, config.data.resolution)
    if key not in _FLOPS:
        _FLOPS[key] = estimate(config).flops_per_image
    return _FLOPS[key]


def with_train(config: Config, batch: int | None = None, **train: str) -> Config:
    """Another batch, other keys of `train`."""
    data = config.data if batch is None else dataclasses.replace(config.data, bs_per_gpu=batch)
    return dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, **train))


def random_data(config: Config, count: int = FEW_SHOT) -> DefectDataset:
    """`count` images of noise at the configuration's resolution, with masks of random indices."""
    rng, (height, width) = numpy_generator("benchmark", count), config.data.resolution
    images = rng.integers(0, 256, (count, 3, height, width), np.uint8)
    masks = rng.integers(0, config.layout.num_defect + 1, (count, height, width), np.uint8)
    names = [f"{i:06d}" for i in range(count)]
    return DefectDataset(list(torch.from_numpy(images)), list(torch.from_numpy(masks)), names, (height, width))


def random_model(config: Config, device: torch.device) -> UNet:
    """A network with random weights in every layer."""
    with torch.device("meta"):  # no time for first weights that nobody uses
        model = create_model(config)
    model.to_empty(device=device)
    randomise(model)
    return model


@torch.no_grad()
def randomise(model: nn.Module) -> None:
    """Random weights in every layer, by name: those that start at zero would pass no gradient on."""
    for name, parameter in model.named_parameters():
        generator = torch_generator(parameter.device, "weights", name)
        z = torch.randn(parameter.shape, generator=generator, device=parameter.device)
        if z.ndim > 1:
            z /= z[0].numel() ** 0.5
        elif name.endswith("weight"):  # of a norm
            z = 1 + 0.1 * z
        else:
            z *= 0.1
        parameter.copy_(z)
