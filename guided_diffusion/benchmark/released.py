"""The released recipe, kept as a baseline: float32, contiguous, eager, one plain operation after the other.

It takes the parameters of our UNet and nothing else of it: the forward below is its own, on purpose, so that the
baseline stays what it is when ours gets faster. `Recipe` turns on the known remedies one at a time.

Two things are kinder to the baseline than the released code is: attention is not recomputed in the backward pass,
and images are in memory already.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config, ModelConfig
from ..data.image_datasets import DefectDataset
from ..diffusion.gaussian_diffusion import create_diffusion
from ..keyed_random import torch_generator
from ..networks.nn import AttentionBlock, Downsample, ResBlock, Upsample, timestep_embedding
from ..networks.unet import UNet
from ..training.train_util import learning_rate


@dataclass(frozen=True)
class Recipe:
    """What differs from the released recipe; the default is the released one."""

    bf16: bool = False  # autocast; else float32
    channels_last: bool = False  # else contiguous
    sdpa: bool = False  # scaled_dot_product_attention; else softmax(q k^T) v written out
    fused_adamw: bool = False  # else one parameter after the other
    foreach_ema: bool = False  # likewise
    loss_on_device: bool = False  # else the host reads the loss after every step

    def autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


RUNGS = {  # of the ladder: the name of each switch
    "bf16": "bf16 autocast",
    "channels_last": "channels_last",
    "sdpa": "scaled_dot_product_attention",
    "fused_adamw": "fused AdamW",
    "foreach_ema": "foreach EMA",
    "loss_on_device": "no loss read per step",
}
FORWARD_RUNGS = ("bf16", "channels_last", "sdpa")  # those that concern a forward pass


def ladder(config: Config, switches: Sequence[str] = tuple(RUNGS)) -> list[tuple[str, Recipe]]:
    """("released", Recipe()) and then, cumulatively, a name and recipe for each switch that concerns the network."""
    rungs, recipe = [("released", Recipe())], Recipe()
    for switch in switches:
        if switch == "sdpa" and config.model.patch:
            continue  # it has no attention
        recipe = dataclasses.replace(recipe, **{switch: True})
        rungs.append((f"+ {RUNGS[switch]}", recipe))
    return rungs


def released_forward(model: UNet, x: Tensor, t: Tensor, sdpa: bool = False) -> Tensor:
    """The output of `model`, computed plainly. x: [N, C, H, W]; t: [N]. Returns float32 [N, C, H, W]."""
    config = model.config

    def through(stage: nn.Sequential, h: Tensor) -> Tensor:
        for layer in stage:
            if isinstance(layer, ResBlock):
                h = _res_block(layer, h, emb, config, model.training)
            elif isinstance(layer, AttentionBlock):
                h = _attention(layer, h, config, sdpa)
            elif isinstance(layer, Upsample):
                h = _conv(layer.conv, F.interpolate(h, scale_factor=2, mode="nearest"))
            else:
                h = _conv(layer.op if isinstance(layer, Downsample) else layer, h)
        return h

    first, _, second = model.time_embed
    emb = _linear(second, F.silu(_linear(first, timestep_embedding(t, config.model_channels))))  # [N, 4 width]
    skips = []
    h = x
    for stage in model.input_blocks:
        h = through(stage, h)
        skips.append(h)
    if config.patch:
        skips[-1] = None
    else:
        h = through(model.middle_block, h)
    for stage in model.output_blocks:
        skip = skips.pop()
        h = through(stage, h if skip is None else torch.cat([h, skip], dim=1))
    return _conv(model.out[2], F.silu(_norm(model.out[0], h, config))).float()


def _res_block(block: ResBlock, x: Tensor, emb: Tensor, config: ModelConfig, training: bool) -> Tensor:
    h = _conv(block.in_layers[2], F.silu(_norm(block.in_layers[0], x, config)))
    emb = _linear(block.emb_layers[1], F.silu(emb))[:, :, None, None].to(h.dtype)
    norm, conv = block.out_layers[0], block.out_layers[3]
    if config.use_scale_shift_norm:
        scale, shift = emb.chunk(2, dim=1)
        h = _norm(norm, h, config) * (1 + scale) + shift
    else:
        h = _norm(norm, h + emb, config)
    h = _conv(conv, F.dropout(F.silu(h), config.dropout, training))
    return (x if x.shape == h.shape else _conv(block.skip_connection, x)) + h


def _attention(block: AttentionBlock, x: Tensor, config: ModelConfig, sdpa: bool) -> Tensor:
    n, c, height, width = x.shape
    heads = config.heads(c)
    h = _norm(block.norm, x.reshape(n, c, -1), config)
    h = F.conv1d(h, block.qkv.weight, block.qkv.bias).reshape(n, heads, -1, height * width)
    q, k, v = h.chunk(3, dim=2)  # each [N, heads, C/heads, HW]
    if sdpa:
        h = F.scaled_dot_product_attention(*(part.transpose(2, 3) for part in (q, k, v))).transpose(2, 3)
    else:
        scale = (c // heads) ** -0.25  # on both, which is steadier in half precision than on their product
        weight = (q * scale).transpose(2, 3) @ (k * scale)  # [N, heads, HW, HW]
        weight = weight.float().softmax(dim=-1).to(weight.dtype)
        h = v @ weight.transpose(2, 3)
    h = F.conv1d(h.reshape(n, c, -1), block.proj_out.weight, block.proj_out.bias)
    return x + h.reshape(n, c, height, width)


def _norm(layer: nn.Module, x: Tensor, config: ModelConfig) -> Tensor:
    return F.group_norm(x.float(), config.norm_groups, layer.weight, layer.bias).to(x.dtype)


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)


class ReleasedTraining:
    """A training of `model` by a recipe; `step` makes one update. Draws, learning rate and decay as in TrainLoop."""

    def __init__(self, config: Config, model: UNet, data: DefectDataset, device: torch.device, recipe: Recipe):
        self.config, self.data, self.device, self.recipe = config, data, device, recipe
        self.diffusion = create_diffusion(config)
        self.model = model.to(device, memory_format=recipe.memory_format).train()
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            foreach=False,
            fused=recipe.fused_adamw,
        )
        self.steps = 0
        self.loss = math.nan

    def step(self) -> None:
        """One update on a batch that is stacked, mirrored and encoded on the host."""
        data, rng = self.config.data, np.random.default_rng(self.steps)
        axes = {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}[data.flip]
        images, masks = [], []
        for index in rng.integers(len(self.data), size=data.bs_per_gpu):
            chosen = [axis for axis in axes if rng.integers(2)]
            images.append(self.data.images[index].flip(chosen))
            masks.append(self.data.masks[index].flip(chosen))
        x_start = self.config.layout.encode(torch.stack(images), torch.stack(masks)).to(self.device)
        generator = torch_generator(self.device, "released", self.steps)
        t = torch.randint(self.diffusion.num_timestep, (len(x_start),), generator=generator, device=self.device)
        self.update(x_start, t, torch.randn(x_start.shape, generator=generator, device=self.device))

    def update(self, x_start: Tensor, t: Tensor, noise: Tensor) -> None:
        """One update on a given batch: x_start and noise float32 [N, C, H, W], t int64 [N], on the device."""
        cfg, recipe = self.config, self.recipe
        x_start = x_start.contiguous(memory_format=recipe.memory_format)
        with recipe.autocast(self.device):
            loss = self.diffusion.training_losses(
                lambda x, t: released_forward(self.model, x, t, recipe.sdpa),
                x_start,
                t,
                noise,
                cfg.train.separate_channel_loss,
            )["loss"]
        loss.backward()
        if cfg.optimizer.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.optimizer.grad_clip, foreach=False)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(cfg, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        self._average(min(cfg.train.ema_decay, (1 + self.steps) / (10 + self.steps)))
        if not recipe.loss_on_device:
            self.loss = loss.item()

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        if self.recipe.foreach_ema:
            torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)
            return
        for average, parameter in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            average.mul_(decay).add_(parameter, alpha=1 - decay)
