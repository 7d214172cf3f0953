"""The joint tensor: which channel carries what, how it is encoded, decoded, clipped and coloured.

Channels 0-2 are RGB in [-1, 1]; then, if configured, one background channel; then one channel per defect
type, one-hot in {0, 1}. Outside this module only warm_start.py, which matches types, relies on that order.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

RGB = slice(0, 3)
MASK = slice(3, None)
# Without a background channel a pixel is background where no type reaches this (the midpoint of {0, 1}).
DECODE_THRESHOLD = 0.5


@dataclass(frozen=True)
class JointLayout:
    """Layout of the joint tensor for a list of defect types (class_names[k] has index k + 1)."""

    class_names: tuple[str, ...]
    background: bool = True

    @property
    def num_defect(self) -> int:
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        return 3 + int(self.background) + self.num_defect

    def encode(self, images: Tensor, masks: Tensor) -> Tensor:
        """uint8 images [N, 3, H, W] and uint8 index masks [N, H, W] -> x_start float32 [N, C, H, W]."""
        rgb = images.float() / 127.5 - 1.0
        one_hot = F.one_hot(masks.long(), self.num_defect + 1).permute(0, 3, 1, 2).float()
        return torch.cat([rgb, one_hot if self.background else one_hot[:, 1:]], dim=1)  # [N, C, H, W]

    def decode(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """x_start [N, C, H, W] -> uint8 images [N, H, W, 3] and uint8 index masks [N, H, W].

        With a background channel a pixel takes the largest channel; without one it takes the largest type
        if that exceeds DECODE_THRESHOLD, else background."""
        x = x.detach().float()
        images = ((x[:, RGB].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        best, index = x[:, MASK].max(dim=1)  # [N, H, W]
        if not self.background:
            index = torch.where(best > DECODE_THRESHOLD, index + 1, 0)
        pixels = torch.cat([images, index[:, None].to(torch.uint8)], dim=1).permute(0, 2, 3, 1).cpu().numpy()
        return np.ascontiguousarray(pixels[..., :3]), np.ascontiguousarray(pixels[..., 3])

    def types_in(self, masks: Tensor) -> Tensor:
        """What a network with class_cond is told of index masks uint8 [N, H, W]: float32 [N, 1 + num_defect].

        Column k is 1 where type k occurs, so a row of zeros says "no defect"; column 0 means "not told", see untold."""
        present = F.one_hot(masks.flatten(1).long(), self.num_defect + 1).amax(dim=1).float()
        present[:, 0] = 0
        return present

    def probabilities(self, x: Tensor) -> Tensor:
        """Turn mask logits into probabilities, RGB untouched (networks trained with separate losses).

        Without a background channel a zero logit stands in for it."""
        return torch.cat([x[:, RGB], self.log_softmax(x).exp()[:, -(x.shape[1] - 3) :]], dim=1)

    def log_softmax(self, x: Tensor) -> Tensor:
        """Log-probabilities [N, num_defect + 1, H, W] of background and types, from the logits in x."""
        logits = x[:, MASK]
        if not self.background:
            logits = torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)
        return F.log_softmax(logits.float(), dim=1)


def untold(types: Tensor) -> Tensor:
    """Like types float [N, 1 + num_defect] of JointLayout.types_in, but no row tells any."""
    return F.one_hot(torch.zeros(len(types), dtype=torch.int64, device=types.device), types.shape[1]).to(types)


def clip(x: Tensor) -> Tensor:
    """Clip x_start [N, C, H, W] to its range: RGB [-1, 1], masks [0, 1]."""
    return torch.cat([x[:, RGB].clamp(-1, 1), x[:, MASK].clamp(0, 1)], dim=1)


def clip_released(x: Tensor) -> Tensor:
    """Clip as the released sampler does: every channel to [-1, 1]."""
    return x.clamp(-1, 1)
