"""The published label maps of Defect Spectrum, whose folders do not carry them."""

from __future__ import annotations

import os

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


def label_map_of(root: str) -> dict[str, int] | None:
    """The label map of the Defect Spectrum object whose folder `root` is, by its name; None for any other."""
    names = TYPES.get(os.path.basename(os.path.abspath(root) if "://" not in root else root.rstrip("/")))
    return {name: index for index, name in enumerate(names.split(), 1)} if names else None
