"""Which samples to train on: what would hurt is dropped, with a reason, and the types are balanced to a wish.

The first rule that a sample breaks is the reason: list (a person said so; "keep" overrides all others), empty, speck
(labels.py), near-copy of a training image (copies.py), clipped, disagreement with a segmenter trained on real images,
duplicate of a kept sample that scores better, surplus. The score is the agreement, else the distance to the nearest
other sample. A segmenter misses the rare and the difficult most: so that these stay, a sample is held against what
held-out real images with true masks get, by type.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..errors import InputError
from ..file_io import read_bytes, read_json, write_atomic
from ..generation.sample_io import WRITERS, SampleFolder
from .image_sets import ImageSet
from .sample_scores import Scores

CLIPPED = 0.05  # share of pixels; of held-out windows of magnetic tiles 2 in 256 exceed it, of whole tiles 0 in 64
LEAST_AGREEING = 0.05  # share of real images
LEAST_IMAGES = 8  # real images of a type that a limit of agreement needs


@dataclass(frozen=True)
class Curated:
    """Rows {"name", "score"} of kept samples, and {"name", "rule", "reason", "score", "limit"} of dropped ones.

    Both are in the order of the samples. A dropped one's score is what its rule measured, on the wrong side of limit;
    both are None where the rule measures nothing. wanting: by how many samples a type falls short of the wish.
    """

    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    wanting: dict[str, int]


def curate(
    scores: Scores,
    *,
    min_agreement: float | Mapping[str, float] | None = None,
    per_type: int | None = None,
    keep: Collection[str] = (),
    drop: Collection[str] = (),
) -> Curated:
    """Choose among scored samples.

    min_agreement: of all, or {type: limit} as from agreement_limits. per_type: wished number of kept samples of each
    type that any sample has. keep, drop: names that a person listed.
    """
    rows, limits = scores.rows, scores.thresholds
    listed = [row["name"] in keep for row in rows]
    like: list[dict[int, float]] = [{} for _ in rows]
    for i, j, distance in scores.duplicates:
        like[i][j] = like[j][i] = distance
    value = []
    for row in rows:
        near = row["nearest_sample"]["distance"] if row["nearest_sample"] else 1.0
        value.append(near if row["agreement"] is None else row["agreement"])
    faults: dict[int, tuple[str, str, float | None, float | None]] = {}
    chosen: list[int] = []
    # The best first, so that of similar ones the best stays; listed ones before all others.
    for i in sorted(range(len(rows)), key=lambda i: (not listed[i], -value[i], i)):
        before = {j: distance for j, distance in like[i].items() if j in chosen}
        if rows[i]["name"] in drop:
            faults[i] = "list", "listed to drop", None, None
        elif listed[i]:
            chosen.append(i)
        elif fault := _fault(rows[i], limits, min_agreement):
            faults[i] = fault
        elif before:
            other = min(before, key=before.get)
            reason = f"near-duplicate of {rows[other]['name']}"
            faults[i] = "duplicate", reason, before[other], limits["duplicate"]["value"]
        else:
            chosen.append(i)
    wanting = {}
    if per_type is not None:
        available = Counter(name for i in chosen for name in rows[i]["types"])
        taken = [i for i in chosen if listed[i]]
        count = Counter(name for i in taken for name in rows[i]["types"])
        for name in sorted(available, key=available.get):  # the rarest first, as it has the least choice
            for i in chosen:
                if count[name] < per_type and name in rows[i]["types"] and i not in taken:
                    taken.append(i)
                    count.update(rows[i]["types"].keys())
        wanting = {name: per_type - count[name] for row in rows for name in row["types"] if count[name] < per_type}
        surplus = "surplus", f"not needed for {per_type} of each type", None, None
        faults |= dict.fromkeys(set(chosen) - set(taken), surplus)
        chosen = taken
    kept = [{"name": rows[i]["name"], "score": value[i]} for i in sorted(chosen)]
    keys = ("rule", "reason", "score", "limit")
    dropped = [{"name": rows[i]["name"], **dict(zip(keys, faults[i], strict=True))} for i in sorted(faults)]
    return Curated(kept, dropped, wanting)


def _fault(
    row: Mapping[str, Any], thresholds: Mapping[str, Any], min_agreement: float | Mapping[str, float] | None
) -> tuple[str, str, float | None, float | None] | None:
    """The first rule that a sample breaks by itself, the reason, and what was measured against which limit."""
    near, agreement, clipped, types = row["nearest_train"], row["agreement"], row["clipped"], row["types"]
    if row["empty"]:
        return "empty", "the mask is empty", None, None
    if row["speck"]:
        name = max(types, key=lambda name: types[name]["largest"])
        largest = types[name]["largest"]
        return "speck", f"only specks: the largest, of {name}, has {largest} px", largest, thresholds["speck"][name]
    if near["copy"]:
        return "near-copy", f"near-copy of {near['name']}", near["distance"], thresholds["copy"]["value"]
    if clipped > CLIPPED:
        return "clipped", f"{100 * clipped:.0f}% more pixels at black or white than real", clipped, CLIPPED
    if min_agreement is not None and agreement is not None:
        limits = min_agreement if isinstance(min_agreement, Mapping) else dict.fromkeys(types, min_agreement)
        limit = min((limits.get(name, 0.0) for name in types), default=0.0)
        if agreement < limit:
            return "disagreement", "a segmenter sees something else than the mask", agreement, limit
    return None


def agreement_limits(values: np.ndarray, real: ImageSet) -> dict[str, float]:
    """The least agreement to ask for, by type: what all but the worst LEAST_AGREEING of held-out real images reach.

    values: agreement of these, float [N], nan where unknown. Types that few of them have get no limit.
    """
    limits = {}
    for k, name in enumerate(real.class_names, start=1):
        own = [value for value, mask in zip(values, real.masks, strict=True) if (mask == k).any()]
        if len(own) >= LEAST_IMAGES:
            limits[name] = float(np.quantile(own, LEAST_AGREEING))
    return limits


def read_list(path: str, names: Collection[str]) -> tuple[set[str], set[str]]:
    """The names to keep and to drop in a file {"keep": [...], "drop": [...]}, which may lack one. Raises InputError."""
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(f"--list {path}: cannot be read ({error.strerror or error})") from error
    except InputError as error:
        raise InputError(f"--list {error}") from error
    known = isinstance(content, dict) and {"keep", "drop"} & set(content)
    lists = [content.get(key, []) for key in ("keep", "drop")] if known else [None]
    if not all(isinstance(own, list) and all(isinstance(name, str) for name in own) for own in lists):
        raise InputError(f'--list {path}: should hold {{"keep": [names], "drop": [names]}}, as the report exports it')
    keep, drop = map(set, lists)
    if strangers := sorted((keep | drop) - set(names)):
        raise InputError(
            f"--list {path}: names {strangers[0]}, which is not in --samples ({len(strangers)} such names); give the "
            "list that was exported for these samples"
        )
    if both := sorted(keep & drop):
        raise InputError(f"--list {path}: has {both[0]} both to keep and to drop; remove one")
    return keep, drop


def write_curated(
    out: str,
    folder: str,
    manifest: Mapping[str, Mapping[str, Any]],
    curated: Curated,
    class_names: Sequence[str],
    about: Mapping[str, Any],
) -> None:
    """Copy the kept samples of `folder` into `out`, and write kept.jsonl, dropped.jsonl and, last, the manifest.

    manifest: row of each sample by name. about: what the manifest's settings say as "curated", so that nobody adds to
    these samples unawares.
    """
    rows = [manifest[kept["name"]] for kept in curated.kept]
    rows = [{**row, "settings": {**row["settings"], "curated": dict(about)}} for row in rows]
    paths = [row[key] for row in rows for key in ("image", "mask", "index_mask") if key in row]
    paths += [path for row in rows for path in row.get("defects", {}).values()]

    def copy(path: str) -> None:
        write_atomic(bf.join(out, path), read_bytes(bf.join(folder, path)))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(tqdm(pool.map(copy, paths), "copying", len(paths), unit="file", leave=False))
    for name, lines in (("kept", curated.kept), ("dropped", curated.dropped), ("manifest", rows)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(bf.join(out, f"{name}.jsonl"), text.encode())
    SampleFolder(out, class_names, rows[0]["settings"]).write_contact_sheet()
