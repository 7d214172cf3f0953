"""Which samples to train on: what would hurt is dropped, with a reason, and the types are balanced to a wish.

The rules, the first that applies being the reason:

    list         a person said so; a person's "keep" overrides all the others
    empty        no defect in the mask
    speck        only regions smaller than half the smallest training one of their type (labels.py)
    near-copy    of a training image, by pixels (memorization.py, copy_threshold.py)
    clipped      more than CLIPPED of the pixels at 0 or 255 in a channel, beyond the most of any real image
    disagreement a segmenter trained on real images sees something else than the mask says (agreement.py)
    duplicate    nearly the same as a sample that is kept, which scores better
    surplus      not needed for the wished number of each type

A sample's score is its agreement, where that is known, else its distance to the nearest other sample.

A segmenter trained on 25 images errs, and what it misses most are the rare and the difficult: to drop by its verdict
alone would leave easy samples. So a sample is held against what held-out real images with true masks get: dropped is
what agrees less than all but the worst LEAST_AGREEING of those that have one of its types. A type that the segmenter
cannot find in real images has a limit of 0, and nothing of it is dropped. Without held-out images there is no such
limit, and no sample is dropped for disagreement unless a number is given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
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
RULES = ("list", "empty", "speck", "near-copy", "clipped", "disagreement", "duplicate", "surplus")


@dataclass(frozen=True)
class Curated:
    """Rows {"name", "score"} of kept samples, and {"name", "rule", "reason", "score", "limit"} of dropped ones.

    Both are in the order of the samples. A dropped one's score is what its rule measured, on the wrong side of limit;
    both are None where the rule measures nothing. wanting: by how many samples a type falls short of the wish.
    """

    kept: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    wanting: dict[str, int] = field(default_factory=dict)


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
    rows = scores.rows
    verdicts: dict[int, tuple[str, str, float | None, float | None]] = {}
    for i, row in enumerate(rows):
        if row["name"] in drop:
            verdicts[i] = ("list", "listed to drop", None, None)
        elif row["name"] not in keep and (verdict := _fault(row, scores.thresholds, min_agreement)):
            verdicts[i] = verdict
    value = [_score(row) for row in rows]
    # The best first, so that of similar ones the best stays; listed ones before all others.
    order = sorted(set(range(len(rows))) - set(verdicts), key=lambda i: (rows[i]["name"] not in keep, -value[i], i))
    chosen = _without_duplicates(order, scores, keep, verdicts)
    wanting = {}
    if per_type is not None:
        names = dict.fromkeys(name for row in rows for name in row["types"])
        chosen, wanting = _balanced(chosen, rows, list(names), per_type, keep, verdicts)
    kept = [{"name": rows[i]["name"], "score": value[i]} for i in sorted(chosen)]
    dropped = [
        {"name": rows[i]["name"], **dict(zip(("rule", "reason", "score", "limit"), verdicts[i], strict=True))}
        for i in sorted(verdicts)
    ]
    return Curated(kept, dropped, wanting)


def agreement_limits(values: np.ndarray, real: ImageSet) -> dict[str, float]:
    """The least agreement to ask for, by type, from that of held-out real images, float [N], nan where unknown."""
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
    lists = [content.get(key, []) for key in ("keep", "drop")] if isinstance(content, dict) else [None]
    whole = all(isinstance(own, list) and all(isinstance(name, str) for name in own) for own in lists)
    if not whole or not {"keep", "drop"} & set(content):
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
    """Copy the kept samples of `folder` into `out`, the manifest last, and write kept.jsonl and dropped.jsonl.

    manifest: row of each sample by name. about: what the manifest's settings say as "curated", so that nobody adds to
    these samples unawares.
    """
    rows = []
    for kept in curated.kept:
        row = manifest[kept["name"]]
        rows.append({**row, "settings": {**row["settings"], "curated": dict(about)}})
    paths = [path for row in rows for path in _files(row)]

    def copy(path: str) -> None:
        write_atomic(bf.join(out, path), read_bytes(bf.join(folder, path)))

    with ThreadPoolExecutor(WRITERS) as pool:
        list(tqdm(pool.map(copy, paths), "copying", len(paths), unit="file", leave=False))
    for name, lines in (("kept", curated.kept), ("dropped", curated.dropped), ("manifest", rows)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(bf.join(out, f"{name}.jsonl"), text.encode())
    SampleFolder(out, class_names, rows[0]["settings"]).write_contact_sheet()


def _files(row: Mapping[str, Any]) -> list[str]:
    """The files of a sample, relative to its folder, by its row in the manifest."""
    return [row[key] for key in ("image", "mask", "index_mask") if key in row] + list(row.get("defects", {}).values())


def _fault(
    row: Mapping[str, Any], thresholds: Mapping[str, Any], min_agreement: float | Mapping[str, float] | None
) -> tuple[str, str, float | None, float | None] | None:
    """Rule, reason, score and limit of the first rule that a sample breaks by itself."""
    near = row["nearest_train"]
    if row["empty"]:
        return "empty", "the mask is empty", None, None
    if row["speck"]:
        name = max(row["types"], key=lambda name: row["types"][name]["largest"])
        largest, limit = row["types"][name]["largest"], thresholds["speck"][name]
        return "speck", f"only specks: the largest, of {name}, has {largest} px", largest, limit
    if near["copy"]:
        return "near-copy", f"near-copy of {near['name']}", near["distance"], thresholds["copy"]["value"]
    if row["clipped"] > CLIPPED:
        return (
            "clipped",
            f"{100 * row['clipped']:.0f}% more pixels at black or white than real",
            row["clipped"],
            CLIPPED,
        )
    if min_agreement is not None and row["agreement"] is not None:
        limits = min_agreement if isinstance(min_agreement, Mapping) else dict.fromkeys(row["types"], min_agreement)
        limit = min((limits.get(name, 0.0) for name in row["types"]), default=0.0)
        if row["agreement"] < limit:
            return "disagreement", "a segmenter sees something else than the mask", row["agreement"], limit
    return None


def _score(row: Mapping[str, Any]) -> float:
    if row["agreement"] is not None:
        return row["agreement"]
    return row["nearest_sample"]["distance"] if row["nearest_sample"] else 1.0


def _without_duplicates(order: Sequence[int], scores: Scores, keep: Collection[str], verdicts: dict) -> list[int]:
    """Those of `order` that are no duplicate of one before them."""
    like: dict[int, dict[int, float]] = {}
    for i, j, distance in scores.duplicates:
        like.setdefault(i, {})[j] = like.setdefault(j, {})[i] = distance
    chosen: list[int] = []
    for i in order:
        before = {j: distance for j, distance in like.get(i, {}).items() if j in chosen}
        if before and scores.rows[i]["name"] not in keep:
            nearest = min(before, key=before.get)
            reason = f"near-duplicate of {scores.rows[nearest]['name']}"
            verdicts[i] = ("duplicate", reason, before[nearest], scores.thresholds["duplicate"]["value"])
        else:
            chosen.append(i)
    return chosen


def _balanced(
    order: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    wish: int,
    keep: Collection[str],
    verdicts: dict,
) -> tuple[list[int], dict[str, int]]:
    """A choice from `order` in which each type occurs `wish` times, as nearly as greedy taking gets there.

    The rarest type first, as it has the least choice; of those that have it, the ones with the fewest types that have
    enough already, and among these the first.
    """
    chosen = [i for i in order if rows[i]["name"] in keep]
    count = Counter(name for i in chosen for name in rows[i]["types"])
    available = Counter(name for i in order for name in rows[i]["types"])
    for name in sorted(names, key=lambda name: available[name]):
        left = [i for i in order if name in rows[i]["types"] and i not in chosen]
        while count[name] < wish and left:
            full = {other for other in names if count[other] >= wish}
            best = min(left, key=lambda i: len(full & set(rows[i]["types"])))  # the first of equals
            left.remove(best)
            chosen.append(best)
            count.update(rows[best]["types"].keys())
    for i in set(order) - set(chosen):
        verdicts[i] = ("surplus", f"not needed for {wish} of each type", None, None)
    return chosen, {name: wish - count[name] for name in names if count[name] < wish}
