"""The large network on a smaller canvas: it lays out at a size that it knows, the small one details at full size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import torch.nn.functional as F
from torch import Tensor

from ..diffusion.conditioning import Known
from ..diffusion.respace import Pair
from ..errors import InputError


@dataclass(frozen=True)
class Canvas:
    """What is drawn on: its noise(t), standard normal float32 [N, C, H, W], and the parts of x_start that are given."""

    noise: Callable[[int], Tensor]
    known: Known | None

    def start(self, noise: Tensor, alpha_bar: float) -> Tensor:
        """x_t at the first timestep."""
        return self.known.start(noise, alpha_bar) if self.known else noise

    def paste(self, x_start: Tensor) -> Tensor:
        return self.known.paste(x_start) if self.known else x_start

    def receive(self, x_start: Tensor, alpha_bar: float, key: int) -> Tensor:
        """x_t at the level of alpha_bar from the x_start of a smaller canvas, with the noise of `key`.

        Enlarged linearly, masks too: probabilities then stay within [0, 1] and sum to one, and between two types no
        third one appears. How the edges run is for the small network to say.
        """
        noise = self.noise(key)
        enlarged = F.interpolate(x_start, noise.shape[-2:], mode="bilinear", align_corners=False)
        return sqrt(alpha_bar) * self.paste(enlarged) + sqrt(1 - alpha_bar) * noise


def to_clean(pairs: Sequence[Pair]) -> list[Pair]:
    """The same steps, but the last one goes to the clean image: to x_start as the network estimates it there."""
    return [*pairs[:-1], (pairs[-1][0], -1)]


def check_upscale(upscale: int, size: Sequence[int], step_inference: int, num_timestep: int, handoff: str) -> None:
    """Raise InputError unless samples of `size` = (height, width) can be laid out at 1 / upscale of it."""
    flag = f"--upscale {upscale}"
    if upscale < 1:
        raise InputError(f"{flag}: must be 1 or more")
    if upscale == 1:
        return
    if handoff == "released":
        raise InputError(f"{flag}: --handoff released hands no noise level over; leave one of them out")
    if not 0 < step_inference < num_timestep:
        raise InputError(
            f"{flag}: needs both networks, but --step_inference {step_inference} leaves one without a step; give "
            f"from 1 to {num_timestep - 1}"
        )
    if size[0] % upscale or size[1] % upscale:
        raise InputError(f"{flag}: does not divide --image_size {size[0]} {size[1]}; give multiples of {upscale}")
