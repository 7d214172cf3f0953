"""New masks from those of a training set: moved, turned, stretched and bent, and kept where that type occurs."""

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..config import Config
from ..data.image_datasets import DefectDataset
from ..data.image_files import View, number_regions, resize_mask, unbroken
from ..diffusion.conditioning import far_from_defects
from ..errors import InputError
from ..keyed_random import numpy_generator
from ..parallel import check_memory

VIEWS = 64  # masks kept of each type, as training sees them
LONGEST = 512  # pixels of a side of masks of whole images; larger ones are shrunk
TRIES = 12  # moves until one keeps the defect in its place, the later ones smaller
MAX_SHIFT, MAX_TURN, MAX_STRETCH, MAX_BEND = 0.15, 20.0, 1.3, 0.03  # of the side; degrees; factor; of the side
NEARBY = 1 / 16  # of the longer side: so far from where a type was seen it may still lie
KEPT_INSIDE, KEPT_AREA = 0.9, 0.5  # shares of a defect's pixels
AREAS_PER_MASK = 4  # a larger canvas gets a mask for so many areas of training


def draw_masks(
    config: Config, root: str | None, size: Sequence[int], seed: int, count: int, shown: int | Sequence[Collection[int]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """`count` index masks uint8 [count, *size] like those of the data set root, None: of the training; and, for the
    manifest, what decides them. Mask i shows shown[i], modulo their number, or `shown` types. Raises InputError."""
    num_defect = config.layout.num_defect
    if isinstance(shown, int) and not 1 <= shown <= num_defect:
        raise InputError(f"`types_per_image` {shown}: must be from 1 to {num_defect}")
    check_memory(count * math.prod(size), f"`num_samples` {count}: all masks", "give fewer")
    data, root = load_bank_data(root, config)
    bank = MaskBank.of(data, config, root)
    if size[0] < bank.size[0] or size[1] < bank.size[1]:
        fault = "makes masks of the training's {} x {} or larger, but `image_size` is {} x {}".format(*bank.size, *size)
        raise InputError(f"`masks` bank: {fault}; leave that out")
    each = [shown] if isinstance(shown, int) else [*map(sorted, shown)]
    masks = np.stack([bank.draw(size, seed, index, each[index % len(each)]) for index in range(count)])
    return masks, {"masks": "bank", "sha256": bank.sha256, "types_per_image": shown if isinstance(shown, int) else each}


def load_bank_data(root: str | None, config: Config) -> tuple[DefectDataset, str]:
    """The data set root, by default that of the training, as `config` sees it, and where it is. Raises InputError."""
    root = root or config.data.dir
    if not root:
        raise InputError("`masks` bank: the checkpoint names no training set; give `bank_data`")
    shots = config.data.num_image_train
    return DefectDataset.load(root, config.layout.class_names, View.of(config.data), num_image_train=shots), root


@dataclass(frozen=True)
class MaskBank:
    """Masks of single types as training sees them. layers: by type, bool [n, H, W]. places: by type, bool [H, W], where
    its defects may lie: near to where one was seen. mirrored: axes along which training flips. shrunk: pixels of the
    training to one of the masks, down and across."""

    layers: dict[int, np.ndarray]
    places: dict[int, np.ndarray]
    mirrored: tuple[int, ...]
    shrunk: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, data: DefectDataset, config: Config, root: str, whole: bool = False) -> "MaskBank":
        """The bank of the data set read from `root`, as the training of `config` sees it; or of its whole images where
        that sees windows, which no large defect fits into. Raises InputError."""
        rng = numpy_generator("mask bank views")
        seen = np.median([mask.shape for mask in data.masks], axis=0)  # of images that have a size of their own
        size = np.ceil(seen / max(1, seen.max() / LONGEST)).astype(int).tolist()
        mirrored = {"none": (), "horizontal": (1,), "vertical": (0,), "both": (0, 1)}[config.data.flip]
        layers, places = {}, {}
        for index, name in enumerate(config.layout.class_names, start=1):
            having = [place for place, mask in enumerate(data.masks) if (mask == index).any()]
            if not having:
                raise InputError(f"`masks` bank: no mask of {root} holds a {name}; name a data set that has all types")
            if whole:
                shapes = ((data.masks[place] == index).numpy().astype(np.uint8) for place in having)
                masks = np.stack([resize_mask(shape, size, least=0) for shape in shapes]) > 0
            else:
                masks = data.batch(np.resize(having, max(VIEWS, len(having))), rng)[1].numpy() == index
                masks = masks[masks.any(axis=(1, 2))]
            if not len(masks):
                raise InputError(f"`masks` bank: no {name} of {root} is left at the training's resolution; raise it")
            layers[index], places[index] = masks, _widened(masks.any(axis=0), mirrored)
        return cls(layers, places, mirrored, tuple(seen / size) if whole else (1.0, 1.0))

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of its masks."""
        return next(iter(self.places.values())).shape

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(np.packbits(layers) for layers in self.layers.values())).hexdigest()

    def draw(self, size: Sequence[int], seed: int, index: int, shown: int | Collection[int] = 1) -> np.ndarray:
        """Index mask uint8 number `index` of `size` = (height, width), no side below the bank's; a function of its
        arguments alone. shown: so many types, the first of which take turns; or these.

        On a larger canvas masks lie at random places, a later one over an earlier one. A defect that the border cuts
        lies at that border of the canvas, or goes on to it."""
        rng = numpy_generator("mask bank canvas", seed, index)
        canvas = np.zeros(size, np.uint8)
        count = max(1, canvas.size // (AREAS_PER_MASK * math.prod(self.size)))
        for number in range(index * count, (index + 1) * count):
            mask = self._mask(seed, number, shown)
            for type_ in np.unique(mask[mask > 0]):  # by itself, or what one border cuts would go on to the other's
                layer = mask == type_
                pads = [_pad(layer.any(axis=1 - axis), side, rng) for axis, side in enumerate(size)]
                canvas[np.pad(layer, pads, mode="edge")] = type_
        return canvas

    def _mask(self, seed: int, index: int, shown: int | Collection[int]) -> np.ndarray:
        """A mask uint8 [H, W] of the bank's own size, in which later types cover earlier ones."""
        rng = numpy_generator("mask bank", seed, index)
        if isinstance(shown, int):
            first = self.turn(seed, index)
            others = [type_ for type_ in sorted(self.layers) if type_ != first]
            chosen = [*rng.permutation(others)[: shown - 1].tolist(), first]
        else:
            chosen = rng.permutation(sorted(shown)).tolist()
        mask = np.zeros(self.size, np.uint8)
        for type_ in chosen:
            mask[self.layer(type_, rng)] = type_
        return mask

    def turn(self, seed: int, index: int) -> int:
        """The type whose turn it is: each once in a round, in another order each."""
        round_, place = divmod(index, len(self.layers))
        order = numpy_generator("mask bank types", seed, round_).permutation(len(self.layers))
        return sorted(self.layers)[int(order[place])]

    def layer(self, type_: int, rng: np.random.Generator) -> np.ndarray:
        """A defect of one type, bool [H, W], moved; as it was, if no move keeps it in its place."""
        layers = self.layers[type_]
        layer = layers[int(rng.integers(len(layers)))]
        for axis in self.mirrored:
            layer = np.flip(layer, axis) if rng.random() < 0.5 else layer
        for attempt in range(TRIES):
            moved = _moved(layer, rng, 1 - attempt / TRIES)
            pixels = moved.sum()
            if pixels >= KEPT_AREA * layer.sum() and (moved & self.places[type_]).sum() >= KEPT_INSIDE * pixels:
                return moved
        return layer


def _pad(occupied: np.ndarray, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Pixels before and after a mask along an axis of `side` pixels, given where on it the mask has defects."""
    room = side - len(occupied)
    before = int(rng.integers(room + 1))
    if occupied[0] != occupied[-1]:
        before = 0 if occupied[0] else room
    return before, room - before


def _widened(where: np.ndarray, mirrored: Sequence[int]) -> np.ndarray:
    """bool [H, W] grown by NEARBY, and mirrored as training mirrors."""
    for axis in mirrored:
        where = where | np.flip(where, axis)
    radius = max(1, round(NEARBY * max(where.shape)))
    return ~far_from_defects(torch.from_numpy(where.copy())[None], radius)[0, 0].numpy()


def _moved(layer: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """A defect bool [H, W] shifted, turned, stretched and bent at random, within the limits times `strength`.

    One that the border cuts is taken to go on beyond it."""
    height, width = layer.shape
    shift = rng.uniform(-1, 1, 2) * MAX_SHIFT * strength
    turn = math.radians(rng.uniform(-1, 1) * MAX_TURN * strength)
    stretch = np.exp(rng.uniform(-1, 1, 2) * math.log(MAX_STRETCH) * strength)
    bend = torch.from_numpy(rng.normal(0, MAX_BEND * strength, (1, 2, 4, 4)).astype(np.float32))
    places = np.argwhere(layer)
    centre = torch.tensor((places.mean(axis=0) + 0.5) / (height, width), dtype=torch.float32)  # (y, x) in [0, 1]

    # Where each pixel of the result comes from: the moves undone, about the defect's centre, in units of the side.
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    bends = F.interpolate(bend, (height, width), mode="bicubic", align_corners=True)[0]
    y = y - centre[0] - shift[0] + bends[0]
    x = x - centre[1] - shift[1] + bends[1]
    ratio = width / height
    turned_y = (math.cos(turn) * y + math.sin(turn) * x * ratio) / stretch[0] + centre[0]
    turned_x = (math.cos(turn) * x - math.sin(turn) * y / ratio) / stretch[1] + centre[1]
    grid = torch.stack([2 * turned_x - 1, 2 * turned_y - 1], dim=-1).float()[None]
    source = torch.from_numpy(np.ascontiguousarray(layer).astype(np.float32))[None, None]
    shares = F.grid_sample(source, grid, padding_mode="border", align_corners=False)[0, 0].numpy()
    return unbroken(shares, number_regions(layer)[1])
