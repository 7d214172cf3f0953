"""What a segmenter is trained on: a pool of labelled images, from which windows are cut and augmented.

The augmentation is the classical one of the field, the same for every image wherever it comes from, so that what
synthetic images add is not what a change of brightness would have added.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.image_datasets import epoch_indices
from ..keyed_random import key_to_seed, numpy_generator
from .image_sets import ImageSet
from .torchvision_import import import_torchvision

DEFECT_SHARE = 0.8  # of the windows cut from images with defects hold one for certain
# Chosen on held-out images: with scale 1.5, colour 0.3, gamma 1.4, noise 0.04 and blur, cracks of 1-2 px were lost.
SCALE, ASPECT = 1.2, 1.15  # windows are enlarged and stretched by up to these factors, or their inverses
COLOUR = 0.15  # brightness, contrast and saturation are multiplied by 1 - COLOUR to 1 + COLOUR
GAMMA = 1.15  # brightness is raised to a power of up to this, or its inverse
NOISE = 0.01  # largest standard deviation, of 1 for white


@dataclass(frozen=True)
class Pool:
    """Images to train on, and the shares of them in a batch.

    real, extra (synthetic, pasted or repeated), good (defect-free): images of any sizes; extra and good may be None
    or empty. size: height and width of the training windows. good_share: of a batch. real_share: of the others, real;
    None: as many as there are among real and extra together. augment: False cuts windows and does nothing else.
    """

    real: ImageSet
    extra: ImageSet | None
    good: ImageSet | None
    size: tuple[int, int]
    good_share: float = 0.25
    real_share: float | None = None
    augment: bool = True

    @property
    def num_types(self) -> int:
        return len(self.real.class_names)

    def draw(self, batch_size: int, step: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The images and masks of a batch, whole; a function of its arguments alone.

        Each kind is walked through in one permutation after another, so that all images of it occur equally often.
        """
        good = round(self.good_share * batch_size) if self.good else 0
        rest = batch_size - good
        real = round(self.real_share * rest) if self.real_share is not None and self.extra else 0
        pairs = _walk([self.good], good, step, seed) + _walk([self.real], real, step, seed)
        together = [self.extra] if real else [self.real, self.extra]
        return pairs + _walk(together, rest - real, step, seed)

    def batch(self, batch_size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, h, w] and index masks uint8 [B, h, w], (h, w) = size; of its arguments alone."""
        rng = numpy_generator("augmentation", seed, step)
        pairs = self.draw(batch_size, step, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_to_seed("augmentation", seed, step))
            windows = [self._window(image, mask, rng) for image, mask in pairs]
            images, masks = (torch.stack(part) for part in zip(*windows, strict=True))
            return (gamma_and_noise(images) if self.augment else images), masks

    def _window(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One window of `size` from an image [H, W, 3] and its mask [H, W]: uint8 [3, h, w] and [h, w]."""
        scale, aspect = (_log_uniform(SCALE, rng), _log_uniform(ASPECT, rng)) if self.augment else (1.0, 1.0)
        wanted = [round(self.size[0] / scale * aspect), round(self.size[1] / scale / aspect)]
        image, mask = cut_window(image, mask, wanted, rng)
        window = _stretch(torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask), self.size)
        if self.augment:
            tv_tensors, augmentation = _torchvision()
            window = augmentation(tv_tensors.Image(window[0]), tv_tensors.Mask(window[1]))
        return tuple(part.as_subclass(Tensor).contiguous() for part in window)


def cut_window(
    image: np.ndarray, mask: np.ndarray, size: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of `size` (height, width) from an image [H, W, 3] and its mask [H, W], mirrored where they are smaller.

    DEFECT_SHARE of the windows lie anywhere around a random defect pixel, if there is one; the others anywhere.
    """
    missing = [max(0, want - have) for want, have in zip(size, mask.shape, strict=True)]
    if any(missing):
        pad = [(m // 2, m - m // 2) for m in missing]
        image, mask = np.pad(image, [*pad, (0, 0)], mode="symmetric"), np.pad(mask, pad, mode="symmetric")
    ranges = [[0, have - want] for want, have in zip(size, mask.shape, strict=True)]
    places = np.argwhere(mask) if rng.random() < DEFECT_SHARE else ()
    if len(places):
        for limits, at, want in zip(ranges, places[rng.integers(len(places))], size, strict=True):
            limits[:] = [max(0, at - want + 1), min(limits[1], at)]
    top, left = (int(rng.integers(low, high + 1)) for low, high in ranges)
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return np.ascontiguousarray(image[window]), np.ascontiguousarray(mask[window])


def gamma_and_noise(images: Tensor) -> Tensor:
    """uint8 images [B, 3, H, W], each with its own gamma up to GAMMA and grain up to NOISE, from torch's generator."""
    exponent = GAMMA ** torch.empty(len(images), 1, 1, 1).uniform_(-1, 1)
    strength = torch.empty(len(images), 1, 1, 1).uniform_(0, NOISE)
    noisy = (images.float() / 255) ** exponent + strength * torch.randn(images.shape)
    return (noisy.clamp(0, 1) * 255).round().to(torch.uint8)


def _stretch(image: Tensor, mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """An image uint8 [3, H, W] and its mask [H, W] at another size.

    Not by torchvision, whose masks are moved by up to half a pixel: much for defects of a few.
    """
    if tuple(mask.shape) == size:
        return image, mask
    image = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
    return image, F.interpolate(mask[None, None], size, mode="nearest-exact")[0, 0]


@functools.cache
def _torchvision() -> tuple[ModuleType, Callable]:
    """torchvision's tv_tensors, and what its transforms.v2 do of the augmentation of an image and its mask."""
    import_torchvision()
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    augmentation = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.ColorJitter(brightness=COLOUR, contrast=COLOUR, saturation=COLOUR),
        ]
    )
    return tv_tensors, augmentation


def _log_uniform(limit: float, rng: np.random.Generator) -> float:
    """Between 1 / limit and limit."""
    return float(limit ** rng.uniform(-1, 1))


def _walk(sets: Sequence[ImageSet | None], count: int, step: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pairs of step `step` on a walk through all images of the sets, `count` at each step."""
    if not count:
        return []
    pairs = [pair for part in sets if part for pair in zip(part.images, part.masks, strict=True)]
    return [pairs[i] for i in epoch_indices(len(pairs), count, step, 0, 1, seed)]
