"""The layout of MVTec AD, read by anomalib: defect-free images to train on, defects to test on, one 0/255 mask each.

anomalib pairs images and masks by their place in sorted lists, which only works where no name is the beginning of
another. Hence numbers of one width.
"""

from __future__ import annotations

from .contents import binary_mask, image
from .records import Export, Record, safe_names
from .writing import Files

GOOD = "good"
SEVERAL = "combined"  # as MVTec AD calls the folder of images with several types


def files(export: Export, record: Record) -> Files:
    """{} for an image without a defect that nobody calls defect-free: a generated one, or one in a type's folder."""
    name = f"{record.origin}_{record.number:06d}"
    if record.sample.mask is None:
        part = "test" if record.part == "val" else "train"
        return {f"{export.object_name}/{part}/{GOOD}/{name}.png": image}
    if not record.types:
        return {}
    folder = _folder(export, record)
    return {
        f"{export.object_name}/test/{folder}/{name}.png": image,
        f"{export.object_name}/ground_truth/{folder}/{name}_mask.png": binary_mask,
    }


def notes(export: Export) -> list[str]:
    lines = []
    if not any(record.sample.mask is None and record.origin == "real" for record in export.records):
        lines.append(f"train/{GOOD} is missing: only --real can give defect-free images, and it gave none")
    empty = sum(record.sample.mask is not None and not record.types for record in export.records)
    if empty:
        lines.append(f"left out: {empty} images with an empty mask, which are not known to be {GOOD}")
    return lines


def _folder(export: Export, record: Record) -> str:
    if len(record.types) > 1:
        return SEVERAL
    # `good` first, so that a type of that name gets another folder.
    folders = dict(zip(export.class_names, safe_names([GOOD, *export.class_names])[1:], strict=True))
    return folders[next(iter(record.types))]
