"""What the manifest of a sample folder says that each sample was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import blobfile as bf

from ..errors import InputError, unknown_name
from ..generation.sample_io import read_manifest
from ..prepare.layouts import stem_of
from .image_sets import ImageSet


@dataclass(frozen=True)
class Asked:
    """By sample, in the order of an ImageSet; None: it was not asked for that.

    types: indices of the types to show. held: whether the mask was given. masks: files of given masks, which a bank's
    have not. backgrounds: files of the photographs. margin: pixels around a defect that were drawn anew.
    """

    types: list[frozenset[int] | None]
    held: list[bool]
    masks: list[str | None]
    backgrounds: list[str | None]
    margin: int | None

    def with_types(self) -> list[int]:
        return [i for i, types in enumerate(self.types) if types is not None]

    def with_masks(self) -> list[int]:
        return [i for i, held in enumerate(self.held) if held]

    def with_backgrounds(self) -> list[int]:
        return [i for i, background in enumerate(self.backgrounds) if background]


def read_asked(samples: ImageSet) -> Asked:
    """Raises InputError where the folder's manifest is missing, leaves a sample out, or tells of no conditions."""
    folder, path = samples.folder, bf.join(samples.folder, "manifest.jsonl")
    if not bf.exists(path):
        raise InputError(
            f"--samples {folder}: has no manifest.jsonl, which says what was asked for; name a folder that "
            "inference.py wrote"
        )
    rows = {stem_of(row["image"]): row for row in read_manifest(path)}
    if missing := [name for name in samples.names if name not in rows]:
        raise InputError(f"--samples {folder}: manifest.jsonl has no line for {missing[0]}; remove that image")
    own = [rows[name].get("condition") or {} for name in samples.names]
    settings = [rows[name]["settings"].get("conditions") or {} for name in samples.names]
    asked = Asked(
        [_types(condition, samples.class_names, path) for condition in own],
        [bool({"mask", "background"} & set(row) or of.get("masks")) for row, of in zip(own, settings, strict=True)],
        [row.get("mask") for row in own],
        [row.get("background") for row in own],
        settings[0].get("margin"),
    )
    if not (asked.with_types() or asked.with_masks()):
        raise InputError(
            f"--samples {folder}: its samples were made without conditions, neither types nor masks nor photographs; "
            "evaluate.py quality measures such samples"
        )
    return asked


def _types(condition: dict, class_names: Sequence[str], path: str) -> frozenset[int] | None:
    if "types" not in condition:
        return None
    for name in condition["types"]:
        if name not in class_names:
            raise InputError(f"{path}: {unknown_name('condition.types', name, class_names)}")
    return frozenset(class_names.index(name) + 1 for name in condition["types"])
