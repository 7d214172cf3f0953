"""Samples generated under conditions: whether they are as their manifest says they were asked to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blobfile as bf
import numpy as np
import torch

from ..data.files import stem_of
from ..diffusion.conditioning import far_from_defects
from ..errors import InputError, unknown_name
from ..generation.conditions import read_photographs
from ..generation.sample_io import read_manifest
from .bootstrap import share_interval
from .image_sets import ImageSet
from .tables import number, percent, table

MOST_NAMES = 8  # of differing samples, in the result


def measure_asked(samples: ImageSet, background: str | None) -> tuple[dict[str, Any] | None, list[int]]:
    """What quality.json holds as "asked", the agreement of given masks to be added; and which samples are of such.

    None where the folder's manifest is missing or tells of no conditions. background: folder of the photographs that
    samples were drawn into. Raises InputError where it does not hold them, or the manifest names an unknown type.
    """
    path = bf.join(samples.folder, "manifest.jsonl")
    rows = {stem_of(row["image"]): row for row in read_manifest(path)} if bf.exists(path) else {}
    own = [rows.get(name, {}).get("condition") or {} for name in samples.names]
    settings = [rows.get(name, {"settings": {}})["settings"].get("conditions") or {} for name in samples.names]

    of_types = [i for i, row in enumerate(own) if "types" in row]
    of_masks = [i for i, row in enumerate(own) if {"mask", "background"} & set(row) or settings[i].get("masks")]
    drawn = [i for i, row in enumerate(own) if "background" in row]
    if background and not drawn:
        raise InputError(f"--background: no sample of {samples.folder} was drawn into a photograph; leave it out")
    if unknown := [name for i in of_types for name in own[i]["types"] if name not in samples.class_names]:
        raise InputError(f"{path}: {unknown_name('condition.types', unknown[0], samples.class_names)}")
    asked: dict[str, Any] = dict.fromkeys(("types", "masks", "photographs"))
    if of_types:
        asked["types"] = measure_types(samples.take(of_types), [own[i]["types"] for i in of_types])
    if of_masks:
        asked["masks"] = {"samples": len(of_masks), "agreement": None}
    if drawn:
        margin, outside = settings[drawn[0]].get("margin"), None
        if background:
            images, paths = read_photographs(background, samples.masks.shape[1:])
            places = {stem_of(path): place for place, path in enumerate(paths)}
            files = [own[i]["background"] for i in drawn]
            if missing := [file for file in files if stem_of(file) not in places]:
                raise InputError(
                    f"--background {background}: has no {missing[0]}; name the folder given to inference.py"
                )
            photographs = images[[places[stem_of(file)] for file in files]]
            outside = None if margin is None else measure_outside(samples.take(drawn), photographs, margin)
        asked["photographs"] = {"samples": len(drawn), "margin": margin, "outside": outside}
    return (asked if any(asked.values()) else None), of_masks


def measure_types(samples: ImageSet, types: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Of samples asked for those types: how often each was asked for and is in the masks."""
    found = {}
    for k, name in enumerate(samples.class_names, start=1):
        present = np.array([bool((mask == k).any()) for mask in samples.masks])
        asked = [i for i, own in enumerate(types) if name in own]
        obeyed = share_interval(present[asked], [samples.groups[i] for i in asked]) if asked else None
        found[name] = {"asked": len(asked), "present": int(present.sum()), "obeyed": obeyed}
    return found


def measure_outside(samples: ImageSet, photographs: np.ndarray, margin: int) -> dict[str, Any]:
    """The largest difference of samples from their photographs [N, H, W, 3] further than `margin` px from a defect.

    {"pixels": compared ones, "largest": 0..255, "differ": number of samples, "names": of some of these}.
    """
    kept = far_from_defects(torch.from_numpy(samples.masks), margin)[:, 0].numpy()
    apart = np.abs(samples.images.astype(np.int16) - photographs).max(axis=3) * kept
    differ = [samples.names[i] for i in np.flatnonzero(apart.any(axis=(1, 2)))]
    pixels, largest = int(kept.sum()), int(apart.max())
    return {"pixels": pixels, "largest": largest, "differ": len(differ), "names": differ[:MOST_NAMES]}


def markdown(asked: dict[str, Any]) -> str:
    """The section of quality.md."""
    parts = ["\n## As asked for\n"]
    if types := asked["types"]:
        rows = [[name, own["asked"], own["present"], percent(own["obeyed"], none="-")] for name, own in types.items()]
        parts.append(table(["type", "samples asked for it", "masks that hold it", "of those asked for it, in %"], rows))
    if masks := asked["masks"]:
        iou = "not measured"
        if own := masks["agreement"]:
            iou = f"{number(own['samples'])}, of real images {number(own['real'], none='not known')}"
        parts.append(f"{masks['samples']} samples of given masks; mean IoU with the segmenter: {iou}.\n")
    if photographs := asked["photographs"]:
        text = "not compared with their photographs, which takes --background"
        if outside := photographs["outside"]:
            text = (
                f"further than {photographs['margin']} px from a defect the largest difference from the photograph is "
                f"{outside['largest']} of 255, in {outside['pixels']:,} pixels; different: "
                f"{', '.join(outside['names']) or 'none'}"
            )
        parts.append(f"{photographs['samples']} samples in photographs: {text}.\n")
    return "\n".join(parts)
