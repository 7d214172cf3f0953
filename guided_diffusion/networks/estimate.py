"""What a training will cost, worked out without allocating it: parameters, FLOPs, memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ..config import Config, ModelConfig
from ..errors import InputError
from .unet import UNet

# Of the image: a wider receptive field is hardly patch-level any more. The rule is 0.6, rounded up so that the
# released network at its own size (157 of 256 px) passes.
PATCH_LIMIT = 0.62


@dataclass(frozen=True)
class Estimate:
    parameters: int
    flops_per_image: int  # one forward pass, 2 per multiply-add
    training_bytes: int  # weights, gradients, AdamW moments, EMA; a batch, and its saved activations


def forward_bytes(config: ModelConfig, size: Sequence[int]) -> int:
    """About what one image of `size` takes in a forward pass in float32 without gradients, beside the weights."""
    areas = [size[0] * size[1] // 4**level for level in range(len(config.channel_mult))]
    stages = [config.model_channels * mult * area for mult, area in zip(config.channel_mult, areas, strict=True)]
    skips = stages[:1]  # as in UNet
    for level, numbers in enumerate(stages):
        skips += [numbers] * config.num_res_blocks
        skips += [numbers // 4] if level + 1 < len(stages) else []
    h, most = skips[-1], 0
    if config.patch:
        skips[-1] = 0
    for level, numbers in reversed(list(enumerate(stages))):
        for _ in range(config.num_res_blocks + 1):
            skip = skips.pop()
            most = max(most, sum(skips) + 4 * (h + skip) + 2 * numbers)  # both, joined, normed and active; the result
            h = numbers
        h = 4 * numbers if level else h
    return 4 * most


def estimate(config: Config, device_type: str = "cpu") -> Estimate:
    """Trace one forward pass on the meta device (nothing is computed or allocated). device_type: of what trains."""
    saved: dict[int, torch.UntypedStorage] = {}  # what the backward pass keeps, each storage once
    train, batch, size = config.train, config.data.bs_per_gpu, config.data.resolution

    def keep(tensor: Tensor) -> Tensor:
        among_pixels = tensor.ndim > 2 and tensor.shape[-1] == tensor.shape[-2] > max(size)
        if device_type == "cpu" or not among_pixels:  # GPUs' fused attention keeps no matrix, see AttentionBlock
            saved[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    try:
        with torch.device("meta"):
            model = UNet(config.model)
            model.activation_checkpointing = train.activation_checkpointing
            x, t = torch.empty(1, config.model.in_channels, *size), torch.empty(1)
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                model(x, t)
            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                model(x, t)
    except RuntimeError as error:
        if "overflow" not in str(error):  # a size of more than 63 bits
            raise
        text = f"{size[0]} x {size[1]} pixels take more memory than any machine has"
        raise InputError(f"{text}; lower data.resolution, or `image_size`") from error
    for p in model.parameters():
        saved.pop(p.untyped_storage()._cdata, None)
    half = 2 if train.precision == "bf16" else 1
    activations = sum(storage.nbytes() for storage in saved.values()) // half * (train.micro_batch or batch)
    parameters = sum(p.numel() for p in model.parameters())
    weights = 5 * 4 * parameters  # weights, gradients, two moments and EMA are float32
    step = weights + activations + 2 * batch * x.nbytes  # x_start and noise; x_t is an activation
    return Estimate(parameters, counter.get_total_flops(), step)


def describe(config: Config, cost: Estimate | None = None) -> str:
    """The estimate as lines for a person, with a warning for each thing that trains but will disappoint."""
    cost, model, (height, width) = cost or estimate(config), config.model, config.data.resolution
    sees = receptive_field(model)
    field = f"{sees:.0f} px" if model.patch else "the whole image"
    lines = [
        f"network            {'patch-level' if model.patch else 'global'}, {cost.parameters:,} parameters",
        f"receptive field    {field} (image {height} x {width})",
        f"FLOPs per image    {cost.flops_per_image / 1e9:,.1f} G forward, about three times that in training",
        f"precision          {config.train.precision}, torch.compile {config.train.compile}",
        f"training memory    about {cost.training_bytes / 2**30:.1f} GiB at batch {config.data.bs_per_gpu}",
    ]
    if model.patch and sees / min(height, width) > PATCH_LIMIT:
        fault = f"the patch network sees {sees:.0f} px, {sees / min(height, width):.0%} of the image"
        remedy = "use fewer levels (model.channel_mult), or a larger data.resolution"
        lines.append(f"warning: {fault}; above {PATCH_LIMIT:.0%} it learns layout as well as detail: {remedy}")
    if model.model_channels * min(model.channel_mult) == model.norm_groups:
        fault = f"at width {model.norm_groups} each norm group is a single channel: its norm removes brightness and an"
        effect = "added time embedding, and images get bright droplets"
        lines.append(f"warning: {fault} {effect}; set model.norm_groups to 8")
    return "\n".join(lines)


def receptive_field(config: ModelConfig) -> float:
    """Theoretical receptive field in pixels: the widest span of input pixels that one output pixel depends on.

    Largest over the pixel's phase within the coarsest cell; math.inf for a global network, whose middle block attends.
    Normalisation statistics, which are global but carry no position, are left out."""
    if not config.patch:
        return math.inf
    levels, blocks = len(config.channel_mult), config.num_res_blocks
    # From the output to the input through the coarsest level: no skip reaches further. A convolution of 3 x 3 widens
    # the span by a pixel at both ends, a ResBlock by two.
    first, last = np.arange(config.size_multiple) - 1, np.arange(config.size_multiple) + 1
    for level in range(levels):
        first, last = first - 2 * (blocks + 1), last + 2 * (blocks + 1)
        if level < levels - 1:
            first, last = (first - 1) // 2, (last + 1) // 2
    for level in reversed(range(levels)):
        first, last = first - 2 * blocks, last + 2 * blocks
        if level > 0:
            first, last = 2 * first - 1, 2 * last + 1
    return float((last - first).max() + 3)  # and the first convolution
