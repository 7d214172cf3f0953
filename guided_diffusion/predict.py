"""From a network to the one callable that samplers know: predict_x0(x_t, t)."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import Config
from .gaussian_diffusion import GaussianDiffusion
from .samplers import PredictX0
from .unet import UNet


def make_predict_x0(model: UNet, config: Config, diffusion: GaussianDiffusion) -> PredictX0:
    """Wrap a network: its parameterization, and softmax where its mask outputs are logits.

    The callable takes x_t float32 [N, C, H, W] and one timestep, and returns the unclipped x_start.
    """

    def predict_x0(x_t: Tensor, t: int) -> Tensor:
        output = model(x_t, torch.full((len(x_t),), t, device=x_t.device))
        if config.diffusion.parameterization == "eps":
            return diffusion.x_start_from_eps(x_t, t, output)
        return config.layout.probabilities(output) if config.train.separate_channel_loss else output

    return predict_x0
