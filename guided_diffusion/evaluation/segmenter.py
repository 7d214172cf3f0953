"""The judge of what images are worth: a small DeepLabV3+ (Chen et al. 2018) with a pretrained encoder.

segmentation_models_pytorch builds it. It is the same network, with the same number of optimiser steps, whatever it is
trained on. Defects of 2-5 px would not outlive an output stride of 4, so images are enlarged by `enlarge` inside,
and logits brought back to the images' own resolution. The dilation rates of the pyramid are made for the size of the
training windows: with the usual 12, 24, 36 nearly all taps would see padding while training, and be random after.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..file_io import read_bytes
from ..keyed_random import key_to_seed
from ..precision import autocast
from .augmentation import Pool
from .features import load_extractor
from .torchvision_import import import_torchvision

PACKAGED_ENCODER = "tf_efficientnet_lite0"  # its weights are those of the extractor efficientnet_lite0
STRIDE = 16  # of the encoder's output
PREDICT_PIXELS = 1 << 20  # enlarged pixels in one batch of predict()


@dataclass(frozen=True)
class SegmenterSettings:
    """What decides a segmenter besides its pool and seed; see docs/evidence.md for how the defaults were chosen."""

    encoder: str = PACKAGED_ENCODER  # timm's name
    depth: int = 4  # stages of the encoder: 4 ends at its stride 16, 5 adds the last, dilated ones
    enlarge: int = 2
    channels: int = 96  # of the decoder
    dilation: tuple[int, int, int] = (2, 4, 6)  # of the pyramid, in cells of 16 enlarged pixels
    dropout: float = 0.1  # after the pyramid
    steps: int = 600
    batch_size: int = 8
    lr: float = 3e-3  # peak, of the decoder
    encoder_lr: float = 0.0  # the encoder's, of that; 0 keeps it as it was pretrained
    weight_decay: float = 1e-2
    precision: str = "fp32"  # of the encoder, or bf16


class Segmenter:
    """A trained segmenter. provenance: its encoder and the hash of the weights that this started from."""

    def __init__(self, network: nn.Module, num_types: int, device: torch.device, provenance: dict[str, str]) -> None:
        self._network, self.num_types, self._device = network, num_types, device
        self.provenance = provenance

    @classmethod
    def build(cls, settings: SegmenterSettings, num_types: int, device: torch.device) -> Segmenter:
        """One with its pretrained encoder that is not trained yet. Raises InputError as train_segmenter does."""
        network, provenance = _build(settings, num_types, device)
        return cls(network, num_types, device, provenance)

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Index masks uint8 [H, W] of uint8 images [H, W, 3], whole, each at its own resolution."""
        self._network.eval()
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        masks: list[np.ndarray] = [np.empty(0)] * len(images)
        for (height, width, _), where in by_shape.items():
            size = max(1, PREDICT_PIXELS // (height * width * self._network.enlarge**2))
            for start in range(0, len(where), size):
                some = where[start : start + size]
                batch = torch.from_numpy(np.stack([images[i] for i in some])).to(self._device).permute(0, 3, 1, 2)
                for i, mask in zip(some, self._network(batch).argmax(dim=1).to(torch.uint8).cpu(), strict=True):
                    masks[i] = mask.numpy()
        return masks

    def to_bytes(self) -> bytes:
        """The weights, as load_segmenter reads them; without those that stayed as they were pretrained."""
        frozen = {name for name, value in self._network.named_parameters() if not value.requires_grad}
        state = self._network.state_dict()
        file = io.BytesIO()
        torch.save({name: value for name, value in state.items() if name not in frozen}, file)
        return file.getvalue()


def load_segmenter(path: str, settings: SegmenterSettings, num_types: int, device: torch.device | str) -> Segmenter:
    """The segmenter whose to_bytes() are in the file, trained with these settings.

    Raises InputError where the file holds another network's weights, or is damaged.
    """
    segmenter = Segmenter.build(settings, num_types, torch.device(device))
    try:
        state = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
        segmenter._network.load_state_dict(segmenter._network.state_dict() | state)
    except (RuntimeError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise InputError(f"{path}: is no segmenter of these settings; remove it, and it is trained anew") from error
    return segmenter


def train_segmenter(
    pool: Pool,
    settings: SegmenterSettings,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[range], Iterable[int]] = lambda steps: steps,
) -> Segmenter:
    """Train on the pool for settings.steps steps; `progress` wraps the steps, such as tqdm.

    The same seed gives the same segmenter on the same machine with the same number of threads. AdamW, the learning
    rate of one cycle (Smith & Topin 2019); cross-entropy plus soft Dice over the batch (Milletari et al. 2016), which
    does not forget types of few pixels. Raises InputError where the encoder is not known or cannot be had.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key_to_seed("segmenter", seed))
        network, provenance = _build(settings, pool.num_types, device)
        network.net.encoder.requires_grad_(settings.encoder_lr > 0)
        encoder = list(network.net.encoder.parameters())
        head = [*network.net.decoder.parameters(), *network.net.segmentation_head.parameters()]
        optimizer = torch.optim.AdamW(
            [{"params": encoder}, {"params": head}], lr=settings.lr, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            [settings.lr * settings.encoder_lr, settings.lr],
            total_steps=max(settings.steps, 2),
            pct_start=0.15,
        )
        weights = class_weights(pool.real.masks, pool.num_types).to(device)
        network.train()
        for step in progress(range(settings.steps)):
            images, masks = (x.to(device) for x in pool.batch(settings.batch_size, step, seed))
            loss = segmentation_loss(network(images), masks, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return Segmenter(network, pool.num_types, device, provenance)


def faster_precision(device: torch.device) -> str:
    """bf16 where the device multiplies in it, else fp32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


def class_weights(masks: Sequence[np.ndarray], num_types: int) -> Tensor:
    """float32 [num_types + 1]: 1 for background, for a type sqrt(background's pixels / its own) in the masks.

    A type that they do not hold weighs as much as the rarest that they do.
    """
    pixels = sum(np.bincount(mask.ravel(), minlength=num_types + 1) for mask in masks).astype(np.float64)
    pixels[pixels == 0] = pixels[pixels > 0].min()
    return torch.from_numpy(np.sqrt(pixels[0] / pixels)).float()


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy + (1 - Dice), of logits [N, K + 1, H, W], index masks [N, H, W] and weights [K + 1].

    Dice is 2 sum(p y) / (sum(p) + sum(y)) over all pixels of the batch, averaged over the classes it shows.
    """
    masks = masks.long()
    probability = logits.softmax(dim=1)
    truth = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    shown = truth.sum(dim=(0, 2, 3))
    dice = 2 * (probability * truth).sum(dim=(0, 2, 3)) / (probability.sum(dim=(0, 2, 3)) + shown)
    return F.cross_entropy(logits, masks, weights) + 1 - dice[shown > 0].mean()


class _Network(nn.Module):
    """uint8 images [N, 3, H, W] -> logits [N, K + 1, H, W], of any size."""

    def __init__(
        self, net: nn.Module, enlarge: int, precision: str, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.net, self.enlarge, self.precision = net, enlarge, precision
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    def train(self, mode: bool = True) -> _Network:
        """The encoder's batch normalisation keeps the statistics of its pretraining: batches here are too small."""
        super().train(mode)
        self.net.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        cell = STRIDE // math.gcd(STRIDE, self.enlarge)  # so that the enlarged sides are whole strides
        x = F.pad(images.float(), (0, -width % cell, 0, -height % cell), mode="replicate")
        padded = x.shape[-2:]
        x = F.interpolate((x / 255 - self.mean) / self.std, scale_factor=self.enlarge, mode="bilinear")
        with autocast(x.device, self.precision):
            features = self.net.encoder(x.contiguous(memory_format=torch.channels_last))
        # The decoder in fp32: on a CPU its backward pass is slower in bf16.
        logits = self.net.segmentation_head(self.net.decoder([part.float() for part in features]))  # a quarter of x
        return F.interpolate(logits, padded, mode="bilinear")[..., :height, :width]


def _build(settings: SegmenterSettings, num_types: int, device: torch.device) -> tuple[_Network, dict[str, str]]:
    """The network with its pretrained encoder, and where that comes from."""
    try:
        import_torchvision()
        import segmentation_models_pytorch as smp
        import timm
    except ImportError as error:
        raise InputError(f"lift: {error}; pip install -r requirements-eval.txt") from error
    packaged = settings.encoder == PACKAGED_ENCODER
    if not timm.is_model(settings.encoder):
        raise InputError(f"--encoder {settings.encoder}: timm knows no such model; see timm.list_models()")
    try:
        net = smp.DeepLabV3Plus(
            f"tu-{settings.encoder}",
            encoder_depth=settings.depth,
            encoder_weights=None if packaged else "imagenet",
            encoder_output_stride=STRIDE,
            decoder_channels=settings.channels,
            decoder_atrous_rates=settings.dilation,
            decoder_aspp_dropout=settings.dropout,
            classes=num_types + 1,
            upsampling=1,
        )
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"--encoder {settings.encoder}: cannot be had ({error}); it needs pretrained weights from timm, features "
            "at strides 4 and 16, and for a first download a network connection"
        ) from error
    if packaged:
        extractor = load_extractor("efficientnet_lite0")
        state = extractor.network.state_dict()
        net.encoder.model.load_state_dict({name: state[name] for name in net.encoder.model.state_dict()})
        mean, std, sha256 = extractor.mean, extractor.std, extractor.sha256
    else:
        known = timm.get_pretrained_cfg(settings.encoder)
        mean, std, digest = known.mean, known.std, hashlib.sha256()
        for tensor in net.encoder.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        sha256 = digest.hexdigest()
    provenance = {"encoder": settings.encoder, "weights_sha256": sha256}
    network = (
        _Network(net, settings.enlarge, settings.precision, mean, std).to(device).to(memory_format=torch.channels_last)
    )
    return network, provenance
