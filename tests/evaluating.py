"""Commands of evaluate.py run in this process, and an extractor and a segmenter that need no weights."""

from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

from guided_diffusion.errors import Parser
from guided_diffusion.evaluation.features import Extractor


def evaluate(command: ModuleType, *given: object, **flags: object) -> None:
    """Run a command; flags are names and values, and those of value None are not given."""
    parser = Parser()
    command.add_arguments(parser)
    named = [part for flag, value in flags.items() if value is not None for part in (f"--{flag}", value)]
    command.main(parser.parse_args(list(map(str, (*given, *named)))))


class Convolutions(nn.Sequential):
    """With what timm's networks have: the layers in between."""

    def forward_intermediates(self, x: torch.Tensor, intermediates_only: bool) -> list[torch.Tensor]:
        seen = [x := layer(x) for layer in self]
        return seen[1:6:2]


def random_extractor() -> Extractor:
    """48 features, 64 px, three depths."""
    torch.manual_seed(0)
    network = Convolutions(
        *(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 48, 3, 2, 1)),
        *(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    network.eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter *= 3  # or all features would be next to 0
    return Extractor("random", "0" * 64, network, 64, torch.device("cpu"))


def predict(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Masks of what drawn_boxes.py draws: what is far darker or brighter than the ground."""
    means = (image.mean(axis=2) for image in images)
    return [np.select([mean < 60, mean > 180], [1, 2]).astype(np.uint8) for mean in means]


SEGMENTER = SimpleNamespace(provenance={"encoder": "threshold"}, predict=predict)
