"""Where data sets' images and masks lie on disk: the one reader of dataset layouts, for training and for conversion.

`read_layout` says which layout a folder has and returns its samples; index_masks.py draws their masks.

    released          test/    converted_ground_truth/    what scripts/prepare_data.py writes
    defect_spectrum   image/   mask/
    synthetic         images/  masks_converted_dir/       generated samples
    images_masks      images/  masks/                     masks of indices, colours, or black and white
    mvtec             test/<type>/  ground_truth/<type>/  train/good/
    coco              _annotations.coco.json, annotations/*.json
    dagm              Class<k>/{Train,Test}/Label/
    labelme           a JSON file beside each image
    type_folders      <type>/ with images and binary masks
    flat              images and binary masks in one folder, the type in the name

An image and its mask are paired by name, never by position.
"""

from ...data.files import GOOD, IMAGE_SUFFIXES, is_good, list_folder, natural_key, stem_of
from ...data.prepared import write_released
from .find import (
    DATASET_FILE,
    FORMATS,
    UNFINISHED_FILE,
    check_label_map,
    find_good,
    find_samples,
    read_label_map,
    read_layout,
)
from .model import ColourMask, Dataset, IndexMask, Mask, Options, Sample, Shape, Shapes, TypeMasks

__all__ = [
    "DATASET_FILE",
    "FORMATS",
    "GOOD",
    "IMAGE_SUFFIXES",
    "UNFINISHED_FILE",
    "ColourMask",
    "Dataset",
    "IndexMask",
    "Mask",
    "Options",
    "Sample",
    "Shape",
    "Shapes",
    "TypeMasks",
    "check_label_map",
    "find_good",
    "find_samples",
    "is_good",
    "list_folder",
    "natural_key",
    "read_label_map",
    "read_layout",
    "stem_of",
    "write_released",
]
