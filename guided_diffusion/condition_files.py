"""Masks and photographs to generate on, read from folders for the command line."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np

from .errors import InputError
from .image_files import open_image, resize_image, to_rgb
from .index_masks import read_index_mask
from .layouts import list_folder, stem_of
from .mask_bank import MaskBank

ASPECT_TOLERANCE = 0.01  # of width / height


@dataclass(frozen=True)
class Conditions:
    """What each sample is held to, in turn: sample i to row i modulo their number.

    masks: uint8 [M, H, W]. backgrounds: uint8 [M, H, W, 3] or None. margin: see DefectGen.generate. names: of the
    files, by row, for the manifest. about: what decides the masks, for the manifest.
    """

    masks: np.ndarray
    backgrounds: np.ndarray | None
    margin: int
    names: list[dict[str, str]]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.masks)

    def arguments(self) -> dict[str, Any]:
        """For DefectGen.generate."""
        return {"masks": self.masks, "backgrounds": self.backgrounds, "margin": self.margin}

    def settings(self) -> dict[str, Any]:
        """What a manifest says of them, so that a folder is not continued with others."""
        margin = {} if self.backgrounds is None else {"margin": self.margin}
        return {"conditions": {**self.about, **margin}}


def read_conditions(
    masks: str, backgrounds: str | None, margin: int, num_defect: int, size: Sequence[int]
) -> Conditions:
    """Index masks of --masks and photographs of --background for samples of `size` = (height, width).

    Files are taken in natural order. Photographs of the same names as the masks belong to them; others are gone through
    in turn. Raises InputError naming the file where one cannot be used.
    """
    mask_files = _files(masks, "--masks")
    held = np.stack([_read_mask(path, num_defect, size) for path in mask_files])
    names = [{"mask": bf.basename(path)} for path in mask_files]
    about = {"masks": len(held), "sha256": hashlib.sha256(held.tobytes()).hexdigest()}
    if backgrounds is None:
        return Conditions(held, None, margin, names, about)
    photographs = Photographs.read(backgrounds, size)
    if set(map(stem_of, mask_files)) <= set(photographs.places):
        chosen = [photographs.places[stem_of(path)] for path in mask_files]
        return photographs.under(held, margin, names, about, chosen)
    count = max(len(held), len(photographs.files))
    rows = np.arange(count) % len(held)
    return photographs.under(held[rows], margin, [names[row] for row in rows], about, range(count))


def bank_conditions(
    bank: MaskBank,
    backgrounds: str | None,
    margin: int,
    *,
    seed: int,
    count: int,
    types_per_image: int,
    size: Sequence[int],
) -> Conditions:
    """Masks 0..count-1 of a bank, and photographs of --background in turn. Raises InputError as read_conditions."""
    if bank.size != tuple(size):
        raise InputError(
            f"--masks bank: makes masks of the training's {bank.size[0]} x {bank.size[1]}, but --image_size is "
            f"{size[0]} x {size[1]}; leave that out"
        )
    held = np.stack([bank.draw(seed, index, types_per_image) for index in range(count)])
    about = {"masks": "bank", "sha256": bank.digest(), "types_per_image": types_per_image}
    names: list[dict[str, str]] = [{} for _ in range(count)]
    if backgrounds is None:
        return Conditions(held, None, margin, names, about)
    return Photographs.read(backgrounds, size).under(held, margin, names, about, range(count))


@dataclass(frozen=True)
class Photographs:
    """images: uint8 [B, H, W, 3]; their files; places: by stem, which row a file is."""

    images: np.ndarray
    files: list[str]
    places: dict[str, int]

    @classmethod
    def read(cls, folder: str, size: Sequence[int]) -> Photographs:
        files = _files(folder, "--background")
        images = np.stack([_read_background(path, size) for path in files])
        return cls(images, files, {stem_of(path): place for place, path in enumerate(files)})

    def under(
        self,
        masks: np.ndarray,
        margin: int,
        names: list[dict[str, str]],
        about: dict[str, Any],
        chosen: Sequence[int],
    ) -> Conditions:
        """Conditions with the photograph `chosen`, modulo their number, under each mask."""
        rows = np.asarray(chosen) % len(self.files)
        names = [
            {**name, "background": bf.basename(self.files[row])} for name, row in zip(names, rows.tolist(), strict=True)
        ]
        about = {**about, "backgrounds_sha256": hashlib.sha256(self.images.tobytes()).hexdigest()}
        return Conditions(masks, self.images[rows], margin, names, about)


def _files(folder: str, flag: str) -> list[str]:
    if not bf.isdir(folder):
        raise InputError(f"{flag} {folder}: is not a folder; name one that holds image files")
    files = list_folder(folder)[0]
    if not files:
        raise InputError(f"{flag} {folder}: holds no image files; name the folder that they lie in")
    return [bf.join(folder, name) for name in files]


def _read_mask(path: str, num_defect: int, size: Sequence[int]) -> np.ndarray:
    mask = read_index_mask(path, num_defect)
    if mask.shape != tuple(size):
        raise InputError(
            f"--masks {path}: is {mask.shape[0]} x {mask.shape[1]} (height x width), but samples are {size[0]} x "
            f"{size[1]}; redraw it, or bring it to that size without blending labels (scripts/prepare_data.py --fit)"
        )
    return mask


def _read_background(path: str, size: Sequence[int]) -> np.ndarray:
    image = to_rgb(open_image(path), path)
    height, width = image.shape[:2]
    if abs(width / height / (size[1] / size[0]) - 1) > ASPECT_TOLERANCE:
        raise InputError(
            f"--background {path}: is {height} x {width} (height x width), of other proportions than the samples' "
            f"{size[0]} x {size[1]}; cut it, or give an --image_size of its proportions"
        )
    return image if (height, width) == tuple(size) else resize_image(image, size)
