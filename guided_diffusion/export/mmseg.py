"""mmsegmentation: img_dir/ and ann_dir/ with index masks, and dataset.py to inherit from."""

from __future__ import annotations

from ..pictures import palette
from .contents import image, palette_mask
from .records import Export, Record
from .writing import Files, IndexFiles

_HEAD = '''"""A data set for mmsegmentation: name this file in `_base_` and add the rest, such as pipelines."""

dataset_type = "BaseSegDataset"
data_root = "{{{{ fileDirname }}}}"  # mmengine puts this file's folder here
METAINFO = dict(
    classes={classes},
    palette={palette},
)
'''
_PART = """
{part}_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path="img_dir/{part}", seg_map_path="ann_dir/{part}"),
        img_suffix=".png",
        seg_map_suffix=".png",
        reduce_zero_label=False,  # 0 is the background, a class of its own
        metainfo=METAINFO,
    ),
)
"""


def files(export: Export, record: Record) -> Files:
    return {
        f"img_dir/{record.part}/{record.name}.png": image,
        f"ann_dir/{record.part}/{record.name}.png": palette_mask,
    }


def index_files(export: Export) -> IndexFiles:
    classes = ("background", *export.class_names)
    text = _HEAD.format(classes=classes, palette=palette(len(export.class_names)).tolist())
    text += "".join(_PART.format(part=part) for part in export.parts)
    return {"dataset.py": text.encode}


def notes(export: Export) -> list[str]:
    return [] if "val" in export.parts else ["without --val, dataset.py has no val_dataloader"]
