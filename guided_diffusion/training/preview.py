"""A quick look at one network while it trains."""

from __future__ import annotations

import numpy as np
import torch

from ..config import Config
from ..diffusion.conditioning import BALANCED, Held, parse_defects
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.samplers import make_predict_x0
from ..diffusion.two_stage import two_stage_sample
from ..file_io import encode_png
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
        types = Held(types=parse_defects(BALANCED, layout.class_names)).told(range(count), layout, device)
    predict_x0 = make_predict_x0(model, config, diffusion, types)
    x = two_stage_sample(
        noise(T - 1),
        diffusion,
        predict_x0,
        None,
        step_inference=0,
        num_steps=min(PREVIEW_STEPS, T),
        noise=noise,
    )
    images, masks = layout.decode(x)
    overlays = [overlay(image, mask) for image, mask in zip(images, masks, strict=True)]
    grid = np.concatenate([np.concatenate(list(images), axis=1), np.concatenate(overlays, axis=1)], axis=0)
    zoom = max(1, 128 // min(config.data.resolution))
    return encode_png(grid.repeat(zoom, axis=0).repeat(zoom, axis=1))
