"""What networks are given: parts of the clean image that are known, and the types that they are told.

The networks model image and masks together, so either can be held while the other is drawn, by a wrapper of predict_x0:
masks that are given get an image, and a photograph gets a defect where a mask wants one. Any network can do so; one
trained with train.known_share does it better, and one with model.class_cond can be told types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..joint_tensor import MASK, RGB, JointLayout, untold
from ..keyed_random import Key, torch_generator
from ..precision import to_device
from .samplers import PredictX0

DEFAULT_MARGIN = 4  # pixels around a defect that are drawn anew
UNTOLD_PHOTOGRAPHS = 0.5  # share of the photographs that are given whole without telling their types


@dataclass(frozen=True)
class Known:
    """Parts of x_start that are given.

    values: float32 [N, C, H, W], in the joint tensor's ranges. where: bool [N, C, H, W], True where they hold."""

    values: Tensor
    where: Tensor

    def start(self, noise: Tensor, alpha_bar: float) -> Tensor:
        """x_t at the first timestep: noise, but what is known diffused to that level."""
        diffused = sqrt(alpha_bar) * self.values + sqrt(1 - alpha_bar) * noise
        return torch.where(self.where, diffused, noise)

    def wrap(self, predict_x0: PredictX0, clean: bool = False) -> PredictX0:
        """A predict_x0 that says what is known; samplers derive eps after it, so x_t keeps to it at every level.

        clean: the network was trained to be given what is known without noise (train.known_share)."""

        def predict(x_t: Tensor, t: int) -> Tensor:
            return self.paste(predict_x0(self.paste(x_t) if clean else x_t, t))

        return predict

    def paste(self, x_start: Tensor) -> Tensor:
        """x_start with what is known put in, to the bit."""
        return torch.where(self.where, self.values, x_start)


def far_from_defects(defect: Tensor, margin: int) -> Tensor:
    """bool [N, 1, H, W]: further than `margin` pixels, along either axis, from where [N, H, W] is above 0."""
    near = (defect > 0)[:, None]
    for axis in (2, 3):  # how many lie from place - margin to place + margin; one axis after the other makes a square
        side = near.shape[axis]
        reach, places = min(margin, side), torch.arange(side, device=near.device)
        before = F.pad(near.int().movedim(axis, -1), (1, 0)).cumsum(dim=-1)
        counts = before[..., (places + reach + 1).clamp(max=side)] - before[..., (places - reach).clamp(min=0)]
        near = counts.movedim(-1, axis) > 0
    return ~near


def draw_conditions(
    config: Config, x_start: Tensor, masks: Tensor, key: Sequence[Key]
) -> tuple[Tensor | None, Tensor | None]:
    """Of a batch x_start [N, C, H, W] with index masks uint8 [N, H, W] beside it: types float32 [N, 1 + num_defect]
    with class_cond, and with train.known_share where x_start is given, bool [N, C, H, W]; on x_start's device.

    Drawn by `key` on the CPU, so that devices agree."""
    layout, train, device = config.layout, config.train, x_start.device
    generator = torch_generator("cpu", "conditions", *key)
    types = known = None
    if train.known_share:
        known = draw_known(x_start, layout, train.known_share, generator)
    if config.model.class_cond:
        types = layout.types_in(masks)
        drop = torch.full((len(types),), train.class_drop, device=device)
        if known is not None:  # a photograph may be given without its types
            photograph = known[:, RGB].flatten(1).all(dim=1)
            drop = torch.where(photograph, UNTOLD_PHOTOGRAPHS, drop)
        dropped = to_device(torch.rand(len(types), generator=generator), device) < drop
        types = torch.where(dropped[:, None], untold(types), types)
    return types, known


def draw_known(x_start: Tensor, layout: JointLayout, share: float, generator: torch.Generator) -> Tensor:
    """Which parts of training images a network is given without noise: bool like x_start [N, C, H, W].

    Of a `share` of the images, one of these: the masks; the photograph; the masks, and the photograph further than a
    few pixels from a defect. So the network learns what generating asks of it, an image for a mask and a defect in a
    photograph; and a mask for a photograph, which no command asks for. generator: of the CPU."""
    known = torch.zeros_like(x_start, dtype=torch.bool)
    parts = torch.randint(3, (len(x_start),), generator=generator)
    chosen = torch.rand(len(x_start), generator=generator) < share
    margin = int(torch.randint(2 * DEFAULT_MARGIN + 1, (), generator=generator))
    far = far_from_defects(x_start[:, -layout.num_defect :].amax(dim=1), margin)
    one = torch.stack([chosen & (parts == part) for part in range(3)])
    mask, photograph, both = to_device(one, x_start.device)[..., None, None, None]  # each [N, 1, 1, 1]
    known[:, MASK] = mask | both
    known[:, RGB] = photograph | (both & far)
    return known
