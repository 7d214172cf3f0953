"""Formats in which others read labelled images: what scripts/export_data.py writes."""

from . import coco, defect_spectrum, huggingface, mmseg, mvtec, yolo
from .writing import Format

FORMATS = {
    "coco": Format(coco.files, coco.index_files),
    "yolo": Format(yolo.files, yolo.index_files, yolo.notes),
    "mmseg": Format(mmseg.files, mmseg.index_files, mmseg.notes),
    "mvtec": Format(mvtec.files, notes=mvtec.notes, takes_good=True),
    "hf": Format(huggingface.files, huggingface.index_files),
    "defect_spectrum": Format(defect_spectrum.files, defect_spectrum.index_files, has_parts=False),
}
