"""Made-up samples and results of evaluate.py quality, lift and compare for the tests of the report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evaluating import draw, write_samples
from PIL import Image

from guided_diffusion.data.image_files import present_types

EVIL = "<img src=x onerror=alert(1)>"
TYPES = ("crack", "hole", EVIL)


def figure(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


RESULTS = {  # what the page takes from them
    "quality": {
        "command": "quality",
        "class_names": list(TYPES),
        "overall": {"kid": figure(0.4), "spectrum": figure(-3, 0.5), "precision": figure(0.1), "recall": figure(0.3)},
        "reference": {
            "train": {"overall": {"kid": figure(0.1), "spectrum": figure(0.2)}},
            "real": {"overall": {"kid": figure(0.001), "precision": figure(0.8), "recall": figure(0.8)}},
        },
        "labels": {"empty": {"samples": figure(0.1), "real": figure(0.25)}},
        "memorization": {"copies": figure(0.05)},
        "agreement": {"mean": figure(0.61), "reference": {"mean": None}},
    },
    "lift": {
        "verdict": {"sentence": "Made up.", "difference": figure(4.9, 2.2), "copy_paste": figure(2.8, 3)},
        "others": [{"verdict": {"sentence": "Also made up."}}],
    },
    "compare": {"command": "compare"},
}
TEXT = f"""# Of {{name}}

- made-up {{name}}

## Per type

| measure   | crack            | {EVIL} |
|-----------|-----------------:|-------:|
| {{name}} | 12.5 [2.5, 22.5] | too few |

A **bold** {EVIL}
"""


def scores(folder: Path) -> list[dict[str, Any]]:
    """Rows of samples.jsonl for these samples: areas as they are, the rest made up."""
    rows = []
    for k, path in enumerate(sorted((folder / "masks_converted_dir").iterdir())):
        mask = np.asarray(Image.open(path))
        counts = present_types(mask, TYPES)
        types = {name: {"pixels": n, "share": n / mask.size, "regions": 1} for name, n in counts.items()}
        row = {"name": path.stem, "types": types, "empty": not counts, "speck": False, "clipped": 0.01}
        row["nearest_train"] = {"name": f"some/{k % 6:03d}", "distance": 0.1 + 0.01 * (k % 50), "copy": k == 3}
        row["nearest_sample"] = {"name": f"{(k + 1) % 10:06d}", "distance": 0.3, "duplicate": k == 4}
        rows.append({**row, "agreement": None if k == 0 else (k % 10) / 10})
    return rows


def write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_all(samples: Path, count: int) -> Path:
    """Samples with all results in their folder; samples 0, 3 and 9 are dropped."""
    images, masks = draw(count, 0, types=(1, 2, 3))
    masks[0] = 0
    write_samples(samples, images, masks, TYPES)
    write_lines(samples / "quality" / "samples.jsonl", scores(samples))
    for name, result in RESULTS.items():
        write_lines(samples / name / f"{name}.json", [result])
        (samples / name / f"{name}.md").write_text(TEXT.format(name=name))
    for file in ("quality/closest_pairs.png", "lift/lift.png", "compare/compare.png"):
        Image.new("RGB", (8, 8)).save(samples / file)
    rules = {"000000": "empty", "000003": "near-copy", "000009": "near-copy"}
    kept = [{"name": f"{k:06d}"} for k in range(count) if f"{k:06d}" not in rules]
    dropped = [{"name": name, "rule": rule, "reason": f"{rule} of {EVIL}"} for name, rule in rules.items()]
    write_lines(samples / "curated" / "kept.jsonl", kept)
    write_lines(samples / "curated" / "dropped.jsonl", dropped)
    return samples
