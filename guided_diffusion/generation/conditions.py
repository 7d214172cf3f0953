"""What samples are held to: types, masks and photographs, checked, and read from folders for the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..data.files import list_folder, stem_of
from ..data.image_files import open_image, read_index_mask, resize_image, to_rgb
from ..diffusion.conditioning import Known, far_from_defects, tell_types
from ..errors import InputError, unknown_name
from ..joint_tensor import MASK, RGB, JointLayout
from .mask_bank import MaskBank
from .settings import Settings

BALANCED, NO_DEFECT = "balanced", "none"  # of defects, beside the types' names
ASPECT_TOLERANCE = 0.01  # of width / height


def parse_defects(defects: Sequence[str], class_names: Sequence[str]) -> tuple[frozenset[int], ...]:
    """Which types samples are to show, as sets of type indices: sample i the i-th, modulo their number.

    An entry is "crack", "crack,hole" (both), "none", or "balanced", which stands for one type after the other. Raises
    InputError.
    """
    asked: list[frozenset[int]] = []
    for entry in defects:
        names = [name.strip() for name in entry.split(",")]
        if names == [BALANCED]:
            asked += [frozenset({k}) for k in range(1, len(class_names) + 1)]
            continue
        names = [] if names == [NO_DEFECT] else names
        for name in names:
            if name not in class_names:
                raise InputError(unknown_name("type in `defects`", name, [*class_names, BALANCED, NO_DEFECT]))
        asked.append(frozenset(class_names.index(name) + 1 for name in names))
    if not asked:
        raise InputError("`defects`: names no type; give some, or leave it out")
    return tuple(asked)


class Held:
    """What DefectGen.generate was given, checked: sample i is held to entry i modulo their number.

    Masks uint8 [M, H, W], perhaps with backgrounds uint8 [M, H, W, 3]; or the settings' defects; or nothing. settings:
    complete ones. Raises InputError.
    """

    def __init__(
        self,
        layout: JointLayout,
        device: torch.device,
        settings: Settings,
        masks: np.ndarray | None = None,
        backgrounds: np.ndarray | None = None,
    ) -> None:
        self.layout, self.device, self.margin = layout, device, settings.margin
        self.masks, self.backgrounds = masks, backgrounds
        self.types: Sequence[frozenset[int]] = (frozenset({0}),)  # column 0 of what is told: nothing
        if masks is None:
            if backgrounds is not None:
                raise InputError("`backgrounds`: need masks that say where the defects go; give `masks` too")
            if settings.defects is not None:
                self.types = parse_defects(settings.defects, layout.class_names)
            elif settings.guidance_scale != 1:
                raise InputError(
                    f"`guidance_scale` {settings.guidance_scale:g}: without `defects` or `masks` there is nothing to "
                    "guide to; give one of them, or leave it out"
                )
            return
        if settings.defects is not None:
            raise InputError("`defects`: the masks tell the types already; give one of the two")
        shape = (max(1, len(masks)), *settings.image_size)
        for name, array, expected in (("masks", masks, shape), ("backgrounds", backgrounds, (*shape, 3))):
            if array is not None and (array.dtype != np.uint8 or array.shape != expected):
                raise InputError(f"`{name}`: {array.dtype} {list(array.shape)}, expected uint8 {list(expected)}")
        if masks.max() > layout.num_defect:
            raise InputError(f"`masks`: hold type {masks.max()}, but the networks know {layout.num_defect}")

    def known(self, indices: Sequence[int]) -> Known | None:
        """The parts of x_start that are given of N samples: masks, and photographs further than the margin from a
        defect, so that it grows into them."""
        if self.masks is None:
            return None
        rows = np.asarray(indices) % len(self.masks)
        index = torch.from_numpy(self.masks[rows]).to(self.device)  # [N, H, W]
        rgb = np.zeros((*index.shape, 3), np.uint8) if self.backgrounds is None else self.backgrounds[rows]
        values = self.layout.encode(torch.from_numpy(rgb).to(self.device).permute(0, 3, 1, 2), index)  # [N, C, H, W]
        where = torch.zeros_like(values, dtype=torch.bool)
        where[:, MASK] = True
        if self.backgrounds is not None:
            where[:, RGB] = far_from_defects(index, self.margin)
        return Known(values, where)

    def told(self, indices: Sequence[int], place: Sequence[int], size: Sequence[int]) -> Tensor:
        """What a network with class_cond is told of N samples, float32 [N, 1 + num_defect] as JointLayout.types_in: of
        a window of `size` = (height, width) at `place` = (top, left), what the masks show there."""
        if self.masks is None:
            return tell_types(self.types, indices, self.layout, self.device)
        rows = np.asarray(indices) % len(self.masks)
        window = self.masks[rows, place[0] : place[0] + size[0], place[1] : place[1] + size[1]]
        return self.layout.types_in(torch.from_numpy(np.ascontiguousarray(window))).to(self.device)


@dataclass(frozen=True)
class Conditions:
    """What the command line holds samples to: masks and backgrounds for DefectGen.generate and, for the manifest, the
    names of files or types that belong to each row, and about: what decides all of it."""

    masks: np.ndarray | None = None
    backgrounds: np.ndarray | None = None
    names: Sequence[dict[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def find_conditions(
    config: Config,
    settings: Settings,
    *,
    masks: str | None = None,
    background: str | None = None,
    bank_data: str | None = None,
    types_per_image: int = 1,
    defects: Sequence[str] | None = None,
    seed: int = 0,
    num_samples: int = 0,
) -> Conditions:
    """Read masks (a folder of index masks, or "bank": num_samples new ones like those of the data set bank_data) and
    the photographs of the folder `background`, for samples of the networks of `config`.

    Files are taken in natural order. Photographs of the same names as the masks belong to them; others are gone through
    in turn. defects: which types samples show, or the masks of a bank. Raises InputError naming what cannot be used.
    """
    class_names, size = config.layout.class_names, settings.image_size
    types = parse_defects(defects, class_names) if defects else ()
    if masks != "bank" and (bank_data or types_per_image != 1):
        raise InputError(f"`{'bank_data' if bank_data else 'types_per_image'}`: goes with `masks` bank only")
    if not masks:
        if background:
            raise InputError("`background`: needs `masks`, which say where the defects go")
        return Conditions(names=[{"types": [class_names[k - 1] for k in sorted(own)]} for own in types])
    if masks == "bank":
        if not 1 <= types_per_image <= len(class_names):
            raise InputError(f"`types_per_image` {types_per_image}: must be from 1 to {len(class_names)}")
        if types and types_per_image != 1:
            raise InputError("`types_per_image`: `defects` says which types an image has; give one of the two")
        bank, files = MaskBank.from_training_set(bank_data, config), []
        if size[0] < bank.size[0] or size[1] < bank.size[1]:
            raise InputError(
                f"`masks` bank: makes masks of the training's {bank.size[0]} x {bank.size[1]} or larger, but "
                f"`image_size` is {size[0]} x {size[1]}; leave that out"
            )
        own = [types[index % len(types)] if types else None for index in range(num_samples)]
        held = np.stack([bank.draw(size, seed, index, types_per_image, each) for index, each in enumerate(own)])
        names: list[dict[str, Any]] = [{} for _ in held]
        sha256 = hashlib.sha256(b"".join(np.packbits(layers) for layers in bank.layers.values())).hexdigest()
        shown = [sorted(each) for each in types] or types_per_image
        about: dict[str, Any] = {"masks": "bank", "sha256": sha256, "types_per_image": shown}
    else:
        files = _files(masks, "masks")
        read = [read_index_mask(path, len(class_names)) for path in files]
        for path, mask in zip(files, read, strict=True):
            if mask.shape != tuple(size):
                raise InputError(
                    f"`masks` {path}: is {mask.shape[0]} x {mask.shape[1]} (height x width), but samples are "
                    f"{size[0]} x {size[1]}; bring it to that size without blending labels (scripts/prepare_data.py)"
                )
        held = np.stack(read)
        names = [{"mask": bf.basename(path)} for path in files]
        about = {"masks": len(held), "sha256": hashlib.sha256(held.tobytes()).hexdigest()}
    if background is None:
        return Conditions(held, None, names, about)

    photographs, pictures = read_photographs(background, size)
    places = {stem_of(path): place for place, path in enumerate(pictures)}
    stems = [stem_of(path) for path in files]
    if stems and set(stems) <= set(places):
        pairs = list(enumerate(places[stem] for stem in stems))
    else:
        count = max(len(held), len(pictures)) if files else len(held)
        pairs = [(i % len(held), i % len(pictures)) for i in range(count)]
    rows, chosen = map(list, zip(*pairs, strict=True))
    names = [{**names[row], "background": bf.basename(pictures[place])} for row, place in pairs]
    sha256 = hashlib.sha256(photographs.tobytes()).hexdigest()
    about = {**about, "backgrounds_sha256": sha256, "margin": settings.margin}
    return Conditions(held[rows], photographs[chosen], names, about)


def read_photographs(folder: str, size: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """Those of the folder `background`, brought to `size` = (height, width): uint8 [B, H, W, 3]; and their files.

    Raises InputError.
    """
    files, images = _files(folder, "background"), []
    for path in files:
        image = to_rgb(open_image(path), path)
        height, width = image.shape[:2]
        if abs(width / height / (size[1] / size[0]) - 1) > ASPECT_TOLERANCE:
            raise InputError(
                f"`background` {path}: is {height} x {width} (height x width), of other proportions than the samples' "
                f"{size[0]} x {size[1]}; cut it, or give an `image_size` of its proportions"
            )
        images.append(image if (height, width) == tuple(size) else resize_image(image, size))
    return np.stack(images), files


def _files(folder: str, parameter: str) -> list[str]:
    if not bf.isdir(folder):
        raise InputError(f"`{parameter}` {folder}: is not a folder; name one that holds image files")
    files = list_folder(folder)[0]
    if not files:
        raise InputError(f"`{parameter}` {folder}: holds no image files; name the folder that they lie in")
    return [bf.join(folder, name) for name in files]
