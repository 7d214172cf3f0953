"""Made-up samples and results of evaluate.py quality, lift and compare for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guided_diffusion.data.image_files import present_types
from guided_diffusion.generation.sample_io import SampleFolder

EVIL = "<img src=x onerror=alert(1)>"
TYPES = ("crack", "hole", EVIL)
SIZE = 24


def write_samples(folder: Path, count: int) -> None:
    """Images of SIZE, each with a box of one type, the first mask empty."""
    rng = np.random.default_rng(0)
    images = rng.integers(60, 140, (count, 1, 1, 3)) + rng.integers(0, 12, (count, SIZE, SIZE, 3))
    masks = np.zeros((count, SIZE, SIZE), np.uint8)
    for k in range(1, count):
        top, left, height, width = rng.integers(1, SIZE // 2, 4)
        masks[k, top : top + height, left : left + width] = 1 + k % len(TYPES)
    images[masks > 0] += 80
    SampleFolder(str(folder), TYPES, {"seed": 0}).add(range(count), images.astype(np.uint8), masks)


def figure(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def quality_result(samples: Path) -> dict[str, Any]:
    counts = {"samples": 20, "real": 30, "real_groups": 9}

    def block(level: float) -> dict[str, Any]:
        keys = ("kid", "fid", "precision", "recall", "density", "coverage", "diversity")
        return {"counts": counts, **dict.fromkeys(keys, figure(level))}

    sides = {"samples": figure(0.3), "real": figure(0.25)}
    agreement = {"images": 20, "mean": figure(0.73), "per_type": dict.fromkeys(TYPES, figure(0.7))}
    found = {"calibrated_on": "made up", "images": 30, "groups": 9, "planted_found": {"flipped": 0.96}}
    obeyed = {"asked": 4, "present": 17, "obeyed": figure(0.375)}
    return {
        "command": "quality",
        "settings": {"real": "held_out", "samples": str(samples)},
        "class_names": list(TYPES),
        "provenance": {"extractor": "efficientnet_lite0", "weights_sha256": "0" * 64},
        "counts": {"samples": 20, "real_images": 30, "real_groups": 9},
        "overall": block(0.4),
        "per_type": {"crack": block(0.4), "hole": block(0.4), EVIL: {"counts": counts, "kid": None}},
        "reference": {"real": {"overall": block(0.0)}, "train": {"overall": block(0.1)}},
        "labels": {
            "empty": sides,
            "speck": sides,
            "missing": [],
            "per_type": dict.fromkeys(TYPES, dict.fromkeys(("share", "regions", "area"), sides)),
        },
        "memorization": {
            "copies": figure(0.05),
            "duplicates": figure(0.1),
            "thresholds": {
                "copy": {"value": 0.123, "false_alarms": figure(0.01, 0.01), **found},
                "duplicate": {"value": 0.2, "false_alarms": None},
            },
        },
        "agreement": {**agreement, "mean": figure(0.61), "reference": agreement},
        "asked": {"types": dict.fromkeys(TYPES, obeyed), "masks": None, "photographs": None},
        "notes": ["made-up figures"],
    }


def scores(folder: Path) -> list[dict[str, Any]]:
    """Rows of samples.jsonl for these samples: areas as they are, the rest made up."""
    rows = []
    for k, path in enumerate(sorted((folder / "masks_converted_dir").iterdir())):
        mask = np.asarray(Image.open(path))
        counts = present_types(mask, TYPES)
        rows.append(
            {
                "name": path.stem,
                "types": {name: {"pixels": n, "share": n / mask.size, "regions": 1} for name, n in counts.items()},
                "empty": not counts,
                "speck": False,
                "clipped": 0.01,
                "nearest_train": {"name": f"some/{k % 6:03d}", "distance": 0.1 + 0.01 * (k % 50), "copy": k == 3},
                "nearest_sample": {"name": f"{(k + 1) % 10:06d}", "distance": 0.3, "duplicate": k == 4},
                "agreement": None if k == 0 else (k % 10) / 10,
            }
        )
    return rows


def compare_result() -> dict[str, Any]:
    own = {"kid": figure(0.03), "diversity": figure(0.4), "copies": None, "agreement": None, "empty": figure(0.1)}
    cells = [
        {"name": f"s{S}", "settings": {}, **own, "difference": figure(S / 1e4), "upper_bound": 0.1, "as_good": True}
        for S in (0, 200)
    ]
    about = {"command": "compare", "class_names": list(TYPES), "reference": "s0", "margin": 0.2, "real": {}}
    return {**about, "cells": cells, "notes": ["made-up comparison"]}


def lift_result() -> dict[str, Any]:
    """In per cent."""
    arms = {}
    for name, gain in (("real", None), ("copy_paste_x1", 2.1), ("synthetic_x1", 4.9)):
        level = 31.4 + (gain or 0)
        arms[name] = {
            "extra": 25,
            **dict.fromkeys(("miou", "f1", "f1_mean", "image_recall"), figure(level, 3)),
            "false_positive_rate": {"value": None, "interval": None},
            "difference_to_real": None if gain is None else {"miou": figure(gain, 2.2)},
            "difference_to_copy_paste": {"miou": figure(2.8, 3)} if name.startswith("synthetic") else None,
            "per_type": {type_: {"iou": figure(30 + k, 5)} for k, type_ in enumerate(TYPES)},
        }
    sentence = "Made up: +4.9 mIoU, 95% interval 2.7 to 7.1, at ratio 1."
    counts = {"train": 25, "train_good": 9, "val": 64, "val_groups": 9, "val_good": 9, "samples": {}, "seeds": 5}
    return {
        "settings": {"steps": 1, "batch_size": 1},
        "provenance": {"encoder": "made up"},
        "class_names": list(TYPES),
        "counts": counts,
        "arms": arms,
        "verdict": {
            "arm": "synthetic_x1",
            "sentence": sentence,
            "difference": figure(4.9, 2.2),
            "copy_paste": figure(2.8, 3),
        },
        "notes": ["made-up lift"],
    }


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_all(samples: Path, count: int) -> Path:
    """Samples with all results in their folder; samples 0, 3 and 9 are dropped."""
    write_samples(samples, count)
    write_lines(samples / "quality" / "samples.jsonl", scores(samples))
    results = {"quality": quality_result(samples), "lift": lift_result(), "compare": compare_result()}
    for name, result in results.items():
        write_lines(samples / name / f"{name}.json", [result])
    for file in ("quality/closest_pairs.png", "lift/lift.png", "compare/compare.png"):
        Image.new("RGB", (8, 8)).save(samples / file)
    rules = {"000000": "empty", "000003": "near-copy", "000009": "near-copy"}
    dropped = [{"name": name, "rule": rule, "reason": f"{rule} of {EVIL}"} for name, rule in rules.items()]
    write_lines(samples / "curated" / "dropped.jsonl", dropped)
    kept = [{"name": f"{k:06d}"} for k in range(count) if f"{k:06d}" not in rules]
    write_lines(samples / "curated" / "kept.jsonl", kept)
    return samples
