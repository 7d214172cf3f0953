"""Pixels of a data set: images and index masks, read with every check, held in memory once, batched.

Reading needs no type names: an index mask holds 0 for background and 1..num_defect for the types.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..config import Config
from ..errors import InputError
from ..keyed_random import numpy_generator
from ..prepare.layouts import find_good, find_samples
from ..prepare.splits import FirstShots
from .image_files import open_image, resize_image, resize_mask, to_rgb, trained_size
from .index_masks import read_pair

Fit = Literal["resize", "random_crop"]
Flip = Literal["none", "horizontal", "vertical", "both"]
SHOW_PROGRESS_ABOVE = 200  # files


@dataclass
class DefectDataset:
    """Images uint8 [3, H, W] and their index masks uint8 [H, W], all on one device, with their names.

    With fit "resize" all are of `resolution` (H, W); with "random_crop" of their own size, at least that, or of
    `crop_from`.
    """

    images: list[Tensor]
    masks: list[Tensor]
    names: list[str]
    resolution: tuple[int, int]
    fit: Fit = "resize"
    crop_defect: float = 0.0  # share of the crops that hold a defect for certain
    num_good: int = 0  # so many, the last ones, are the set's defect-free images

    @classmethod
    def load(
        cls,
        root: str,
        num_defect: int,
        resolution: tuple[int, int],
        *,
        fit: Fit = "resize",
        crop_from: Sequence[int] = (),
        crop_defect: float = 0.0,
        num_image_train: int | None = None,
        include_good: bool = False,
        label_map: Mapping[str, int] | None = None,
        progress: bool = True,
    ) -> "DefectDataset":
        """Read the data set at `root` for `num_defect` types at `resolution` (H, W) pixels.

        fit, crop_from, crop_defect: as in config.DataConfig.
        num_image_train: take only the first so many images of each type folder; in a flat layout an image is
        taken while any type in its mask has fewer than so many. include_good: the defect-free images too, all of
        them, after the others. label_map: the indices of types that folders or annotations name, None: the data set's
        own. progress: a bar where there are many files.
        Raises InputError naming the file for whatever is wrong with the layout, an image or a mask.
        """
        samples = find_samples(root, label_map)
        shots = FirstShots(num_image_train) if num_image_train is not None else None
        if shots:  # what folders tell need not be read
            samples = [sample for sample in samples if sample.folder is None or shots.takes(sample.folder, ())]
        dataset = cls([], [], [], resolution, fit, crop_defect)
        if include_good:
            good = find_good(root)
            if not good:
                raise InputError(f"data.include_good: {root} holds no defect-free images; add some, or turn it off")
            samples = samples + good
            dataset.num_good = len(good)
        quiet = not progress or len(samples) <= SHOW_PROGRESS_ABOVE
        for sample in tqdm(samples, desc="reading images", unit="image", disable=quiet):
            image, mask = read_pair(sample, num_defect)
            unsorted = sample.folder is None and sample.mask is not None  # its mask alone tells its types
            if shots and unsorted and not shots.takes(None, np.unique(mask[mask > 0]).tolist()):
                continue
            image, mask = _fit_to(image, mask, resolution, fit, tuple(crop_from))
            dataset.images.append(torch.from_numpy(image).permute(2, 0, 1).contiguous())
            dataset.masks.append(torch.from_numpy(mask))
            dataset.names.append(sample.name)
        if not any(mask.any() for mask in dataset.masks):
            raise InputError(f"{root}: all index masks are empty, so there is nothing to learn; check them")
        return dataset

    @classmethod
    def as_trained(
        cls,
        root: str,
        config: Config,
        *,
        num_image_train: int | None = None,
        include_good: bool = False,
        progress: bool = True,
    ) -> "DefectDataset":
        """Read the data set at `root` as a training of this configuration sees it. Raises as `load`."""
        data = config.data
        return cls.load(
            root,
            config.layout.num_defect,
            data.resolution,
            fit=data.fit,
            crop_from=data.crop_from,
            crop_defect=data.crop_defect,
            num_image_train=num_image_train,
            include_good=include_good,
            label_map=data.label_map,
            progress=progress,
        )

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> "DefectDataset":
        """Move all of it to `device`; returns itself."""
        self.images = [image.to(device) for image in self.images]
        self.masks = [mask.to(device) for mask in self.masks]
        return self

    def draw_by_type(
        self, rates: Sequence[float], batch_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples and the type that each was drawn for (0: as defect-free), both int64 [batch_size].

        rates: of being drawn as defect-free, or for type 1, 2, ...; relative. What no image shows is not drawn.
        Raises InputError if that leaves nothing.
        """
        kinds = [kind for kind, images in self._having.items() if rates[kind]]
        if not kinds:
            raise InputError("data.type_rates: 0 for all that the training images show; raise one")
        weights = np.array([rates[kind] for kind in kinds], float)
        drawn = rng.choice(kinds, size=batch_size, p=weights / weights.sum())
        return np.array([rng.choice(self._having[kind]) for kind in drawn], np.int64), drawn

    @functools.cached_property
    def _having(self) -> dict[int, list[int]]:
        """The samples that show each type; 0: those without a defect."""
        having: dict[int, list[int]] = {}
        for index, mask in enumerate(self.masks):
            for kind in mask[mask > 0].unique().tolist() or [0]:
                having.setdefault(kind, []).append(index)
        return dict(sorted(having.items()))

    def batch(
        self,
        indices: np.ndarray,
        rng: np.random.Generator,
        flip: Flip = "none",
        kinds: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, h, w] and masks uint8 [B, h, w] of the samples `indices`, on their device.

        (h, w) is `resolution`. Crops and flips come from `rng` and differ from sample to sample; an image and
        its mask get the same ones. kinds: the type that each crop with a defect is placed around; None: any.
        """
        images = [self.images[index] for index in indices]
        masks = [self.masks[index] for index in indices]
        if self.fit == "random_crop":
            height, width = self.resolution
            for i, mask in enumerate(masks):
                wanted = mask if kinds is None else mask == kinds[i]
                top, left = self._place_crop(wanted if wanted.any() else mask, rng)
                images[i] = images[i][:, top : top + height, left : left + width]
                masks[i] = mask[top : top + height, left : left + width]
        image_batch, mask_batch = torch.stack(images), torch.stack(masks)
        for axis in {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}[flip]:
            chosen = torch.from_numpy(rng.integers(0, 2, len(masks)).astype(bool)).to(mask_batch.device)
            image_batch = torch.where(chosen[:, None, None, None], image_batch.flip(axis), image_batch)
            mask_batch = torch.where(chosen[:, None, None], mask_batch.flip(axis), mask_batch)
        return image_batch, mask_batch

    def _place_crop(self, mask: Tensor, rng: np.random.Generator) -> tuple[int, int]:
        """Top and left of a window in `mask` [H, W]: anywhere, or anywhere around one of the pixels that it marks."""
        ranges = [[0, side - window] for side, window in zip(mask.shape, self.resolution, strict=True)]
        if self.crop_defect and rng.random() < self.crop_defect and mask.any():
            places = mask.nonzero()
            place = places[int(rng.integers(len(places)))].tolist()
            for i, (at, window) in enumerate(zip(place, self.resolution, strict=True)):
                ranges[i] = [max(0, at - window + 1), min(ranges[i][1], at)]
        top, left = (int(rng.integers(low, high + 1)) for low, high in ranges)
        return top, left


def epoch_indices(num_samples: int, batch_size: int, step: int, rank: int, world_size: int, seed: int) -> np.ndarray:
    """Which samples this rank sees at this step, int64 [batch_size]; a function of its arguments alone.

    All ranks together walk through one permutation of the samples after another, batch by batch: within an
    epoch no sample occurs twice, on whatever rank; a data set smaller than a batch starts over within it.
    """
    positions = (step * world_size + rank) * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(positions, num_samples)
    walk = zip(epochs.tolist(), places.tolist(), strict=True)
    return np.array([_permutation(num_samples, seed, epoch)[place] for epoch, place in walk], np.int64)


@functools.lru_cache(maxsize=8)
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator("order", seed, epoch).permutation(num_samples)


def read_image(path: str, size: Sequence[int] = ()) -> np.ndarray:
    """uint8 [H, W, 3] of an image file, stretched to `size` (H, W) if given. Raises InputError as open_image does."""
    image = to_rgb(open_image(path), path)
    return resize_image(image, size) if size else image


def _fit_to(
    image: np.ndarray, mask: np.ndarray, resolution: tuple[int, int], fit: Fit, crop_from: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """A pair stretched to the size that training holds it in."""
    target = trained_size(mask.shape, resolution, fit, crop_from)
    if target == mask.shape:
        return image, mask
    return resize_image(image, target), resize_mask(mask, target)
