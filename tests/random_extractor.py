"""An extractor that needs no weights: three random convolutions. For tests of what does not hang on the weights."""

import torch
from torch import nn

from guided_diffusion.evaluation.features import Extractor


def random_extractor() -> Extractor:
    """48 features, 64 px, three depths."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 48, 3, 2, 1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    network.eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter *= 3  # or all features would be next to 0
    half = (0.5, 0.5, 0.5)
    return Extractor("random", "0" * 64, network, ("1", "3", "5"), 64, half, half, torch.device("cpu"))
