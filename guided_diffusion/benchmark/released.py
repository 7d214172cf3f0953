"""The released recipe, kept as a baseline: float32, contiguous, eager, one plain operation after the other.

It takes the parameters of our UNet and has a forward of its own, so that it stays what it is when ours gets faster. Two
things are kinder than in the released code: attention is not recomputed in the backward pass, and images are in memory.
"""

import copy
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import Config, ModelConfig
from ..data.image_datasets import DefectDataset
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..networks.nn import AttentionBlock, ResBlock, timestep_embedding
from ..networks.unet import UNet
from ..training.train_util import learning_rate


def released_forward(model: UNet, x: Tensor, t: Tensor) -> Tensor:
    """The output of `model`, computed plainly. x: [N, C, H, W]; t: [N]. Returns float32 [N, C, H, W]."""
    config = model.config

    def through(stage: nn.Sequential, h: Tensor) -> Tensor:
        for layer in stage:
            if isinstance(layer, ResBlock):
                h = _res_block(layer, h, emb, config)
            else:
                h = _attention(layer, h, config) if isinstance(layer, AttentionBlock) else layer(h)
        return h

    emb = model.time_embed(timestep_embedding(t, config.model_channels))  # [N, 4 width]
    skips, h = [], x
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
    return model.out[2](F.silu(_norm(model.out[0], h, config))).float()


def _res_block(block: ResBlock, x: Tensor, emb: Tensor, config: ModelConfig) -> Tensor:
    h = block.in_layers[2](F.silu(_norm(block.in_layers[0], x, config)))
    emb = block.emb_layers[1](F.silu(emb))[:, :, None, None].to(h.dtype)
    norm, conv = block.out_layers[0], block.out_layers[3]
    if config.use_scale_shift_norm:
        scale, shift = emb.chunk(2, dim=1)
        h = _norm(norm, h, config) * (1 + scale) + shift
    else:
        h = _norm(norm, h + emb, config)
    h = conv(F.dropout(F.silu(h), config.dropout, block.training))
    return (x if x.shape == h.shape else block.skip_connection(x)) + h


def _attention(block: AttentionBlock, x: Tensor, config: ModelConfig) -> Tensor:
    n, c, height, width = x.shape
    heads = config.heads(c)
    h = _norm(block.norm, x.reshape(n, c, -1), config)
    h = F.conv1d(h, block.qkv.weight, block.qkv.bias).reshape(n, heads, -1, height * width)
    q, k, v = h.chunk(3, dim=2)  # each [N, heads, C/heads, HW]
    scale = (c // heads) ** -0.25  # on both, which is steadier in half precision than on their product
    weight = ((q * scale).transpose(2, 3) @ (k * scale)).softmax(dim=-1)  # [N, heads, HW, HW]
    h = v @ weight.transpose(2, 3)
    h = F.conv1d(h.reshape(n, c, -1), block.proj_out.weight, block.proj_out.bias)
    return x + h.reshape(n, c, height, width)


def _norm(layer: nn.Module, x: Tensor, config: ModelConfig) -> Tensor:
    return F.group_norm(x.float(), config.norm_groups, layer.weight, layer.bias).to(x.dtype)


class ReleasedTraining:
    """A training of `model` by the released recipe; `step` is one update."""

    def __init__(self, config: Config, model: UNet, data: DefectDataset, device: torch.device):
        self.config, self.data, self.device = config, data, device
        self.diffusion = GaussianDiffusion(config)
        self.model = model.to(device).train()
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        lr, weight_decay = config.optimizer.lr, config.optimizer.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=weight_decay, foreach=False)
        self.steps = 0

    def step(self) -> None:
        """One update on a batch that is stacked, mirrored and encoded on the host."""
        data, rng = self.config.data, np.random.default_rng(self.steps)
        images, masks = self.data.batch(rng.integers(len(self.data), size=data.bs_per_gpu), rng, data.flip)
        x_start = self.config.layout.encode(images, masks).to(self.device)
        t = torch.randint(self.diffusion.num_timestep, (len(x_start),), device=self.device)
        self.update(x_start, t, torch.randn_like(x_start))

    def update(self, x_start: Tensor, t: Tensor, noise: Tensor) -> float:
        """One update on a given batch: x_start and noise float32 [N, C, H, W], t int64 [N], on the device."""
        cfg = self.config
        network, separate = partial(released_forward, self.model), cfg.train.separate_channel_loss
        loss = self.diffusion.training_losses(network, x_start, t, noise, separate)["loss"]
        loss.backward()
        if cfg.optimizer.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.optimizer.grad_clip, foreach=False)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(cfg, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        decay = min(cfg.train.ema_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                average.mul_(decay).add_(parameter, alpha=1 - decay)
        return loss.item()  # the host waits for it at every step
