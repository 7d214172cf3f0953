"""The published label maps of Defect Spectrum, whose folders do not carry them."""

from __future__ import annotations

import os
from collections.abc import Collection

COLOUR_FOLDERS = {"rgb_mask", "rbg_mask"}  # both spellings occur
TYPES = {
    "DS-DAGM": "scratch texture crush color dirty",
    "bottle": "broken_large broken_small contamination",
    "cable": "bent_wire cable_swap combined cut_inner_insulation cut_outer_insulation missing_cable missing_wire"
    " poke_insulation",
    "capsule": "crack poke faulty_imprint scratch squeeze",
    "carpet": "color cut hole metal_contamination thread",
    "grid": "bent broken glue metal_contamination thread",
    "hazelnut": "cut crack hole print",
    "leather": "color cut fold glue poke",
    "metal_nut": "scratch bent color",
    "pill": "color contamination crack faulty_imprint scratch pill_type",
    "screw": "manipulated_front scratch_head scratch_neck thread_side thread_top",
    "tile": "crack glue_strip gray_stroke oil rough",
    "toothbrush": "contamination missing messy",
    "transistor": "bent_lead cut_lead damaged_case misplaced",
    "wood": "color crack scratch hole liquid",
    "zipper": "broken_teeth fabric_border fabric_interior split_teeth squeezed_teeth",
}


def label_map_of(root: str, folders: Collection[str]) -> dict[str, int] | None:
    """The label map of the Defect Spectrum object whose folder `root` is, by its name; None for any other.

    folders: those in it. It must lie in DS-* or synthetic_*, be DS-* or hold colour masks, as Defect Spectrum does.
    """
    path = root.rstrip("/") if "://" in root else os.path.abspath(root)
    home, name = (os.path.basename(part) for part in (os.path.dirname(path), path))
    published = home.startswith(("DS-", "synthetic_")) or name.startswith("DS-") or COLOUR_FOLDERS & set(folders)
    names = TYPES.get(name) if published else None
    return {name: index for index, name in enumerate(names.split(), 1)} if names else None
