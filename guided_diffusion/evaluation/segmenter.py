"""The segmenter that measures what images add: a small DeepLabV3+ (Chen et al. 2018) on a frozen, pretrained encoder.

Network, optimiser steps and classical augmentation are the same whatever it is trained on.
Defects of 2-5 px do not survive an output stride of 4, so images are enlarged by ENLARGE inside, and logits brought
back. DILATION is made for the size of the training windows: with the usual 12, 24, 36 nearly all taps would see padding
while training, and be random after. docs/evidence.md says how the settings were chosen.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..data.image_datasets import epoch_indices
from ..errors import InputError
from ..file_io import read_bytes
from ..keyed_random import key_to_seed, numpy_generator
from ..precision import autocast
from .features import import_torchvision, load_extractor
from .image_sets import ImageSet

ENCODER = "efficientnet_lite0"  # of features.EXTRACTORS
STRIDE = 16  # of the encoder's output
ENLARGE = 2
DILATION = (2, 4, 6)  # in cells of 16 enlarged pixels
PREDICT_PIXELS = 1 << 20  # enlarged pixels in one batch of predict()

DEFECT_SHARE = 0.8  # of the windows cut from images with defects hold one for certain
# Chosen on held-out images: with scale 1.5, colour 0.3, gamma 1.4, noise 0.04 and blur, cracks of 1-2 px were lost.
SCALE, ASPECT = 1.2, 1.15  # windows are enlarged and stretched by up to these factors, or their inverses
COLOUR = 0.15  # brightness, contrast and saturation are multiplied by 1 - COLOUR to 1 + COLOUR
GAMMA = 1.15  # brightness is raised to a power of up to this, or its inverse
NOISE = 0.01  # largest standard deviation, of 1 for white


@dataclass(frozen=True)
class Pool:
    """Images of any sizes to train on: real, extra (synthetic, pasted or repeated) and good (defect-free), or None.

    size: of the training windows. good_share: of a batch. real_share: of the rest, real; None: as many as there are
    among real and extra together. augment: False cuts windows and does nothing else.
    """

    real: ImageSet
    extra: ImageSet | None
    good: ImageSet | None
    size: tuple[int, int]
    good_share: float = 0.25
    real_share: float | None = None
    augment: bool = True

    def draw(self, batch_size: int, step: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """The whole images and masks of a batch, of its arguments alone; over time all of a kind equally often."""
        good = round(self.good_share * batch_size) if self.good else 0
        rest = batch_size - good
        real = round(self.real_share * rest) if self.real_share is not None and self.extra else 0
        others = [self.extra] if real else [self.real, self.extra]
        drawn = []
        for sets, count in (([self.good], good), ([self.real], real), (others, rest - real)):
            if count:
                pairs = [pair for part in sets if part for pair in zip(part.images, part.masks, strict=True)]
                drawn += [pairs[i] for i in epoch_indices(len(pairs), count, step, 0, 1, seed)]
        return drawn

    def batch(self, batch_size: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, h, w] and index masks uint8 [B, h, w], (h, w) = size; of its arguments alone."""
        rng = numpy_generator("augmentation", seed, step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_to_seed("augmentation", seed, step))
            windows = [self._window(image, mask, rng) for image, mask in self.draw(batch_size, step, seed)]
            images, masks = (torch.stack(part) for part in zip(*windows, strict=True))
            return (gamma_and_noise(images) if self.augment else images), masks

    def _window(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One window of `size` from an image [H, W, 3] and its mask [H, W]: uint8 [3, h, w] and [h, w]."""
        scale, aspect = (float(limit ** rng.uniform(-1, 1)) if self.augment else 1.0 for limit in (SCALE, ASPECT))
        wanted = [round(self.size[0] / scale * aspect), round(self.size[1] / scale / aspect)]
        image, mask = cut_window(image, mask, wanted, rng)
        x, y = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)
        if tuple(y.shape) != self.size:
            # Not by torchvision, which moves masks by up to half a pixel: much for defects of a few.
            x = F.interpolate(x[None].float(), self.size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
            y = F.interpolate(y[None, None], self.size, mode="nearest-exact")[0, 0]
        if self.augment:
            import_torchvision()
            from torchvision import tv_tensors
            from torchvision.transforms import v2

            colour = v2.ColorJitter(brightness=COLOUR, contrast=COLOUR, saturation=COLOUR)
            augmentation = v2.Compose([v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), colour])
            x, y = augmentation(tv_tensors.Image(x), tv_tensors.Mask(y))
        return tuple(part.as_subclass(Tensor).contiguous() for part in (x, y))


def cut_window(
    image: np.ndarray, mask: np.ndarray, size: Sequence[int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A window of `size` (height, width) from an image [H, W, 3] and its mask [H, W], mirrored where they are smaller.

    DEFECT_SHARE of the windows lie anywhere around a random defect pixel, if there is one; the others anywhere.
    """
    missing = [max(0, want - have) for want, have in zip(size, mask.shape, strict=True)]
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


@dataclass(frozen=True)
class SegmenterSettings:
    """What decides a segmenter besides its pool and seed."""

    channels: int = 96  # of the decoder
    steps: int = 600
    batch_size: int = 8
    lr: float = 3e-3  # peak
    weight_decay: float = 1e-2
    precision: str = "fp32"  # of the encoder, or bf16


class Segmenter(nn.Module):
    """uint8 images [N, 3, H, W] -> logits [N, K + 1, H, W], of any size; untrained but for its encoder.

    provenance: the encoder, and the hash of its weights. Raises InputError where packages are missing.
    """

    def __init__(self, settings: SegmenterSettings, num_types: int, device: torch.device | str) -> None:
        super().__init__()
        try:
            import_torchvision()
            import segmentation_models_pytorch as smp
        except ImportError as error:
            command = os.path.basename(sys.argv[0])
            raise InputError(f"{command}: {error}; pip install -r requirements-eval.txt") from error
        self.net = smp.DeepLabV3Plus(
            f"tu-tf_{ENCODER}",
            encoder_depth=4,  # up to its stride 16
            encoder_weights=None,
            encoder_output_stride=STRIDE,
            decoder_channels=settings.channels,
            decoder_atrous_rates=DILATION,
            decoder_aspp_dropout=0.1,
            classes=num_types + 1,
            upsampling=1,
        )
        known = load_extractor(ENCODER)
        state = known.network.state_dict()
        self.net.encoder.model.load_state_dict({name: state[name] for name in self.net.encoder.model.state_dict()})
        self.net.encoder.requires_grad_(False)
        self.precision = settings.precision
        self.provenance = {"encoder": ENCODER, "weights_sha256": known.sha256}
        self.register_buffer("mean", torch.tensor(known.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(known.std).view(3, 1, 1))
        self.to(device, memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> Segmenter:
        """The encoder's batch normalisation keeps the statistics of its pretraining: batches here are too small."""
        super().train(mode)
        self.net.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        cell = STRIDE // math.gcd(STRIDE, ENLARGE)  # so that the enlarged sides are whole strides
        x = F.pad(images.float(), (0, -width % cell, 0, -height % cell), mode="replicate")
        padded = x.shape[-2:]
        x = F.interpolate((x / 255 - self.mean) / self.std, scale_factor=ENLARGE, mode="bilinear")
        with autocast(x.device, self.precision):
            features = self.net.encoder(x.contiguous(memory_format=torch.channels_last))
        # The decoder in fp32: on a CPU its backward pass is slower in bf16.
        logits = self.net.segmentation_head(self.net.decoder([part.float() for part in features]))  # a quarter of x
        return F.interpolate(logits, padded, mode="bilinear")[..., :height, :width]

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Index masks uint8 [H, W] of uint8 images [H, W, 3], whole, each at its own resolution."""
        self.eval()
        masks: dict[int, np.ndarray] = {}
        for shape in {image.shape for image in images}:
            same = [i for i, image in enumerate(images) if image.shape == shape]
            size = max(1, PREDICT_PIXELS // (shape[0] * shape[1] * ENLARGE**2))
            for some in (same[start : start + size] for start in range(0, len(same), size)):
                batch = torch.from_numpy(np.stack([images[i] for i in some])).to(self.mean.device)
                found = self(batch.permute(0, 3, 1, 2)).argmax(dim=1).to(torch.uint8).cpu().numpy()
                masks.update(zip(some, found, strict=True))
        return [masks[i] for i in range(len(images))]

    def to_bytes(self) -> bytes:
        """The weights that were trained, as load_segmenter reads them."""
        file = io.BytesIO()
        torch.save({k: v for k, v in self.state_dict().items() if not k.startswith("net.encoder.")}, file)
        return file.getvalue()


def load_segmenter(path: str, settings: SegmenterSettings, num_types: int, device: torch.device | str) -> Segmenter:
    """The segmenter whose to_bytes() are in the file, trained with these settings.

    Raises InputError where the file holds another network's weights, or is damaged.
    """
    segmenter = Segmenter(settings, num_types, device)
    try:
        state = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
        segmenter.load_state_dict(segmenter.state_dict() | state)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is no segmenter of these settings; remove it, and it is trained anew") from error
    return segmenter


def train_segmenter(
    pool: Pool, settings: SegmenterSettings, seed: int, device: torch.device | str = "cpu", title: str = ""
) -> Segmenter:
    """Train on the pool for settings.steps steps, with a progress bar of this title where it has one.

    The same seed gives the same segmenter on the same machine with the same number of threads. AdamW, the learning
    rate of one cycle (Smith & Topin 2019). Raises InputError as Segmenter does.
    """
    device = torch.device(device)
    num_types = len(pool.real.class_names)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key_to_seed("segmenter", seed))
        segmenter = Segmenter(settings, num_types, device)
        head = [*segmenter.net.decoder.parameters(), *segmenter.net.segmentation_head.parameters()]
        optimizer = torch.optim.AdamW(head, lr=settings.lr, weight_decay=settings.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.lr, total_steps=max(settings.steps, 2), pct_start=0.15
        )
        weights = class_weights(pool.real.masks, num_types).to(device)
        segmenter.train()
        for step in tqdm(range(settings.steps), desc=title, unit="step", leave=False, disable=not title):
            images, masks = (x.to(device) for x in pool.batch(settings.batch_size, step, seed))
            loss = segmentation_loss(segmenter(images), masks, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return segmenter


def class_weights(masks: Sequence[np.ndarray], num_types: int) -> Tensor:
    """float32 [num_types + 1]: 1 for background, for a type sqrt(background's pixels / its own) in the masks.

    A type that they do not hold weighs as much as the rarest that they do.
    """
    pixels = sum(np.bincount(mask.ravel(), minlength=num_types + 1) for mask in masks).astype(np.float64)
    pixels[pixels == 0] = pixels[pixels > 0].min()
    return torch.from_numpy(np.sqrt(pixels[0] / pixels)).float()


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy + (1 - Dice), of logits [N, K + 1, H, W], index masks [N, H, W] and weights [K + 1].

    Dice (Milletari et al. 2016, it does not forget types of few pixels) is 2 sum(p y) / (sum(p) + sum(y)) over all
    pixels of the batch, averaged over the classes it shows.
    """
    masks = masks.long()
    probability = logits.softmax(dim=1)
    truth = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    shown = truth.sum(dim=(0, 2, 3))
    dice = 2 * (probability * truth).sum(dim=(0, 2, 3)) / (probability.sum(dim=(0, 2, 3)) + shown)
    return F.cross_entropy(logits, masks, weights) + 1 - dice[shown > 0].mean()
