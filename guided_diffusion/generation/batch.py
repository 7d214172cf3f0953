"""What generating returns: arrays that show themselves in a notebook and can become a sample folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..data.records import read_manifest
from ..errors import InputError
from ..file_io import as_path, encode_png, lock_folder
from ..pictures import draw_sheet, outline, row_tile
from .sample_io import SampleFolder

SHOWN = 8  # samples of a batch in a notebook


@dataclass(frozen=True)
class GeneratedImage:
    """image: uint8 [H, W, 3]; mask: uint8 [H, W], 0 background, k the type class_names[k - 1]."""

    image: np.ndarray
    mask: np.ndarray
    class_names: tuple[str, ...]

    def _repr_png_(self) -> bytes:
        """The image beside its outlines, for a notebook; small ones enlarged by a whole factor."""
        zoom = max(1, 128 // min(self.mask.shape))
        image, mask = (array.repeat(zoom, axis=0).repeat(zoom, axis=1) for array in (self.image, self.mask))
        return encode_png(np.hstack([image, outline(image, mask)]))


@dataclass(frozen=True)
class GeneratedBatch:
    """images: uint8 [N, H, W, 3]; masks: uint8 [N, H, W], 0 background, k the type class_names[k - 1].

    For the manifest of save: indices, the samples' numbers; about, what decides them besides; conditions, what each was
    held to."""

    images: np.ndarray
    masks: np.ndarray
    class_names: tuple[str, ...]
    indices: Sequence[int] | None = None  # None: the next ones that are free
    about: Mapping[str, Any] = field(default_factory=dict)
    conditions: Sequence[Mapping[str, Any] | None] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: int | slice | Sequence[int]) -> "GeneratedImage | GeneratedBatch":
        """One image with its mask; of a slice or a list of positions, a batch of those."""
        if isinstance(which, (int, np.integer)):
            return GeneratedImage(self.images[which], self.masks[which], self.class_names)
        own = {"images": self.images[which], "masks": self.masks[which]}
        for key in ("indices", "conditions"):
            if (values := getattr(self, key)) is not None and len(values):
                own[key] = [values[place] for place in np.arange(len(self))[which]]
        return replace(self, **own)

    def _repr_png_(self) -> bytes | None:
        """The first images over their outlines, for a notebook."""
        if not len(self):
            return None
        first = row_tile("", self.images[:SHOWN], self.masks[:SHOWN])
        shown = "" if len(self) <= SHOWN else f"first {SHOWN} of "
        return encode_png(np.asarray(draw_sheet(f"{shown}{len(self)} samples", [], self.class_names, [first], True)))

    def save(self, sample_dir: str) -> str:
        """Write a sample folder, or add to one of the same settings. Returns its sheet's path. Raises InputError."""
        if not len(self):
            raise InputError("`sample_dir`: the batch holds no sample to write; generate some first")
        sample_dir = as_path(sample_dir, "sample_dir")
        with lock_folder(sample_dir, "`sample_dir`"):
            folder = SampleFolder(sample_dir, self.class_names, dict(self.about))
            first = 1 + max(read_manifest(sample_dir) or {}, default=-1)
            indices = range(first, first + len(self)) if self.indices is None else self.indices
            folder.add(indices, self.images, self.masks, self.conditions)
            return folder.write_contact_sheet()
