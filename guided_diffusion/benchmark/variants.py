"""What is timed: a training step and a whole generation, by the released recipe and by ours, on random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import blobfile as bf
import torch
from torch import Tensor

from ..config import Config
from ..data.image_datasets import DefectDataset
from ..data.image_files import View
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.respace import NumSteps
from ..diffusion.samplers import cold
from ..diffusion.two_stage import two_stage_plans
from ..generation.api import DefectGen
from ..generation.settings import Settings
from ..joint_tensor import clip_released
from ..keyed_random import sample_noise
from ..networks.estimate import estimate
from ..networks.unet import UNet, create_model
from ..precision import resolve_precision
from ..training.checkpoint import save_checkpoint
from ..training.train_util import TrainLoop
from .released import ReleasedTraining, released_forward
from .timing import Variant

FEW_SHOT = 25  # images in the data set: five of each of five types
STEPS_TIMED = 10  # of each network in the released walk of all timesteps; the rest is scaled from them


def training_variants(config: Config, device: torch.device, compiled: Sequence[str]) -> list[Variant]:
    """One training step: released, and ours with train.compile as in `compiled`."""
    flops, precision = 3 * estimate(config).flops_per_image, resolve_precision(config.train.precision, device)

    def with_batch(batch: int, **train: str) -> Config:
        data = replace(config.data, bs_per_gpu=batch)
        return replace(config, data=data, train=replace(config.train, **train))

    def released(batch: int) -> Callable[[], None]:
        return ReleasedTraining(with_batch(batch), random_model(config, device), random_data(config), device).step

    def ours(way: str, batch: int) -> Callable[[], None]:
        own = with_batch(batch, precision=precision, compile=way)
        loop = TrainLoop(own, "", random_data(own), None, device)  # writes nothing as long as one only steps
        randomise(loop.model)
        return loop.train_step

    own = [Variant(f"ours, compile {way}", partial(ours, way), flops, precision) for way in compiled]
    return [Variant("released", released, flops, "fp32"), *own]


def generation_variants(
    pair: Mapping[str, Config], device: torch.device, compiled: Sequence[str], folder: str, num_steps: NumSteps
) -> list[Variant]:
    """Whole images of a pair: the released walk through all timesteps in float32, and DefectGen.generate.

    folder: for checkpoints of random weights, as ours are loaded from them.
    """
    first, diffusion, S = pair["large"], GaussianDiffusion(pair["large"]), Settings.step_inference
    T, precision = diffusion.num_timestep, resolve_precision(first.train.precision, device)
    walks = two_stage_plans(diffusion, S, T, "uniform", "paper")
    own_walks = two_stage_plans(diffusion, S, num_steps, Settings.spacing, "paper")
    for size, config in pair.items():
        model = random_model(config, torch.device("cpu"))
        save_checkpoint(bf.join(folder, size), 0, {"model": model.state_dict(), "config": config.to_dict()})

    def flops(walks: Sequence[Sequence]) -> float:
        return sum(
            estimate(config).flops_per_image * len(walk) for config, walk in zip(pair.values(), walks, strict=True)
        )

    def released(batch: int) -> Callable[[], None]:
        models = [random_model(config, device).eval().requires_grad_(False) for config in pair.values()]
        x = sample_noise(0, range(batch), T, (first.layout.num_channels, *first.data.resolution), device)

        def predict(model: UNet, x_t: Tensor, t: int) -> Tensor:
            return released_forward(model, x_t, torch.full((batch,), t, device=device))

        @torch.no_grad()
        def call() -> None:
            for model, walk in zip(models, walks, strict=True):
                cold(x, walk[:STEPS_TIMED], partial(predict, model), clip_released, diffusion.alpha_bar, lambda t: x)

        return call

    def ours(way: str, batch: int) -> Callable[[], object]:
        generator = DefectGen.load(*(bf.join(folder, size) for size in pair), device=device, precision=precision)
        if way == "on":
            generator.compile(batch, generator.settings(num_steps=num_steps))
        fixed = {"num_steps": num_steps, "batch_size": batch, "on_out_of_memory": _does_not_fit}
        return partial(generator.generate, batch, **fixed)

    scale = flops(walks) / flops([walk[:STEPS_TIMED] for walk in walks])
    own = [Variant(f"ours, compile {way}", partial(ours, way), flops(own_walks), precision) for way in compiled]
    return [Variant("released", released, flops(walks), "fp32", scale), *own]


def _does_not_fit(batch_size: int, left: int) -> None:
    """Generation would go on with a smaller batch, but that is not what is timed."""
    raise torch.OutOfMemoryError(f"only {batch_size} images at a time fit into memory")


def random_data(config: Config) -> DefectDataset:
    """FEW_SHOT images of noise at the configuration's resolution, with masks of random indices."""
    generator, (height, width) = torch.Generator().manual_seed(0), config.data.resolution
    images = torch.randint(256, (FEW_SHOT, 3, height, width), generator=generator, dtype=torch.uint8)
    shape = (FEW_SHOT, height, width)
    masks = torch.randint(config.layout.num_defect + 1, shape, generator=generator, dtype=torch.uint8)
    return DefectDataset(list(images), list(masks), list(map(str, range(FEW_SHOT))), View((height, width)))


def random_model(config: Config, device: torch.device) -> UNet:
    """A network with random weights in every layer."""
    return randomise(create_model(config).to(device))


@torch.no_grad()
def randomise(model: UNet) -> UNet:
    """Add noise to every weight: layers that start at zero would pass no gradient on. Returns the model."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model
