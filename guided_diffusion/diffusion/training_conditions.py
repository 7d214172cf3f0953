"""What a network in training is told and given of its images: the types, and parts of x_start without noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import Config
from ..joint_tensor import MASK, RGB, JointLayout, untold
from ..keyed_random import Key, torch_generator
from .conditioning import DEFAULT_MARGIN, far_from_defects

UNTOLD_PHOTOGRAPHS = 0.5  # share of the photographs that are given whole without telling their types


def draw_conditions(
    config: Config, x_start: Tensor, masks: Tensor, key: Sequence[Key]
) -> tuple[Tensor | None, Tensor | None]:
    """Of a batch x_start [N, C, H, W] with index masks uint8 [N, H, W]: types float32 [N, 1 + num_defect] with
    class_cond, and with train.known_share where x_start is given, bool [N, C, H, W]; on x_start's device.

    Drawn by `key` on the CPU, so that devices agree.
    """
    layout, train, device = config.layout, config.train, x_start.device
    generator = torch_generator("cpu", "conditions", *key)
    types = known = None
    if train.known_share:
        known = draw_known(x_start, layout, train.known_share, generator)
    if config.model.class_cond:
        types = layout.types_in(masks).to(device)
        drop = torch.full((len(types),), train.class_drop, device=device)
        if known is not None:  # who wants a mask for a photograph seldom knows the types
            photograph = known[:, RGB].flatten(1).all(dim=1)
            drop = torch.where(photograph, UNTOLD_PHOTOGRAPHS, drop)
        dropped = torch.rand(len(types), generator=generator).to(device) < drop
        types = torch.where(dropped[:, None], untold(types), types)
    return types, known


def draw_known(x_start: Tensor, layout: JointLayout, share: float, generator: torch.Generator) -> Tensor:
    """Which parts of training images a network is given without noise: bool like x_start [N, C, H, W].

    Of a `share` of the images, one of these: the masks; the photograph; the masks, and the photograph further than a
    few pixels from a defect. So the network learns what generating asks of it: an image for a mask, a mask for an
    image, a defect in a photograph. generator: of the CPU.
    """
    known = torch.zeros_like(x_start, dtype=torch.bool)
    parts = torch.randint(3, (len(x_start),), generator=generator)
    chosen = torch.rand(len(x_start), generator=generator) < share
    margin = int(torch.randint(2 * DEFAULT_MARGIN + 1, (), generator=generator))
    far = far_from_defects(x_start[:, -layout.num_defect :].amax(dim=1), margin)
    for row in chosen.nonzero().flatten().tolist():
        known[row, MASK] = parts[row] != 1
        known[row, RGB] = {0: False, 1: True, 2: far[row]}[int(parts[row])]
    return known
