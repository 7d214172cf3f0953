"""What a training will cost, worked out without allocating it: parameters, FLOPs, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..config import Config, ModelConfig
from .nn import Downsample, ResBlock, Upsample
from .unet import UNet

# Of the image: a wider receptive field is hardly patch-level any more. The rule is 0.6, rounded up so that the
# released network at its own size (157 of 256 px) passes.
PATCH_LIMIT = 0.62


@dataclass(frozen=True)
class Estimate:
    parameters: int
    flops_per_image: int  # one forward pass, 2 per multiply-add
    training_bytes: int  # weights, gradients, AdamW moments, EMA and saved activations of a batch
    receptive_field: float  # pixels; inf: the whole image


def estimate(config: Config) -> Estimate:
    """Trace one forward pass on the meta device (nothing is computed or allocated)."""
    height, width = config.data.resolution
    saved: dict[int, torch.UntypedStorage] = {}  # what the backward pass keeps, each storage once

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.device("meta"):
        model = UNet(config.model)
        model.activation_checkpointing = config.train.activation_checkpointing
        x = torch.empty(1, config.model.in_channels, height, width)
        t = torch.empty(1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x, t)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(x, t)
    for p in model.parameters():
        saved.pop(p.untyped_storage()._cdata, None)
    activations = sum(storage.nbytes() for storage in saved.values())
    parameters = sum(p.numel() for p in model.parameters())
    per_value = 0.5 if config.train.precision == "bf16" else 1.0  # autocast halves the activations
    rows = config.train.micro_batch or config.data.bs_per_gpu
    return Estimate(
        parameters=parameters,
        flops_per_image=counter.get_total_flops(),
        # weights, gradients, two moments and EMA are float32
        training_bytes=int(5 * 4 * parameters + per_value * activations * rows),
        receptive_field=receptive_field(config.model),
    )


def warnings(config: Config, cost: Estimate) -> list[str]:
    """One line for each thing that trains but will disappoint."""
    model, found = config.model, []
    share = cost.receptive_field / min(config.data.resolution)
    if model.patch and share > PATCH_LIMIT:
        found.append(
            f"warning: the patch network sees {cost.receptive_field:.0f} px, {share:.0%} of the image; above "
            f"{PATCH_LIMIT:.0%} it learns layout as well as detail: use fewer levels (model.channel_mult), or a larger "
            "data.resolution"
        )
    if model.model_channels * min(model.channel_mult) == model.norm_groups:
        found.append(
            f"warning: at width {model.norm_groups} each norm group is a single channel: its norm removes brightness "
            "and an added time embedding, and images get bright droplets; set model.norm_groups to 8"
        )
    return found


def describe(config: Config, cost: Estimate) -> str:
    """The estimate as lines for a person."""
    kind = "patch-level" if config.model.patch else "global"
    height, width = config.data.resolution
    field = "the whole image" if math.isinf(cost.receptive_field) else f"{cost.receptive_field:.0f} px"
    lines = [
        f"network            {kind}, {cost.parameters:,} parameters",
        f"receptive field    {field} (image {height} x {width})",
        f"FLOPs per image    {cost.flops_per_image / 1e9:,.1f} G forward, about three times that in training",
        f"precision          {config.train.precision}, torch.compile {config.train.compile}",
        f"training memory    about {cost.training_bytes / 2**30:.1f} GiB at batch {config.data.bs_per_gpu}",
    ]
    return "\n".join([*lines, *warnings(config, cost)])


def receptive_field(config: ModelConfig) -> float:
    """Theoretical receptive field in pixels: the widest span of input pixels that one output pixel depends on.

    Largest over the pixel's phase within the coarsest cell; math.inf where attention sees the whole image.
    Normalisation statistics, which are global but carry no position, are left out.
    """
    if not config.patch:
        return math.inf  # the middle block always attends
    with torch.device("meta"):
        model = UNet(config)
    cell = length = config.size_multiple
    while True:  # a canvas long enough that its borders do not clip the span
        length *= 2
        first, last = _spans(model, length)
        middle = slice(length // 2, length // 2 + cell)
        if first[middle].min() > 0 and last[middle].max() < length - 1:
            return float((last - first)[middle].max() + 1)


def _spans(model: UNet, length: int) -> tuple[Tensor, Tensor]:
    """First and last input pixel that each of `length` output pixels depends on, along one axis."""

    def through(stage: nn.Module, span: Tensor) -> Tensor:
        for layer in stage:
            if isinstance(layer, Upsample):
                span = span.repeat_interleave(2, dim=1)
            for _ in range(2 if isinstance(layer, ResBlock) else 1):  # convolutions of 3 x 3
                span = F.max_pool1d(span, 3, stride=2 if isinstance(layer, Downsample) else 1, padding=1)
        return span

    pixels = torch.arange(float(length))
    span, skips = torch.stack([-pixels, pixels]), []
    for stage in model.input_blocks:
        span = through(stage, span)
        skips.append(span)
    for stage in model.output_blocks:
        span = through(stage, torch.maximum(span, skips.pop()))
    first, last = F.max_pool1d(span, 3, stride=1, padding=1)
    return -first, last
