"""Made-up samples and results of evaluate.py quality, lift and sweep for the tests of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from guided_diffusion.data.index_masks import present_types
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.prepare.layouts import write_released

EVIL = "<img src=x onerror=alert(1)>"
TYPES = ("crack", "hole", EVIL)
SIZE = 24


def draw(count: int, key: int, num_types: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, size, size, 3] and masks [N, size, size]: a box of one type, the first mask empty."""
    rng = np.random.default_rng(key)
    images = rng.integers(60, 140, (count, 1, 1, 3)) + rng.integers(0, 12, (count, size, size, 3))
    masks = np.zeros((count, size, size), np.uint8)
    for k in range(1, count):
        top, left, height, width = rng.integers(1, size // 2, 4)
        masks[k, top : top + height, left : left + width] = 1 + k % num_types
    images[masks > 0] += 80
    return images.astype(np.uint8), masks


def write_samples(folder: Path, count: int, windows_of: int | None = None) -> None:
    """Samples of SIZE; windows_of: of a generator that saw windows of images of this size."""
    images, masks = draw(count, 0, len(TYPES))
    crops = {"crops": {"crop_from": [windows_of, windows_of], "crop_defect": 0.5}} if windows_of else {}
    samples = SampleFolder(str(folder), TYPES, {"seed": 0, "image_size": [SIZE, SIZE], **crops})
    samples.add(range(count), images, masks)


def write_train(folder: Path, count: int = 6, size: int = SIZE) -> None:
    images, masks = draw(count, 1, len(TYPES), size)
    masks[0, :2, :2] = 1
    names = [f"some/{k:03d}" for k in range(count)]
    label_map = {name: k for k, name in enumerate(TYPES, start=1)}
    write_released(str(folder), names, zip(images, masks, strict=True), label_map, {})


def figure(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def fidelity(level: float) -> dict[str, Any]:
    counts = {"samples": 20, "real": 30, "real_groups": 9}
    keys = ("kid", "fid", "precision", "recall", "density", "coverage", "diversity")
    return {"counts": counts, "cluster_diversity": None, **{key: figure(level + k / 100) for k, key in enumerate(keys)}}


def quality_result(samples: Path, train: Path, types: Sequence[str] = TYPES) -> dict[str, Any]:
    """A quality.json by H1's schema, with made-up figures."""
    few = {"counts": {"samples": 2, "real": 3, "real_groups": 2}, "too_few": "2 samples"}

    def everywhere(level: float) -> dict[str, Any]:
        per_type = {name: fidelity(level) for name in types[:-1]} | {types[-1]: few}
        return {
            "overall": fidelity(level),
            "per_type": per_type,
            "inside_masks": {"overall": fidelity(level), "per_type": per_type},
        }

    of_type = {
        "share": {"samples": figure(0.3), "real": figure(0.25)},
        "regions": {"samples": figure(1.5), "real": figure(1.2), "wasserstein": figure(0.3)},
        "area": {"samples": figure(0.02, 0.01), "real": figure(0.05, 0.02), "shift": figure(-1.2), "wasserstein": None},
    }
    return {
        "command": "quality",
        "settings": {"real": "held_out", "train": str(train), "samples": str(samples), "seed": 0, "level": 0.95},
        "class_names": list(types),
        "provenance": {"extractor": "efficientnet_lite0", "weights_sha256": "ab" * 32, "samples": {}},
        "counts": {"samples": 20, "real_images": 30, "real_groups": 9},
        **everywhere(0.4),
        "reference": {"real": everywhere(0.0), "train": everywhere(0.1)},
        "labels": {
            "empty": {"samples": figure(0.05), "real": figure(0.0, 0.0)},
            "trained": list(types),
            "missing": [],
            "missing_in_real": [],
            "per_type": dict.fromkeys(types, of_type),
        },
        "memorization": {
            "copies": figure(0.05),
            "duplicates": figure(0.1),
            "reused_patches": {"share": figure(0.3), "expected": 0.01, "limit": 0.1, "side": 8},
            "thresholds": {
                "copy": {"value": 0.123, "false_alarms": figure(0.01, 0.01), "planted_found": {"flipped": 0.96}},
                "duplicate": {"value": 0.2, "false_alarms": None},
            },
        },
        "agreement": {
            "mean": figure(0.61),
            "per_type": dict.fromkeys(types, figure(0.6)),
            "reference": {"mean": figure(0.73), "per_type": dict.fromkeys(types, figure(0.7))},
        },
        "notes": ["made-up figures"],
    }


def scores(
    folder: Path, types: Sequence[str] = TYPES, top: int = 0, left: int = 0, num_train: int = 6
) -> list[dict[str, Any]]:
    """Rows of samples.jsonl for these samples: areas as they are, the rest made up."""
    rows = []
    for k, path in enumerate(sorted((folder / "masks_converted_dir").iterdir())):
        mask = np.asarray(Image.open(path))
        counts = present_types(mask, types)
        rows.append(
            {
                "name": path.stem,
                "index": k,
                "image": f"images/{path.name}",
                "index_mask": f"masks_converted_dir/{path.name}",
                "types": {
                    name: {"pixels": n, "share": n / mask.size, "regions": 1, "largest": n}
                    for name, n in counts.items()
                },
                "empty": not counts,
                "speck": False,
                "clipped": 0.01,
                "nearest_train": {
                    "name": f"some/{k % num_train:03d}",
                    "distance": 0.1 + 0.01 * (k % 50),
                    "feature_distance": 0.2 + 0.01 * (k % 7),
                    "copy": k == 3,
                    "flip": ("none", "h", "v", "hv")[k % 4],
                    "top": top,
                    "left": left,
                },
                "nearest_sample": {"name": f"{(k + 1) % 10:06d}", "distance": 0.3, "duplicate": k == 4},
                "agreement": None if k == 0 else (k % 10) / 10,
            }
        )
    return rows


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sweep_result() -> dict[str, Any]:
    """A sweep.json by H5's schema, with made-up figures."""
    points = [
        {
            "name": f"s{at}_seed0",
            "folder": f"cells/s{at}_seed0",
            "at": at,
            "label": f"S = {at}",
            "values": {"kid": figure(0.03 - at / 50_000, 0.004), "diversity": figure(0.4 - at / 8000, 0.01)},
            "types": ["crack"],
            "beaten": {},
        }
        for at in (0, 50, 200, 400)
    ]
    return {
        "command": "sweep",
        "kind": "steps",
        "axis": "step_inference",
        "settings": {"num_samples": 64, "seed": 0},
        "measures": [
            {"key": "kid", "title": "KID x 1000", "scale": 1000, "digits": 1, "better": "lower"},
            {"key": "diversity", "title": "diversity", "scale": 1, "digits": 3, "better": "higher"},
        ],
        "points": points,
        "notes": ["made-up figures"],
        "recommendation": {"name": "s200_seed0", "at": 200, "sentence": "Take S = 200 & look.", "rule": "made up"},
    }


def lift_result() -> dict[str, Any]:
    """A lift.json by H3's schema, with made-up figures, in per cent."""
    arms = {}
    for name, kind, ratio, gain in (
        ("real", "real", None, None),
        ("plain", "plain", None, -4.2),
        ("repeat_x1", "repeat", 1.0, 0.3),
        ("copy_paste_x1", "copy_paste", 1.0, 2.1),
        ("synthetic_x1", "synthetic", 1.0, 4.9),
        ("synthetic_x2", "synthetic", 2.0, 5.4),
        ("synthetic_n100", "synthetic", None, 5.1),
    ):
        difference = None if gain is None else {"miou": figure(gain, 2.2)}
        to_paste = {"arm": "copy_paste_x1", "miou": figure(2.8, 3)} if kind == "synthetic" else None
        arms[name] = {
            "kind": kind,
            "ratio": ratio,
            "extra": round(25 * (ratio or 0)) or (100 if name.endswith("n100") else 0),
            "samples": "synthetic" if kind == "synthetic" else None,
            "miou": figure(31.4 + (gain or 0), 3),
            "f1": figure(44 + (gain or 0), 4),
            "image_recall": figure(88, 5),
            "false_positive_rate": {"value": None, "interval": None},
            "difference_to_real": difference,
            "difference_to_copy_paste": to_paste,
            "per_type": {type_: {"iou": figure(30 + k, 5)} for k, type_ in enumerate(TYPES)},
        }
    return {
        "settings": {"seeds": 5, "steps": 300},
        "counts": {"train": 25, "train_good": 55, "val": 64, "val_groups": 14, "seeds": 5},
        "arms": arms,
        "verdict": {
            "arm": "synthetic_x1",
            "sentence": "Made up: +4.9 mIoU, 95% interval 2.7 to 7.1, at ratio 1.",
            "shown": "lift",
            "difference": figure(4.9, 2.2),
            "copy_paste": figure(2.8, 3),
        },
        "notes": ["made-up lift"],
    }
