"""Hugging Face imagefolder: metadata.jsonl beside the images of each part, and a dataset card.

`datasets` makes a column of pictures of file_name ("image") and of mask_file_name ("mask"). It reads the types of the
other columns off the first rows and wants the same ones in all parts: no column may be null throughout one.
"""

from __future__ import annotations

import json
from collections import Counter
from functools import partial

import yaml

from .contents import image, palette_mask
from .records import Export, Record
from .writing import Files, IndexFiles

_FOLDERS = {"train": "train", "val": "validation"}  # as `datasets` knows parts by their folders
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_SETTINGS = (
    "sampler",
    "num_steps",
    "spacing",
    "step_inference",
    "handoff",
    "seed",
    "image_size",
    "weights",
    "precision",
)


def files(export: Export, record: Record) -> Files:
    folder = _FOLDERS[record.part]
    return {f"{folder}/{record.name}.png": image, f"{folder}/masks/{record.name}.png": palette_mask}


def index_files(export: Export) -> IndexFiles:
    rows = {f"{_FOLDERS[part]}/metadata.jsonl": partial(_metadata, records) for part, records in export.parts.items()}
    return {**rows, "README.md": partial(_card, export)}


def _metadata(records: list[Record]) -> bytes:
    rows = [
        {
            "file_name": f"{record.name}.png",
            "mask_file_name": f"masks/{record.name}.png",
            "types": list(record.types),
            "source": record.source,
            "seed": "" if record.seed is None else str(record.seed),
        }
        for record in records
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _card(export: Export) -> bytes:
    total = len(export.records)
    head = {
        "license": "unknown",
        "task_categories": ["image-segmentation"],
        "tags": ["synthetic"] * _any_generated(export) + ["defects", "industrial-inspection"],
        "size_categories": [next((name for limit, name in _SIZES if total < limit), "1M<n<10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": _FOLDERS[part], "path": f"{_FOLDERS[part]}/**"} for part in export.parts],
            }
        ],
    }
    body = [_introduction(export), _columns(export), _types(export)]
    body += [_generation(export)] if _any_generated(export) else []
    return "\n".join(["---", yaml.safe_dump(head, sort_keys=False) + "---\n", "\n\n".join(body), ""]).encode()


def _introduction(export: Export) -> str:
    count = Counter(record.source for record in export.records)
    lines = ["# Images of defects with masks", ""]
    if count["generated"]:
        lines.append(
            f"{count['generated']:,} of these images are **synthetic**: generated together with their masks by "
            "Defect-Gen, a pair of diffusion models. They show no real object."
        )
    if count["real"]:
        lines.append(f"{count['real']:,} are real images.")
    lines.append("The column `source` says which is which. The licence is for the publisher to fill in.")
    return "\n".join(lines)


def _columns(export: Export) -> str:
    return "\n".join(
        [
            "## Columns",
            "",
            "- `image`: RGB or grey",
            "- `mask`: one channel; " + ", ".join(["0 background", *(f"{k} {n}" for n, k in export.label_map.items())]),
            "- `types`: names of the types in the mask",
            "- `source`: `generated` or `real`; the names of generated images start with `gen_`",
            "- `seed`: of the generation, as text; empty where there is none",
        ]
    )


def _types(export: Export) -> str:
    lines = [
        "## Images by type",
        "",
        "| type | generated | real, train | real, validation |",
        "| --- | --- | --- | --- |",
    ]
    for name in export.class_names:
        count = Counter(record.origin for record in export.records if name in record.types)
        lines.append(f"| {name} | {count['gen']:,} | {count['real']:,} | {count['val']:,} |")
    return "\n".join(lines)


def _any_generated(export: Export) -> bool:
    return any(record.origin == "gen" for record in export.records)


def _generation(export: Export) -> str:
    lines = ["## How the synthetic images were made", ""]
    if not export.settings:
        return "\n".join([*lines, "Not recorded: they had no manifest."])
    lines += [
        "Two networks, one after the other, denoise the image and its mask together: the first sees the whole image,",
        "the second only patches of it (the method of Defect Spectrum, ECCV 2024).",
        "",
    ]
    shown = {key: export.settings[key] for key in _SETTINGS if key in export.settings}
    lines += [f"- {key}: {json.dumps(value)}" for key, value in shown.items()]
    for network, digest in (export.settings.get("checkpoints") or {}).items():
        if digest:
            lines.append(f"- SHA-256 of the {network} network's checkpoint: `{digest}`")
    return "\n".join(lines)
