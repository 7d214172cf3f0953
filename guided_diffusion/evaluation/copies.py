"""The nearest training image of a sample, whatever its flip, place, brightness and contrast.

Pixel distance: 1 - r, r the normalised cross-correlation (Pearson's correlation of pixels, Lewis 1995, "Fast Normalized
Cross-Correlation") of two band-passed grey images, the largest over the four flips and all places. Brightness and
contrast cancel out of r, tint out of grey. 0 is the same picture, 1 an unrelated one.

Why band-passed: coarse illumination is shared by images that have nothing else in common. Between different magnetic
tiles (61 held-out photographs, or windows of 64 px in 128 px, against 25 training images) 13 to 16% of the raw r exceed
0.9 and some 0.95. The finest grain on the other hand changes with little noise, which any copy may have. A difference
of Gaussians of 1/64 and 1/16 of the window's shorter side was the best of those tried: it leaves no overlap between
copies (flipped, shifted, brightened, with noise of 5 grey levels) and images of other tiles. Only pixels that the
filter knows in full are compared, which leaves out 1/8 at every edge, so that the edge of a window, of which the
training image knows more, does not tell. Windows of 128 px and more are reduced to 64 px or a little over before.

Feature distance: 1 - cosine of an extractor's features, the least over windows of the training images, half a window
apart, and the flips. On the same photographs it finds exact and flipped copies, but a shift of 3 px or a little noise
moves an image further than another tile is away. So a near-copy is one by pixels; features are reported beside it.

Copies that are turned by 3 degrees or enlarged by 5% are found by pixels, too; by 5 degrees or 10% not all, and more or
another deformation was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from .features import Extractor

FLIPS = {"none": (), "h": (-1,), "v": (-2,), "hv": (-1, -2)}  # name -> axes of [..., H, W]
MAX_SHIFT = 4  # pixels that a sample may hang over the border of a training image
COMPARED_SIDE = 64  # pixels: windows of twice that and more are reduced to it
LEAST_STD = 0.1  # grey levels: what varies less is rounding, and like nothing
BATCH_PIXELS = 1 << 21  # of correlation at a time
SHOW_PROGRESS_ABOVE = 20_000  # pairs
SHOW_FEATURES_ABOVE = 200  # windows


@dataclass(frozen=True)
class Match:
    """What a sample is like: the window at (top, left) of training image number `train`, flipped.

    flip: none, h (left-right), v (up-down) or hv. top, left: pixels, below 0 where the window hangs over.
    """

    train: int
    flip: str
    top: int
    left: int
    distance: float


@dataclass(frozen=True)
class Placements:
    """The best placement of each of N windows in each of M images: arrays [N, M]; flip counts through FLIPS."""

    distance: np.ndarray  # float32
    flip: np.ndarray
    top: np.ndarray
    left: np.ndarray

    def nearest(self) -> list[Match]:
        """The best match of each window."""
        names = list(FLIPS)
        best = self.distance.argmin(axis=1)
        return [
            Match(int(m), names[self.flip[n, m]], int(self.top[n, m]), int(self.left[n, m]), float(self.distance[n, m]))
            for n, m in enumerate(best)
        ]


@dataclass(frozen=True)
class Band:
    """The band of a window size that is compared: reduced `factor` times, then radius and sigmas in reduced pixels."""

    factor: int
    radius: int
    fine: float
    coarse: float

    @classmethod
    def of(cls, height: int, width: int) -> Band:
        factor = max(1, min(height, width) // COMPARED_SIDE)
        side = min(height, width) / factor
        return cls(factor, max(1, round(side / 8)), side / 64, side / 16)

    def __call__(self, images: np.ndarray, device: torch.device, flip: str = "none") -> Tensor:
        """float32 [N, H / factor - 2 radius, W / factor - 2 radius] of uint8 images [N, H, W, 3], flipped first."""
        some = 1 + BATCH_PIXELS // math.prod(images.shape[1:])
        return torch.cat([self._apply(images[i : i + some], device, flip) for i in range(0, len(images), some)])

    def _apply(self, images: np.ndarray, device: torch.device, flip: str) -> Tensor:
        grey = torch.from_numpy(np.ascontiguousarray(images)).to(device).float() @ torch.tensor(
            [0.299, 0.587, 0.114], device=device
        )
        x = F.avg_pool2d(grey.flip(FLIPS[flip])[:, None], self.factor)
        taps = torch.arange(-self.radius, self.radius + 1, device=device)
        blurred = []
        for sigma in (self.fine, self.coarse):
            kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
            kernel = kernel / kernel.sum()
            blurred.append(F.conv2d(F.conv2d(x, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1)))
        return (blurred[0] - blurred[1])[:, 0]


def nearest_whole(
    samples: np.ndarray, train: Sequence[np.ndarray], max_shift: int = MAX_SHIFT, device: torch.device | str = "cpu"
) -> list[Match]:
    """The nearest training image by pixels, for each of the samples uint8 [N, H, W, 3].

    train: uint8 [H', W', 3] each, no smaller than samples. 500 samples of 64 px against 25 images of 128 px take
    6 s of one core's time.
    """
    return place(samples, train, max_shift, device).nearest()


def place(
    samples: np.ndarray, train: Sequence[np.ndarray], max_shift: int = MAX_SHIFT, device: torch.device | str = "cpu"
) -> Placements:
    """Place each sample in each training image; arguments as of nearest_whole."""
    band, flipped, shift = _prepare(samples, max_shift, device)
    images = [band(image[None], flipped.device)[0] for image in train]
    distance, flip, row, column = correlate(flipped, images, shift)
    return Placements(distance, flip, (row - shift) * band.factor, (column - shift) * band.factor)


def distances_among(images: np.ndarray, device: torch.device | str = "cpu") -> np.ndarray:
    """Pixel distances float32 [N, N] between images uint8 [N, H, W, 3] of one size; inf on the diagonal.

    The work grows with the square of N: 500 images of 64 px take 12 s of one core's time, 5,000 some 20 minutes.
    """
    _, flipped, shift = _prepare(images, MAX_SHIFT, device)
    half = correlate(flipped, list(flipped[:, 0]), shift, above_diagonal=True)[0]
    return np.minimum(half, half.T)


def _prepare(images: np.ndarray, max_shift: int, device: torch.device | str) -> tuple[Band, Tensor, int]:
    """The band of these images, their flips in it, and max_shift in its pixels."""
    band = Band.of(*images.shape[1:3])
    flipped = torch.stack([band(images, torch.device(device), flip) for flip in FLIPS], dim=1)
    return band, flipped, math.ceil(max_shift / band.factor)


def correlate(
    windows: Tensor, images: Sequence[Tensor], shift: int, *, above_diagonal: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The best of 1 - r over variants and places: arrays [N, M] of it, and of variant, row and column where it lies.

    windows: float32 [N, K, h, w], of which K variants are tried; images: float32 [H, W] each. Rows and columns count
    places from `shift` pixels before the image. Of a window that hangs over, the part on the image counts.
    above_diagonal: image m is only looked for in the windows before it; the other distances are inf.
    """
    height, width = windows.shape[-2:]
    if any(image.shape[0] < height or image.shape[1] < width for image in images):
        raise ValueError(f"an image is smaller than the windows of {height} x {width}")
    found = [np.full((len(windows), len(images)), fill) for fill in (np.float32(np.inf), 0, 0, 0)]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for m, image in enumerate(images):
        by_shape.setdefault(tuple(image.shape), []).append(m)
    pairs = len(windows) * len(images)
    with tqdm(total=pairs, desc="placing", unit="pair", leave=False, disable=pairs <= SHOW_PROGRESS_ABOVE) as bar:
        for shape, members in by_shape.items():
            grid = _Grid(shape, (height, width), shift, windows.device)
            targets = {m: grid.target(images[m]) for m in members}
            size = max(1, BATCH_PIXELS // (windows.shape[1] * grid.pixels))
            for start in range(0, len(windows), size):
                batch = slice(start, start + size)
                template = grid.template(windows[batch])
                for m, target in targets.items():
                    if above_diagonal and m <= start:
                        continue
                    r = grid.correlation(template, target)  # [n, K, P, Q]
                    best, at = r.flatten(1).max(dim=1)
                    where = np.unravel_index(at.cpu().numpy(), r.shape[1:])
                    for array, values in zip(found, (1 - best.cpu().numpy(), *where), strict=True):
                        array[batch, m] = values
                    bar.update(len(best))
    if above_diagonal:
        found[0][np.tril_indices(len(windows))] = np.inf
    return tuple(found)


class _Grid:
    """All places of windows in images of one shape, P rows and Q columns of them, and the correlations there by FFT."""

    def __init__(self, image: tuple[int, ...], window: tuple[int, int], shift: int, device: torch.device) -> None:
        self._shift = shift
        self._size = [_fast_length(side + 2 * shift) for side in image]
        self.pixels = self._size[0] * self._size[1]
        sides = list(zip(image, window, strict=True))
        starts = [torch.arange(i - w + 2 * shift + 1, device=device) - shift for i, w in sides]
        # Of each place, the part of the window that lies on the image: from row and column, to row and column.
        low = [(-start).clamp(min=0) for start in starts]
        high = [(i - start).clamp(max=w) for start, (i, w) in zip(starts, sides, strict=True)]
        self._in_window = low, high
        self._in_image = [[start + side for start, side in zip(starts, sides, strict=True)] for sides in (low, high)]
        rows, columns = (to - from_ for from_, to in zip(low, high, strict=True))
        self._count = (rows[:, None] * columns).double()  # [P, Q] pixels

    def template(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of windows [n, K, h, w]: their spectrum, and the moments [n, K, P, Q] of their parts on the image."""
        spectrum = torch.fft.rfft2(windows, s=self._size).conj()
        return spectrum, *self._moments(windows, *self._in_window)

    def target(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of an image [H, W]: its spectrum, and the moments [P, Q] of what lies under the window."""
        spectrum = torch.fft.rfft2(F.pad(image, [self._shift] * 4), s=self._size)
        return spectrum, *self._moments(image, *self._in_image)

    def correlation(self, template: tuple[Tensor, ...], target: tuple[Tensor, ...]) -> Tensor:
        """r float32 [n, K, P, Q]; 0 where either side is flat."""
        (spectrum, mean, scale), (of_image, image_mean, image_scale) = template, target
        rows, columns = self._count.shape
        products = torch.fft.irfft2(spectrum * of_image, s=self._size)[..., :rows, :columns]
        return ((products - mean * image_mean) * scale * image_scale).clamp(-1, 1)

    def _moments(self, x: Tensor, low: Sequence[Tensor], high: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Sum / sqrt(count) and 1 / sqrt(sum of squared deviations), or 0, of boxes in x [..., H, W]."""

        def boxes(values: Tensor) -> Tensor:
            total = F.pad(values.double().cumsum(-1).cumsum(-2), (1, 0, 1, 0))  # integral image
            top, bottom = low[0][:, None], high[0][:, None]
            rows = total[..., bottom, high[1]] - total[..., top, high[1]]
            return rows - total[..., bottom, low[1]] + total[..., top, low[1]]

        mean = boxes(x) / self._count.sqrt()
        deviation = boxes(x * x) - mean**2
        scale = torch.where(deviation > LEAST_STD**2 * self._count, deviation, torch.inf).rsqrt()
        return mean.float(), scale.float()


def _fast_length(least: int) -> int:
    """The next length without prime factors over 5, for the FFT."""
    length = least
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


@dataclass(frozen=True)
class TrainFeatures:
    """Unit features float32 [W, D] of windows of training images and of their flips, and the image of each, [W]."""

    features: np.ndarray
    image: np.ndarray

    @classmethod
    def of(cls, train: Sequence[np.ndarray], size: tuple[int, int], extractor: Extractor) -> TrainFeatures:
        """Of windows of `size` (H, W), half a window apart, in images uint8 [H', W', 3]."""
        cut = [(m, window) for m, image in enumerate(train) for window in _windows(image, size)]
        windows = np.stack([window for _, window in cut])
        turned = np.concatenate([np.flip(windows, [axis - 1 for axis in axes]) for axes in FLIPS.values()])
        quiet = len(turned) <= SHOW_FEATURES_ABOVE

        def progress(starts: range) -> tqdm:
            return tqdm(starts, desc="features of training images", unit="batch", leave=False, disable=quiet)

        return cls(_unit(extractor(turned, progress=progress)), np.tile([m for m, _ in cut], len(FLIPS)))

    def distances(self, features: np.ndarray) -> np.ndarray:
        """Feature distances float32 [N, M] of samples with features [N, D] to the training images."""
        cosine = _unit(features) @ self.features.T
        return np.stack([1 - cosine[:, self.image == m].max(axis=1) for m in range(self.image.max() + 1)], axis=1)


def window_of(image: np.ndarray, match: Match, size: tuple[int, int]) -> np.ndarray:
    """What a sample of `size` (H, W) is like, uint8 [H, W, 3]: part of a training image, its edges repeated."""
    rows, columns = (
        np.clip(np.arange(start, start + side), 0, limit - 1)
        for start, side, limit in zip((match.top, match.left), size, image.shape[:2], strict=True)
    )
    return np.flip(image[rows[:, None], columns], [axis - 1 for axis in FLIPS[match.flip]])


def _windows(image: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Windows of `size` that cover an image, at most half of one apart."""
    starts = [
        np.linspace(0, whole - part, 1 + math.ceil(2 * (whole - part) / part)).round().astype(int)
        for whole, part in zip(image.shape[:2], size, strict=True)
    ]
    return [image[top : top + size[0], left : left + size[1]] for top in starts[0] for left in starts[1]]


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)
