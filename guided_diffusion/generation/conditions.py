"""What the command line asks of samples: types, and masks and photographs read from folders."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import blobfile as bf
import numpy as np

from ..data.image_files import open_image, resize_image, to_rgb
from ..data.index_masks import read_index_mask
from ..diffusion.conditioning import DEFAULT_MARGIN, check_guided, parse_defects
from ..errors import InputError
from ..prepare.layouts import list_folder, stem_of
from .api import DefectGen
from .mask_bank import MaskBank

ASPECT_TOLERANCE = 0.01  # of width / height


@dataclass(frozen=True)
class Conditions:
    """What each sample is held to, in turn: sample i to row i modulo their number.

    names: of types or files, by row, for the manifest. masks: uint8 [M, H, W]; None: types alone. backgrounds: uint8
    [M, H, W, 3] or None. margin: see DefectGen.generate. about: what decides masks and backgrounds, for the manifest.
    """

    names: list[dict[str, Any]]
    masks: np.ndarray | None = None
    backgrounds: np.ndarray | None = None
    margin: int = DEFAULT_MARGIN
    about: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def arguments(self) -> dict[str, Any]:
        """For DefectGen.generate, beside the settings."""
        return {"masks": self.masks, "backgrounds": self.backgrounds, "margin": self.margin}

    def settings(self) -> dict[str, Any]:
        """What a manifest says of them, so that a folder is not continued with others."""
        margin = {} if self.backgrounds is None else {"margin": self.margin}
        return {"conditions": {**self.about, **margin}} if self.about else {}


def find_conditions(args: argparse.Namespace, generator: DefectGen, settings: Mapping[str, Any]) -> Conditions | None:
    """What inference.py's --defects, --masks and --background hold the samples to, if they are given.

    settings: of DefectGen.check_settings. Raises InputError for what does not go together or cannot be used.
    """
    layout, size = generator.layout, settings["image_size"]
    if args.margin < 0:
        raise InputError(f"--margin {args.margin}: must be 0 or more")
    if args.masks != "bank" and (args.bank_data or args.types_per_image != 1):
        raise InputError(f"{'--bank_data' if args.bank_data else '--types_per_image'}: goes with --masks bank only")
    if args.background and not args.masks:
        raise InputError("--background: needs --masks, which say where the defects go")
    check_guided(settings, bool(args.masks or args.defects))
    if args.masks == "bank":
        if not 1 <= args.types_per_image <= layout.num_defect:
            raise InputError(f"--types_per_image {args.types_per_image}: must be from 1 to {layout.num_defect}")
        if args.defects and args.types_per_image != 1:
            raise InputError("--types_per_image: --defects says which types an image has; give one of the two")
        root = args.bank_data or generator.config.data.dir
        if not root:
            raise InputError("--masks bank: the checkpoint names no training set; give --bank_data")
        return bank_conditions(
            MaskBank.from_training_set(root, generator.config),
            args.background,
            args.margin,
            seed=args.seed,
            count=args.num_samples,
            types_per_image=args.types_per_image,
            types=args.defects and parse_defects(args.defects, layout.class_names),
            size=size,
        )
    if args.masks:
        if args.defects:
            raise InputError("--defects: the masks tell the types already; give one of the two")
        return read_conditions(args.masks, args.background, args.margin, layout.num_defect, size)
    if args.defects:
        asked = parse_defects(args.defects, layout.class_names)
        return Conditions([{"types": [layout.class_names[k - 1] for k in sorted(types)]} for types in asked])
    return None


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
        return Conditions(names, held, about=about)
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
    types: Sequence[Collection[int]] | None,
    size: Sequence[int],
) -> Conditions:
    """Masks 0..count-1 of a bank, and photographs of --background in turn. types: of the masks, in turn; None: so many
    as types_per_image says. Raises InputError as read_conditions."""
    if size[0] < bank.size[0] or size[1] < bank.size[1]:
        raise InputError(
            f"--masks bank: makes masks of the training's {bank.size[0]} x {bank.size[1]} or larger, but --image_size "
            f"is {size[0]} x {size[1]}; leave that out"
        )
    about: dict[str, Any] = {"masks": "bank", "sha256": bank.digest(), "types_per_image": types_per_image}
    if types is None:
        held = np.stack([bank.draw_canvas(size, seed, index, types_per_image) for index in range(count)])
    else:
        asked = [types[index % len(types)] for index in range(count)]
        held = np.stack([bank.draw_canvas(size, seed, index, types=own) for index, own in enumerate(asked)])
        about["types_per_image"] = [sorted(own) for own in types]
    names: list[dict[str, Any]] = [{} for _ in range(count)]
    if backgrounds is None:
        return Conditions(names, held, about=about)
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
        names: list[dict[str, Any]],
        about: dict[str, Any],
        chosen: Sequence[int],
    ) -> Conditions:
        """Conditions with the photograph `chosen`, modulo their number, under each mask."""
        rows = np.asarray(chosen) % len(self.files)
        names = [
            {**name, "background": bf.basename(self.files[row])} for name, row in zip(names, rows.tolist(), strict=True)
        ]
        about = {**about, "backgrounds_sha256": hashlib.sha256(self.images.tobytes()).hexdigest()}
        return Conditions(names, masks, self.images[rows], margin, about)


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
