"""Samplers: small functions that walk a plan's pairs with one callable, predict_x0.

Each takes x at the first pair's t and returns x at the last pair's t_prev. Arguments:

    x           float32 [N, C, H, W], x_t of the first pair
    pairs       (t, t_prev), descending; t_prev = -1 is the clean image
    predict_x0  (x_t, t) -> unclipped x_start, same shape
    clip        x_start -> x_start within its range
    alpha_bar   t -> alphas_cumprod at t; 1 at t = -1
    noise       t -> standard normal noise like x, for stochastic samplers
"""

from collections.abc import Callable, Iterable
from functools import partial
from math import log, log1p, sqrt

import torch
from torch import Tensor

from ..config import Config
from ..joint_tensor import untold
from .gaussian_diffusion import GaussianDiffusion

Pairs = Iterable[tuple[int, int]]
PredictX0 = Callable[[Tensor, int], Tensor]
Clip = Callable[[Tensor], Tensor]
AlphaBar = Callable[[int], float]
Noise = Callable[[int], Tensor]


def make_predict_x0(
    model: Callable[..., Tensor],
    config: Config,
    diffusion: GaussianDiffusion,
    types: Tensor | None = None,
    guidance_scale: float = 1.0,
) -> PredictX0:
    """Wrap a network: its parameterization, guidance, and softmax where its mask outputs are logits.

    The callable takes x_t float32 [N, C, H, W] and one timestep, and returns the unclipped x_start. types: what a
    network with class_cond is told, float32 [N, 1 + num_defect]; None: nothing. guidance_scale w other than 1:
    x_start = untold + w (told - untold) (Ho & Salimans 2022, whose w is one less). Mask logits are guided before the
    softmax, which is to guide log-probabilities: the two differ by what the softmax takes out."""
    guided = types is not None and guidance_scale != 1

    def x_start(x_t: Tensor, t: int, types: Tensor | None) -> Tensor:
        steps = torch.full((len(x_t),), t, device=x_t.device)
        output = model(x_t, steps) if types is None else model(x_t, steps, types)
        return diffusion.x_start_from_eps(x_t, t, output) if config.diffusion.parameterization == "eps" else output

    def predict_x0(x_t: Tensor, t: int) -> Tensor:
        if guided:
            x0, free = x_start(torch.cat([x_t, x_t]), t, torch.cat([types, untold(types)])).chunk(2)
            x0 = free + guidance_scale * (x0 - free)
        else:
            x0 = x_start(x_t, t, types)
        return config.layout.probabilities(x0) if config.train.separate_channel_loss else x0

    return predict_x0


def _eps(x: Tensor, x0: Tensor, alpha_bar: float) -> Tensor:
    """eps such that x = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps."""
    return (x - sqrt(alpha_bar) * x0) / sqrt(1 - alpha_bar)


def cold(x: Tensor, pairs: Pairs, predict_x0: PredictX0, clip: Clip, alpha_bar: AlphaBar, noise: Noise) -> Tensor:
    """The released deterministic rule (Bansal et al. 2022, algorithm 2): x - D(x0, t) + D(x0, t_prev).

    D degrades the clipped x0 with the eps of the unclipped one."""
    for t, t_prev in pairs:
        a, a_prev = alpha_bar(t), alpha_bar(t_prev)
        x0 = predict_x0(x, t)
        eps = _eps(x, x0, a)
        x = x + (sqrt(a_prev) - sqrt(a)) * clip(x0) + (sqrt(1 - a_prev) - sqrt(1 - a)) * eps
    return x


def ddim(
    x: Tensor, pairs: Pairs, predict_x0: PredictX0, clip: Clip, alpha_bar: AlphaBar, noise: Noise, eta: float = 0.0
) -> Tensor:
    """DDIM (Song et al. 2021, eq. 12 and 16), eps re-derived from the clipped x0."""
    for t, t_prev in pairs:
        a, a_prev = alpha_bar(t), alpha_bar(t_prev)
        x0 = clip(predict_x0(x, t))
        eps = _eps(x, x0, a)
        sigma = eta * sqrt((1 - a_prev) / (1 - a) * (1 - a / a_prev))
        x = sqrt(a_prev) * x0 + sqrt(1 - a_prev - sigma**2) * eps
        if sigma > 0:
            x = x + sigma * noise(t)
    return x


def dpmpp_2m(x: Tensor, pairs: Pairs, predict_x0: PredictX0, clip: Clip, alpha_bar: AlphaBar, noise: Noise) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), on the clipped x0.

    The first step and the one to the clean image are of first order, where this is DDIM."""
    x0_last, h_last = None, 0.0
    for t, t_prev in pairs:
        a, a_prev = alpha_bar(t), alpha_bar(t_prev)
        x0 = target = clip(predict_x0(x, t))
        if t_prev >= 0:  # else a_prev = 1: lambda is infinite, and only x0 counts
            h = _lambda(a_prev) - _lambda(a)
            if x0_last is not None:
                target = x0 + h / (2 * h_last) * (x0 - x0_last)  # D of the paper, r = h_last / h
            x0_last, h_last = x0, h
        keep = sqrt((1 - a_prev) / (1 - a))  # sigma / sigma_last
        x = keep * x + (sqrt(a_prev) - keep * sqrt(a)) * target
    return x


def _lambda(alpha_bar: float) -> float:
    """log(alpha / sigma) of the paper, half the log-SNR; alpha_bar below 1."""
    return (log(alpha_bar) - log1p(-alpha_bar)) / 2


# DDPM (Ho et al. 2020, algorithm 2) with the variance of the pair is DDIM with eta = 1.
SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "cold": cold,
    "ddim": ddim,
    "ddpm": partial(ddim, eta=1.0),
    "dpmpp_2m": dpmpp_2m,
}
