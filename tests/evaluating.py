"""Squares in noise, dark (type 1) or bright (type 2), as image sets, data sets and sample folders; commands of
evaluate.py run in this process, and an extractor and a segmenter that need no weights."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import nn

from guided_diffusion.errors import Parser
from guided_diffusion.evaluation.features import Extractor
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.generation.sample_io import SampleFolder
from scripts.draw_demo_data import write_released

TYPES = ("dark", "bright")
SIZE = 32


def draw(count: int, seed: int, size: int = SIZE, types: Sequence[int] = (1, 2)) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, size, size, 3] with one square each, of the types in turn (0: none), and their masks."""
    rng = np.random.default_rng(seed)
    images = rng.normal(120, 12, (count, size, size, 3)).clip(0, 255).astype(np.uint8)
    masks = np.zeros((count, size, size), np.uint8)
    for k in range(count):
        side = int(rng.integers(8, 13))
        top, left = rng.integers(0, size - side, 2)
        masks[k, top : top + side, left : left + side] = types[k % len(types)]
    images[masks > 0] = np.array([0, 20, 240, 200], np.uint8)[masks[masks > 0]][:, None]
    return images, masks


def image_set(
    images: np.ndarray, masks: np.ndarray, groups: Sequence | None = None, names: Sequence[str] = TYPES
) -> ImageSet:
    own = [f"{k:06d}" for k in range(len(masks))]
    return ImageSet(images, masks, own, list(map(str, own if groups is None else groups)), tuple(names), "set")


def write_real(folder: Path, count: int, seed: int, good: int = 0, class_names: Sequence[str] = TYPES, **drawn) -> str:
    """A data set of drawn images called <type>/<folder>000.png, and defect-free ones."""
    images, masks = draw(count, seed, **drawn)
    names = [f"{class_names[mask.max() - 1]}/{folder.name}{k:03d}" for k, mask in enumerate(masks)]
    names += [f"good/{k}" for k in range(good)]
    pairs = [*zip(images, masks, strict=True), *((image, None) for image in draw(good, seed + 1000, types=[0])[0])]
    write_released(str(folder), names, pairs, {name: k for k, name in enumerate(class_names, start=1)}, {})
    return str(folder)


def write_samples(folder: Path, images: np.ndarray, masks: np.ndarray, names=TYPES, asked=None, **settings) -> str:
    """A folder of samples as inference.py writes it."""
    SampleFolder(str(folder), names, {"seed": 0, **settings}).add(range(len(images)), images, masks, asked)
    return str(folder)


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
    """Masks of what is drawn here: what is far darker or brighter than the ground."""
    means = (image.mean(axis=2) for image in images)
    return [np.select([mean < 60, mean > 180], [1, 2]).astype(np.uint8) for mean in means]


SEGMENTER = SimpleNamespace(provenance={"encoder": "threshold"}, predict=predict)
