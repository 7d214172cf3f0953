"""The Gaussian diffusion: schedules, q(x_t | x_0), x_start <-> eps, training losses. It knows no loop.

Notation of Ho et al. 2020 (DDPM) and Nichol & Dhariwal 2021. All tables are float64.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..errors import InputError
from ..joint_tensor import MASK, RGB

MAX_BETA = 0.999  # Nichol & Dhariwal: beyond it the last steps are singular
COSINE_S = 0.008  # their offset of the cosine schedule
LINEAR_START, LINEAR_END = 1e-4, 2e-2


def make_betas(schedule: str, num_timestep: int) -> np.ndarray:
    """Betas float64 [T] of a named schedule; names and constants as in the released code.

    cosine: Nichol & Dhariwal 2021, eq. 17. linear: linear in sqrt(beta) (latent diffusion's "linear"). sqrt_linear:
    linear in beta. sqrt: root of that. inverse_proportion: 1 / (T - t), alphas_cumprod linear (Austin et al. 2021)."""
    T = num_timestep
    if schedule == "cosine":
        alpha_bar = np.cos((np.arange(T + 1) / T + COSINE_S) / (1 + COSINE_S) * np.pi / 2) ** 2
        return np.clip(1 - alpha_bar[1:] / alpha_bar[:-1], 0, MAX_BETA)
    if schedule == "linear":
        return np.linspace(LINEAR_START**0.5, LINEAR_END**0.5, T) ** 2
    if schedule == "sqrt_linear":
        return np.linspace(LINEAR_START, LINEAR_END, T)
    if schedule == "sqrt":
        return np.linspace(LINEAR_START, LINEAR_END, T) ** 0.5
    return np.clip(1 / (T - np.arange(T)), 0, MAX_BETA)  # inverse_proportion


class GaussianDiffusion:
    """Forward process and training losses of a configuration, for x_start of shape [N, C, H, W].

    train.loss_weight: per timestep, "uniform" or "min_snr" (Hang et al. 2023): min(SNR, gamma) on the x_start error,
    divided by SNR for eps. train.mask_loss_weight: of the cross-entropy among separate losses."""

    def __init__(self, config: Config) -> None:
        self.parameterization, self.num_timestep = config.diffusion.parameterization, config.diffusion.num_timestep
        self.layout, self.mask_loss_weight = config.layout, config.train.mask_loss_weight
        self.betas = make_betas(config.diffusion.schedule, self.num_timestep)
        self.alphas_cumprod = np.cumprod(1 - self.betas)
        if not (np.diff(self.alphas_cumprod) < 0).all():
            fault = f"{config.diffusion.schedule} has no noise left to add after so many steps"
            raise InputError(f"diffusion.num_timestep {self.num_timestep}: {fault}; lower it")
        snr = self.alphas_cumprod / (1 - self.alphas_cumprod)
        self.loss_weights = np.ones(self.num_timestep)
        if config.train.loss_weight == "min_snr":
            self.loss_weights = np.minimum(snr, config.train.min_snr_gamma)
            if self.parameterization == "eps":
                self.loss_weights = self.loss_weights / snr
        self._on_device: dict[torch.device, Tensor] = {}

    def alpha_bar(self, t: int) -> float:
        """alphas_cumprod at one timestep; 1 at t = -1, the clean image."""
        return 1.0 if t < 0 else float(self.alphas_cumprod[t])

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = sqrt(alpha_bar) x_start + sqrt(1 - alpha_bar) noise (DDPM eq. 4). t: int64 [N]."""
        a, b, _ = self._coefficients(t, x_start.ndim)
        return a * x_start + b * noise

    def x_start_from_eps(self, x_t: Tensor, t: int, eps: Tensor) -> Tensor:
        """Solve x_t = sqrt(alpha_bar) x_start + sqrt(1 - alpha_bar) eps for x_start, at one timestep."""
        alpha_bar = self.alpha_bar(t)
        return (x_t - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5

    def training_losses(
        self,
        model: Callable[[Tensor, Tensor], Tensor],
        x_start: Tensor,
        t: Tensor,
        noise: Tensor,
        separate_channel_loss: bool = False,
        known: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of one batch: x_start float [N, C, H, W], t int64 [N], noise like x_start.

        known: bool [N, C, H, W], where the model is given x_start itself and nothing is asked of it; mask channels are
        known all together or not at all. None: nowhere.

        Returns "loss" (scalar, weighted by timestep; minimise this), "rgb" and "mask" (scalars, its
        unweighted parts) and "per_sample" ([N], unweighted, detached). With separate_channel_loss (x0 only)
        the mask outputs are logits: loss = MSE(RGB) + mask_loss_weight * cross-entropy(masks); else MSE on
        all channels."""
        x_t = self.q_sample(x_start, t, noise)
        output = model(x_t if known is None else torch.where(known, x_start, x_t), t)
        target = x_start if self.parameterization == "x0" else noise
        squared = (output.float() - target).square()
        if known is not None:
            squared = squared.masked_fill(known, 0)
        rgb = squared[:, RGB].mean(dim=(1, 2, 3))  # [N]
        if separate_channel_loss:
            one_hot = x_start[:, MASK]
            if not self.layout.background:
                one_hot = torch.cat([1 - one_hot.sum(dim=1, keepdim=True), one_hot], dim=1)
            entropy = -(one_hot * self.layout.log_softmax(output)).sum(dim=1)  # [N, H, W]
            if known is not None:
                entropy = entropy.masked_fill(known[:, -1], 0)
            mask = entropy.mean(dim=(1, 2))  # [N]
            per_sample = rgb + self.mask_loss_weight * mask
        else:
            mask = squared[:, MASK].mean(dim=(1, 2, 3))
            per_sample = squared.mean(dim=(1, 2, 3))
        _, _, weight = self._coefficients(t, 1)
        return {
            "loss": (weight * per_sample).mean(),
            "rgb": rgb.detach().mean(),
            "mask": mask.detach().mean(),
            "per_sample": per_sample.detach(),
        }

    def _coefficients(self, t: Tensor, ndim: int) -> Tensor:
        """sqrt(alpha_bar), sqrt(1 - alpha_bar) and loss weight at t: float32 [3, N, 1, ...] with ndim dims each."""
        if t.device not in self._on_device:
            table = np.stack([self.alphas_cumprod**0.5, (1 - self.alphas_cumprod) ** 0.5, self.loss_weights])
            self._on_device[t.device] = torch.from_numpy(table).float().to(t.device)
        return self._on_device[t.device][:, t].reshape(3, -1, *[1] * (ndim - 1))
