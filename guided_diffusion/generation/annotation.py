"""Proposed masks for photographs: the image is held, masks are drawn several times, and their mean is the proposal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image
from tqdm import tqdm

from ..data.image_files import open_image, resize_image, to_rgb
from ..data.index_masks import present_types
from ..diffusion.conditioning import parse_defects
from ..errors import InputError
from ..file_io import encode_png, ensure_writable, read_bytes, read_json, write_atomic, write_json
from ..pictures import Tile, colorize, draw_sheet, fit_tile, overlay
from ..prepare.layouts import list_folder, stem_of
from .api import DefectGen

RECORD_FILE = "annotate.json"
SHEET_IMAGES = 64


def check_annotation(generator: DefectGen, draws: int, defects: Sequence[str] | None) -> None:
    """Raise InputError where a generator cannot annotate.

    Networks that were never given a photograph draw masks that do not follow it.
    """
    if draws < 1:
        raise InputError(f"--draws {draws}: must be at least 1")
    if defects and len(parse_defects(defects, generator.layout.class_names)) > 1:
        raise InputError(
            f"--defects {' '.join(defects)}: with --annotate, the types of all photographs: crack, or crack,hole"
        )
    for network in filter(None, (generator.large, generator.small)):
        if not network.config.train.known_share:
            raise InputError(
                f"--annotate: {network.path} was trained without train.known_share, so its masks would not follow the "
                "photographs; train with it (docs/control.md)"
            )


def annotate_folder(
    generator: DefectGen,
    folder: str,
    out: str,
    *,
    draws: int,
    seed: int,
    settings: dict[str, Any],
    provenance: dict[str, Any],
) -> int:
    """Propose masks for every photograph of `folder`; returns how many were new.

    Into `out` go images/<stem>.png (the photograph), masks_converted_dir/ (index masks of its size), masks/ (colours),
    confidence/ (grey: 255 where all draws agree with the proposal) and overlay/, dataset.json and contact_sheet.png;
    images and index masks are a data set that training reads, once somebody has looked through them. What is there
    already is left alone. settings: as DefectGen.check_settings returns them. provenance: all that decides the masks
    besides `draws`; a folder is not continued with another. Raises InputError.
    """
    if not bf.isdir(folder):
        raise InputError(f"--annotate {folder}: is not a folder; name one that holds photographs")
    files: dict[str, str] = {}
    for name in list_folder(folder)[0]:
        path = bf.join(folder, name)
        if (other := files.setdefault(stem_of(name), path)) != path:
            raise InputError(f"--annotate {path}: {bf.basename(other)} has the same stem; rename one of them")
    if not files:
        raise InputError(f"--annotate {folder}: holds no image files; name the folder that they lie in")
    record = {"draws": draws, **provenance}
    _check_record(out, record)
    ensure_writable(out, "--sample_dir")
    write_json(bf.join(out, RECORD_FILE), record)
    missing = [stem for stem in files if not bf.exists(bf.join(out, "masks_converted_dir", f"{stem}.png"))]
    for stem in tqdm(missing, desc="annotating", unit="photo", disable=None):
        photograph = to_rgb(open_image(files[stem]), files[stem])
        mask, confidence = annotate(generator, photograph, draws, seed, settings)
        pictures = {
            "images": photograph,
            "masks": colorize(mask),
            "confidence": np.round(255 * confidence).astype(np.uint8),
            "overlay": overlay(photograph, mask),
            "masks_converted_dir": mask,  # last: it says that the others are there
        }
        for kind, picture in pictures.items():
            write_atomic(bf.join(out, kind, f"{stem}.png"), encode_png(picture))
    label_map = {name: index for index, name in enumerate(generator.layout.class_names, start=1)}
    write_json(bf.join(out, "dataset.json"), {"label_map": label_map, "source": {"annotated": record}})
    write_atomic(bf.join(out, "contact_sheet.png"), _sheet(out, list(files), list(label_map), draws))
    return len(missing)


def annotate(
    generator: DefectGen, photograph: np.ndarray, draws: int, seed: int, settings: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Index mask uint8 [H, W] and confidence float32 [H, W] in [0, 1] of a photograph uint8 [H, W, 3].

    The photograph is stretched to the settings' image_size, and the result back. The confidence of a pixel is the
    share of the draws, as probabilities, that say what the mask says.
    """
    size = settings["image_size"]
    small = resize_image(photograph, size) if photograph.shape[:2] != tuple(size) else photograph
    shares = generator.mask_shares(small, draws, seed, settings)  # [types + 1, h, w]
    # The shares are stretched, not the labels, so that the edges of large photographs are smooth.
    height, width = photograph.shape[:2]
    full = np.stack([_stretched(share, (height, width)) for share in shares])
    mask = full.argmax(axis=0).astype(np.uint8)
    return mask, full.max(axis=0) / full.sum(axis=0)


def _stretched(share: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(share.astype(np.float32), mode="F")
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _check_record(out: str, record: dict[str, Any]) -> None:
    path = bf.join(out, RECORD_FILE)
    if bf.exists(path):
        former = read_json(path)
        former = former if isinstance(former, dict) else {}
        for key in {**record, **former}:
            if former.get(key) != record.get(key):
                raise InputError(
                    f"--sample_dir: {out!r} holds annotations made with another {key}; name another --sample_dir"
                )
    elif any(bf.isdir(bf.join(out, name)) for name in ("images", "masks_converted_dir")):
        raise InputError(f"--sample_dir: {out!r} holds images that are no annotations; name another --sample_dir")


def _sheet(out: str, stems: Sequence[str], class_names: Sequence[str], draws: int) -> bytes:
    def read(kind: str, stem: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(read_bytes(bf.join(out, kind, f"{stem}.png")))))

    tiles = []
    for stem in stems[:SHEET_IMAGES]:
        types = present_types(read("masks_converted_dir", stem), class_names)
        numbered = {k: name for k, name in enumerate(class_names, start=1) if name in types}
        tiles.append(Tile(fit_tile(read("images", stem)), fit_tile(read("overlay", stem)), stem, numbered))
    title = f"{len(stems):,} photographs with proposed masks"
    return encode_png(np.asarray(draw_sheet(title, f"mean of {draws} draws", class_names, tiles)))
