"""The segmenters that measure what images add: a small DeepLabV3+ (Chen et al. 2018) on a frozen, pretrained encoder,
and a U-Net (Ronneberger et al. 2015) from scratch, which gains more from images, as it knows none. And the scores of
segmentations, all of sums of pixel counts, so that resamples are exact.

Defects of 2-5 px do not survive an output stride of 4, so DeepLabV3+ enlarges images by ENLARGE inside, and brings
logits back. DILATION is made for the size of the training windows: with the usual 12, 24, 36 nearly all taps would see
padding while training, and be random after. On magnetic tile a frozen encoder reached 18.9 mIoU, tuned ones 3 to 19.4.

Agreement is the IoU of generated masks with what a segmenter sees that was trained on real images alone. It errs too:
its IoU with true masks of real images that it has not seen is the reference beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..data.image_datasets import epoch_indices, place_window
from ..keyed_random import key_to_seed, numpy_generator
from ..precision import autocast, resolve_precision
from .bootstrap import Resampling, mean_interval, with_interval
from .features import EXTRACTOR, import_torchvision, load_extractor
from .image_sets import ImageSet, Pair, RealSets

STRIDE = 16  # of the encoder's output
ENLARGE = 2
DILATION = (2, 4, 6)  # in cells of 16 enlarged pixels
CHANNELS = 96  # of the decoder
WIDTHS = (16, 32, 64, 128)  # of the U-Net, at strides 1, 2, 4, 8
LEARNING_RATES = {"deeplab": 3e-3, "unet": 1e-3}  # at their peak; the U-Net: 54 mIoU, 51 at 3e-3, 53 at 5e-4
WEIGHT_DECAY = 1e-2

BATCH_SIZE = 8
NUM_GOOD = 2  # of a batch are defect-free, where there are such images
DEFECT_SHARE = 0.8  # of the windows cut from images with defects hold one for certain
# Chosen on held-out images: with scale 1.5, colour 0.3, gamma 1.4, noise 0.04 and blur, cracks of 1-2 px were lost.
SCALE, ASPECT = 1.2, 1.15  # windows are enlarged and stretched by up to these factors, or their inverses
COLOUR = 0.15  # brightness, contrast and saturation are multiplied by 1 - COLOUR to 1 + COLOUR
GAMMA = 1.15  # brightness is raised to a power of up to this, or its inverse
NOISE = 0.01  # largest standard deviation, of 1 for white

BOTH, PREDICTED, TRUE = range(3)  # last axis of the counts
ANY = 0  # row of the counts: any type, against background
STEPS = 300  # of the segmenter that agreement is with
RESERVED = 5  # every fifth group of real images is left out of training, for the reference of agreement


@dataclass(frozen=True)
class Pool:
    """Images of any sizes to train on, in windows of one size."""

    real: ImageSet
    extra: ImageSet | None  # synthetic, pasted or repeated
    good: ImageSet | None  # defect-free
    size: tuple[int, int]

    def draw(self, step: int, seed: int) -> list[Pair]:
        """The whole images and masks of a batch, of its arguments alone; over time all of a kind equally often."""
        good, drawn = NUM_GOOD if self.good else 0, []
        for sets, count in (([self.good], good), ([self.real, self.extra], BATCH_SIZE - good)):
            pairs = [pair for part in sets if part for pair in zip(part.images, part.masks, strict=True)]
            drawn += [pairs[i] for i in epoch_indices(len(pairs), count, step, 0, 1, seed)]
        return drawn

    def batch(self, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Images uint8 [BATCH_SIZE, 3, h, w] and index masks uint8 [BATCH_SIZE, h, w], (h, w) = size."""
        rng = numpy_generator("augmentation", seed, step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_to_seed("augmentation", seed, step))
            windows = [self._window(image, mask, rng) for image, mask in self.draw(step, seed)]
            images, masks = map(torch.stack, zip(*windows, strict=True))
            exponent = GAMMA ** torch.empty(len(images), 1, 1, 1).uniform_(-1, 1)
            strength = torch.empty(len(images), 1, 1, 1).uniform_(0, NOISE)
            noisy = (images.float() / 255) ** exponent + strength * torch.randn(images.shape)
            return (noisy.clamp(0, 1) * 255).round().to(torch.uint8), masks

    def _window(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One window of `size` from an image [H, W, 3] and its mask [H, W]: uint8 [3, h, w] and [h, w]."""
        scale, aspect = (float(limit ** rng.uniform(-1, 1)) for limit in (SCALE, ASPECT))
        wanted = [round(self.size[0] / scale * aspect), round(self.size[1] / scale / aspect)]
        image, mask = cut_window(image, mask, wanted, rng)
        x, y = torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask)
        if tuple(y.shape) != self.size:
            # Not by torchvision, which moves masks by up to half a pixel: much for defects of a few.
            x = F.interpolate(x[None].float(), self.size, mode="bilinear", antialias=True)[0].round().to(torch.uint8)
            y = F.interpolate(y[None, None], self.size, mode="nearest-exact")[0, 0]
        import_torchvision()
        from torchvision.transforms import v2

        both = v2.RandomVerticalFlip()(v2.RandomHorizontalFlip()(torch.cat([x, y[None]])))
        return v2.ColorJitter(brightness=COLOUR, contrast=COLOUR, saturation=COLOUR)(both[:3]), both[3]


def cut_window(image: np.ndarray, mask: np.ndarray, size: Sequence[int], rng: np.random.Generator) -> Pair:
    """A window of `size` (height, width) from an image [H, W, 3] and its mask [H, W], mirrored where they are smaller:
    DEFECT_SHARE of them around a random defect pixel, if there is one, the others anywhere."""
    pad = [(m // 2, m - m // 2) for m in np.maximum(0, np.subtract(size, mask.shape))]
    image, mask = np.pad(image, [*pad, (0, 0)], mode="symmetric"), np.pad(mask, pad, mode="symmetric")
    window = place_window(mask.shape, np.flatnonzero(mask), size, DEFECT_SHARE, rng)
    return image[window], mask[window]


class Segmenter(nn.Module):
    """uint8 images [N, 3, H, W] -> logits [N, K + 1, H, W], of any size."""

    title: str
    cell: int  # pixels: sides are made whole multiples of it
    provenance: dict[str, str | None] = {"encoder": None, "weights_sha256": None}

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        x = F.pad(images.float(), (0, -width % self.cell, 0, -height % self.cell), mode="replicate")
        return self.logits((x / 255 - 0.5) / 0.5)[..., :height, :width]

    @torch.no_grad()
    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Index masks uint8 [H, W] of uint8 images [H, W, 3], whole, each at its own resolution."""
        device = next(self.eval().parameters()).device
        batches = (torch.from_numpy(image)[None].permute(0, 3, 1, 2).to(device) for image in images)
        return [self(batch).argmax(dim=1)[0].to(torch.uint8).cpu().numpy() for batch in batches]


class DeepLab(Segmenter):
    """Untrained but for its encoder, which stays as it is."""

    title, cell = "DeepLabV3+", STRIDE // ENLARGE  # so that the enlarged sides are whole strides

    def __init__(self, num_types: int, device: torch.device | str) -> None:
        super().__init__()
        import_torchvision()
        import segmentation_models_pytorch as smp

        self.net = smp.DeepLabV3Plus(
            f"tu-tf_{EXTRACTOR}",
            encoder_depth=4,  # up to its stride 16
            encoder_weights=None,
            encoder_output_stride=STRIDE,
            decoder_channels=CHANNELS,
            decoder_atrous_rates=DILATION,
            decoder_aspp_dropout=0.1,
            classes=num_types + 1,
            upsampling=1,
        )
        known = load_extractor()  # after the decoder is drawn: it draws too
        state = known.network.state_dict()
        self.net.encoder.model.load_state_dict({name: state[name] for name in self.net.encoder.model.state_dict()})
        self.net.encoder.requires_grad_(False)
        self.precision = resolve_precision("auto", torch.device(device))
        self.provenance = {"encoder": known.name, "weights_sha256": known.sha256}
        self.to(device, memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> "DeepLab":
        super().train(mode)
        self.net.encoder.eval()  # its batch normalisation keeps its statistics: batches here are too small
        return self

    def logits(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=ENLARGE, mode="bilinear")
        with autocast(x.device, self.precision):
            features = self.net.encoder(x.contiguous(memory_format=torch.channels_last))
        # The decoder in fp32: on a CPU its backward pass is slower in bf16.
        logits = self.net.segmentation_head(self.net.decoder([part.float() for part in features]))  # a quarter of x
        return F.interpolate(logits, scale_factor=4 / ENLARGE, mode="bilinear")


class UNet(Segmenter):
    """0.5 M parameters, untrained. With batch normalisation: of 24 steel images it learned 59 mIoU, with groups' 54."""

    title, cell = "U-Net", 2 ** (len(WIDTHS) - 1)

    def __init__(self, num_types: int, device: torch.device | str) -> None:
        super().__init__()

        def block(inside: int, out: int) -> nn.Sequential:
            layers = [(nn.Conv2d(n, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)) for n in (inside, out)]
            return nn.Sequential(*(part for conv, norm in layers for part in (conv, norm, nn.ReLU())))

        self.down = nn.ModuleList(map(block, (3, *WIDTHS), WIDTHS))
        self.up = nn.ModuleList(block(low + high, high) for high, low in pairwise(WIDTHS))
        self.head = nn.Conv2d(WIDTHS[0], num_types + 1, 1)
        self.to(device, memory_format=torch.channels_last)

    def logits(self, x: Tensor) -> Tensor:
        x, seen = x.contiguous(memory_format=torch.channels_last), []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if seen else x)  # [N, WIDTHS[k], H / 2^k, W / 2^k]
            seen.append(x)
        for block, skip in zip(reversed(self.up), seen[-2::-1], strict=True):
            x = block(torch.cat([F.interpolate(x, scale_factor=2), skip], dim=1))
        return self.head(x)


SEGMENTERS: dict[str, type[Segmenter]] = {"deeplab": DeepLab, "unet": UNet}


def train_segmenter(
    pool: Pool, steps: int, seed: int, device: torch.device | str = "cpu", title: str = "", kind: str = "deeplab"
) -> Segmenter:
    """Train one of SEGMENTERS on the pool for so many steps, with a progress bar of this title where it has one: AdamW,
    the learning rate of one cycle (Smith & Topin 2019). The same seed gives the same segmenter on the same CPU."""
    device, num_types = torch.device(device), len(pool.real.class_names)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key_to_seed("segmenter", seed))
        segmenter, rate = SEGMENTERS[kind](num_types, device).train(), LEARNING_RATES[kind]
        trained = [part for part in segmenter.parameters() if part.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=WEIGHT_DECAY)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, max(steps, 2), pct_start=0.15)
        weights = class_weights(pool.real.masks, num_types).to(device)
        for step in tqdm(range(steps), desc=title, unit="step", leave=False, disable=not title):
            images, masks = (x.to(device) for x in pool.batch(step, seed))
            loss = segmentation_loss(segmenter(images), masks, weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return segmenter


def class_weights(masks: Sequence[np.ndarray], num_types: int) -> Tensor:
    """float32 [num_types + 1]: 1 for background, for a type sqrt(background's pixels / its own) in the masks; a type
    that they do not hold weighs as much as the rarest that they do."""
    pixels = sum(np.bincount(mask.ravel(), minlength=num_types + 1) for mask in masks).astype(np.float64)
    pixels[pixels == 0] = pixels[pixels > 0].min()
    return torch.from_numpy(np.sqrt(pixels[0] / pixels)).float()


def segmentation_loss(logits: Tensor, masks: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy + (1 - Dice), of logits [N, K + 1, H, W], index masks [N, H, W] and weights [K + 1]. Dice
    (Milletari et al. 2016), which does not forget types of few pixels, is averaged over the classes that are shown."""
    masks, probability = masks.long(), logits.softmax(dim=1)
    truth = F.one_hot(masks, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype)
    shown = truth.sum(dim=(0, 2, 3))
    dice = 2 * (probability * truth).sum(dim=(0, 2, 3)) / (probability.sum(dim=(0, 2, 3)) + shown)
    return F.cross_entropy(logits, masks, weights) + 1 - dice.where(shown > 0, 0).sum() / (shown > 0).sum()


def count_pixels(prediction: np.ndarray, truth: np.ndarray, num_types: int) -> np.ndarray:
    """int64 [num_types + 1, 3] of two index masks [H, W]: pixels in both, predicted, true; row 0 is any type."""
    classes = num_types + 1
    pairs = np.bincount(truth.ravel().astype(np.int64) * classes + prediction.ravel(), minlength=classes**2)
    table = pairs.reshape(classes, classes)  # [truth, prediction]
    counts = np.stack([np.diagonal(table), table.sum(axis=0), table.sum(axis=1)], axis=-1)
    counts[ANY] = table[1:, 1:].sum(), table[:, 1:].sum(), table[1:].sum()
    return counts


def iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts [..., 3]; nan where truth holds no pixel."""
    both, predicted, true = np.moveaxis(counts, -1, 0)
    return _ratio(both, (predicted + true - both) * (true > 0))


@dataclass(frozen=True)
class Outcome:
    """What one trained segmenter predicts."""

    pixels: np.ndarray  # int64 [N, types + 1, 3], count_pixels of the validation images
    good: np.ndarray  # int64 [M], predicted defect pixels on defect-free ones
    min_pixels: int  # from so many predicted ones on, an image counts as defective


def calibrate(good: np.ndarray, share: float) -> int:
    """The least min_pixels that at most this share of defect-free images reaches; int [M] pixels predicted on each."""
    allowed = int(share * len(good))
    return int(np.sort(good)[::-1][allowed]) + 1


def scores(outcome: Outcome, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of one segmenter in [0, 1] under each row of weights [R, N + M], as float64 [R]; iou_types [R, types].
    Pixels are pooled over images; f1 is of defects against background. nan where nothing tells, such as for a type that
    truth does not hold; miou leaves those out."""
    pixels, good = outcome.pixels, outcome.good
    on_defects, on_good = weights[:, : len(pixels)], weights[:, len(pixels) :]
    pooled = (on_defects @ pixels.reshape(len(pixels), -1).astype(np.float64)).reshape(-1, *pixels.shape[1:])
    defect = pixels[:, ANY, TRUE] > 0
    found = pixels[:, ANY, PREDICTED] >= outcome.min_pixels
    any_type, types = iou(pooled[:, ANY]), iou(pooled[:, 1:])
    return {
        "miou": _mean_of_known(types),
        "f1": 2 * any_type / (1 + any_type),
        "image_recall": _ratio(on_defects @ (defect & found), on_defects @ defect),
        "false_positive_rate": _ratio(on_good @ (good >= outcome.min_pixels), on_good.sum(axis=1)),
        "iou_types": types,
    }


def reserve(sets: RealSets, seed: int) -> RealSets:
    """The same with images held out: where there are none, groups of the training images, none where these are few."""
    if sets.held_out is not None:
        return sets
    train, names = sets.train, list(dict.fromkeys(sets.train.groups))
    order = numpy_generator("agreement", seed).permutation(len(names))
    reserved = {names[i] for i in order[: len(names) // RESERVED]}
    held_out = train.take([i for i, group in enumerate(train.groups) if group in reserved])
    train = train.take([i for i, group in enumerate(train.groups) if group not in reserved])
    return replace(sets, train=train, held_out=held_out)


def train_agreement_segmenter(sets: RealSets, seed: int, device: torch.device | str) -> Segmenter:
    """A segmenter trained on the training images, whole, and on defect-free ones."""
    pool = Pool(sets.train, None, sets.good or None, sets.view.size)
    return train_segmenter(pool, STEPS, seed, device, "training a segmenter")


def agreement(segmenter: Segmenter, samples: ImageSet) -> tuple[np.ndarray, dict[str, Any]]:
    """float64 [N], the mean IoU over the types in mask or prediction of each sample, nan where there are none; and
    {"mean": of these, "per_type": {type: IoU of all pixels together}, "images"}."""
    names, groups = samples.class_names, samples.groups
    pairs = zip(segmenter.predict(samples.images), samples.masks, strict=True)
    counts = np.stack([count_pixels(p, t, len(names)) for p, t in pairs])
    both, predicted, true = np.moveaxis(counts[:, 1:], -1, 0)
    each = _mean_of_known(_ratio(both, predicted + true - both))
    pooled = iou(np.tensordot(Resampling.draw(groups, "agreement", least=1).weights, counts, 1))[:, 1:].T
    per_type = {k: None if np.isnan(of[0]) else with_interval(of) for k, of in zip(names, pooled, strict=True)}
    return each, {"mean": mean_interval(each, groups), "per_type": per_type, "images": len(samples)}


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole as float64; nan where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of what is not nan; nan where nothing is known."""
    known = ~np.isnan(values)
    return _ratio(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))
