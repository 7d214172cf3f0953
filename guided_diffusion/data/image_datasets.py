"""Pixels of a prepared set: images and index masks, held in memory once, batched with crops and flips.

Reading needs no type names: an index mask holds 0 for background and 1..num_defect for the types.
"""

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import blobfile as bf
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from .. import dist_util
from ..errors import InputError
from ..keyed_random import numpy_generator
from ..parallel import check_memory
from ..precision import to_device
from .image_files import View, resize_image, resize_mask
from .prepared import FirstShots, find_good, find_samples, match_types, read_label_map, read_pair, renumbered
from .records import read_records

SMALLER = "lower data.resolution or data.crop_from, or train on fewer images"
FEW, MOST_SEEN = 64, 256  # windows that tell which types occur together, at least; images, at most
Flip = Literal["none", "horizontal", "vertical", "both"]


@dataclass
class DefectDataset:
    """Images uint8 [3, H, W] and their index masks uint8 [H, W], all on one device, with their names. All are of the
    view's size; where it shows windows, of their own size, at least that, or of `crop_from`."""

    images: list[Tensor]
    masks: list[Tensor]
    names: list[str]
    view: View
    num_good: int = 0  # so many, the last ones, are the set's defect-free images
    left_out: int = 0  # so many images with a defect num_image_train leaves out
    scale: tuple[float, ...] = ()  # median pixels of a photograph to one of its image here, down and across
    note: str = ""  # how its types were matched, where they are not numbered alike
    _places: dict[tuple[int, int | None], np.ndarray] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        root: str,
        types: int | Sequence[str],
        view: View,
        *,
        num_image_train: int | None = None,
        include_good: bool = False,
    ) -> "DefectDataset":
        """Read the prepared set at `root`. types: their number, or their names: those of the set are matched by name.

        num_image_train: see FirstShots. include_good: the defect-free images too, after the others. Raises
        InputError for whatever is wrong with the set, an image or a mask, and where all do not fit into memory."""
        samples, names, note = find_samples(root), () if isinstance(types, int) else types, ""
        if names:
            numbers, note = match_types(read_label_map(root), names, root)
            samples = renumbered(samples, numbers)
        found, shown, held = len(samples), defaultdict[str, set[int]](set), 0
        shots = FirstShots(num_image_train) if num_image_train is not None else None
        if shots:  # what folders tell need not be read
            samples = [sample for sample in samples if sample.folder is None or shots.takes(sample.folder, ())]
        dataset, scales = cls([], [], [], view, note=note), []
        records = read_records(root).get("images", [])
        prepared = {bf.join(root, record["image"]): record["scale"] for record in records if "scale" in record}
        if include_good:
            samples += (good := find_good(root))
            dataset.num_good = len(good)
            if not good:
                raise InputError(f"data.include_good: {root} holds no defect-free images; add some, or turn it off")
        for sample in tqdm(samples, desc="reading images", unit="image", disable=dist_util.rank() > 0 or None):
            image, mask = read_pair(sample, len(names) or types)
            kinds = np.unique(mask[mask > 0]).tolist()
            unsorted = sample.folder is None and sample.mask is not None  # its mask alone tells its types
            if shots and unsorted and not shots.takes(None, kinds):
                continue
            if sample.folder in names:
                shown[sample.folder].update(kinds)
            size = view.size_of(mask.shape)
            held += 4 * prod(size)
            most = held if shots else max(held, 4 * prod(view.whole_size) * len(samples))
            check_memory(most, f"{root}: all of it, held in memory,", SMALLER)
            before = prepared.get(sample.image, (1, 1))
            scales.append([side * factor / to for side, factor, to in zip(mask.shape, before, size, strict=True)])
            if size != mask.shape:
                image, mask = resize_image(image, size), resize_mask(mask, size)
            dataset.images.append(torch.from_numpy(image).permute(2, 0, 1).contiguous())
            dataset.masks.append(torch.from_numpy(mask))
            dataset.names.append(sample.name)
        for folder, kinds in shown.items():
            if kinds and (index := names.index(folder) + 1) not in kinds:
                text = f"no mask of its folder {folder} holds {index}, its number in the label map, but {kinds}"
                raise InputError(f"{root}: {text}; correct either")
        if not any(mask.any() for mask in dataset.masks):
            raise InputError(f"{root}: all index masks are empty, so there is nothing to learn; check them")
        dataset.scale = tuple(np.round(np.median(scales, axis=0), 4).tolist())
        dataset.left_out = found + dataset.num_good - len(dataset)
        return dataset

    def __len__(self) -> int:
        return len(self.images)

    def types_seen(self, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """The types that images with a defect, or windows of them, show together. Shuffled, every image equally often,
        but of many some."""
        count = len(self) - self.num_good
        rng = numpy_generator("types seen")
        rounds = max(1, FEW // count) if self.view.windows else 1
        drawn = np.concatenate([rng.permutation(count) for _ in range(rounds)])[:MOST_SEEN]
        shown = (mask[mask > 0].unique().tolist() for mask in self.batch(drawn, rng)[1])
        return tuple(tuple(class_names[kind - 1] for kind in kinds) for kinds in shown)

    def draw_by_type(
        self, rates: Sequence[float], batch_size: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Samples and the type that each was drawn for (0: as defect-free), both int64 [batch_size]. rates: of being
        drawn as defect-free, or for type 1, 2, ...; relative. Raises InputError where no image shows what is drawn."""
        kinds = [kind for kind in self._having if rates[kind]]
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
        self, indices: np.ndarray, rng: np.random.Generator, flip: Flip = "none", kinds: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images uint8 [B, 3, h, w] and masks uint8 [B, h, w] of the samples `indices`; (h, w) is the view's size.

        Crops and flips come from `rng`, other ones for each sample, the same for its image and mask. kinds: the type
        that each crop with a defect is placed around; None: any."""
        images = [self.images[index] for index in indices]
        masks = [self.masks[index] for index in indices]
        if self.view.windows:
            for i, (index, mask) in enumerate(zip(indices, masks, strict=True)):
                wanted = self._marked(index, None if kinds is None else kinds[i]) if self.view.crop_defect else ()
                window = place_window(mask.shape, wanted, self.view.size, self.view.crop_defect, rng)
                images[i], masks[i] = images[i][:, window[0], window[1]], mask[window]
        image_batch, mask_batch = torch.stack(images), torch.stack(masks)
        for axis in {"none": (), "horizontal": (-1,), "vertical": (-2,), "both": (-1, -2)}[flip]:
            chosen = to_device(torch.from_numpy(rng.integers(0, 2, len(masks)).astype(bool)), mask_batch.device)
            image_batch = torch.where(chosen[:, None, None, None], image_batch.flip(axis), image_batch)
            mask_batch = torch.where(chosen[:, None, None], mask_batch.flip(axis), mask_batch)
        return image_batch, mask_batch

    def _marked(self, index: int, kind: int | None) -> np.ndarray:
        """Numbers of the pixels of an image that show a type, or if none does, or of None, any defect: int32 [n]. Kept
        on the host, which would else wait for a GPU to find them."""
        if (index, kind) not in self._places:
            mask = self.masks[index].cpu().numpy()
            found = np.flatnonzero(mask if kind is None else mask == kind).astype(np.int32)
            self._places[index, kind] = found if kind is None or len(found) else self._marked(index, None)
        return self._places[index, kind]


def place_window(
    shape: Sequence[int], marked: np.ndarray, size: Sequence[int], share: float, rng: np.random.Generator
) -> tuple[slice, slice]:
    """A window of `size` in an image of `shape`: a `share` lies around a `marked` pixel, numbered row after row."""
    ranges = [[0, side - window] for side, window in zip(shape, size, strict=True)]
    if share and rng.random() < share and len(marked):
        place = divmod(int(marked[rng.integers(len(marked))]), shape[1])
        for i, (at, window) in enumerate(zip(place, size, strict=True)):
            ranges[i] = [max(0, at - window + 1), min(ranges[i][1], at)]
    starts = [int(rng.integers(low, high + 1)) for low, high in ranges]
    return tuple(slice(start, start + side) for start, side in zip(starts, size, strict=True))


def epoch_indices(num_samples: int, batch_size: int, step: int, rank: int, world_size: int, seed: int) -> np.ndarray:
    """Which samples this rank sees at this step, int64 [batch_size]; a function of its arguments alone. All ranks
    together walk through one permutation of the samples after another: within an epoch no sample occurs twice."""
    positions = (step * world_size + rank) * batch_size + np.arange(batch_size)
    epochs, places = np.divmod(positions, num_samples)
    walk = zip(epochs.tolist(), places.tolist(), strict=True)
    return np.array([_permutation(num_samples, seed, epoch)[place] for epoch, place in walk], np.int64)


@functools.lru_cache(maxsize=8)
def _permutation(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    return numpy_generator("order", seed, epoch).permutation(num_samples)
