"""A quick look at one network while it trains."""

from __future__ import annotations

import numpy as np
import torch

from ..config import Config
from ..diffusion.conditioning import tell_types
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.respace import make_plan
from ..diffusion.samplers import ddim, make_predict_x0
from ..file_io import encode_png
from ..joint_tensor import clip
from ..keyed_random import sample_noise
from ..networks.unet import UNet
from ..pictures import overlay

PREVIEW_STEPS = 50  # of ddim: enough to judge, cheap enough to repeat


@torch.no_grad()
def preview_grid(model: UNet, config: Config, diffusion: GaussianDiffusion, device: torch.device) -> bytes:
    """PNG: train.max_images samples of this network alone, from fixed noise, over their mask overlays."""
    count, layout = config.train.max_images, config.layout
    shape = (layout.num_channels, *config.data.resolution)
    T = diffusion.num_timestep

    def noise(t: int) -> torch.Tensor:
        return sample_noise(config.train.seed, range(count), t, shape, device)

    types = None
    if config.model.class_cond:  # one after the other
        types = tell_types([{k + 1} for k in range(layout.num_defect)], range(count), layout, device)
    predict_x0 = make_predict_x0(model, config, diffusion, types)
    pairs = make_plan(T, min(PREVIEW_STEPS, T))
    x = ddim(noise(T - 1), pairs, predict_x0, clip, diffusion.alpha_bar, noise)
    images, masks = layout.decode(x)
    overlays = map(overlay, images, masks)
    grid = np.concatenate([np.concatenate(list(row), axis=1) for row in (images, overlays)])
    zoom = max(1, 128 // min(config.data.resolution))
    return encode_png(grid.repeat(zoom, axis=0).repeat(zoom, axis=1))
