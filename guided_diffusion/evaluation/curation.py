"""Which samples to train on: what would hurt is dropped, with a reason, and the types are balanced to a wish.

The first rule that a sample breaks is the reason: list (a person said so; "keep" overrides all others), empty, speck,
near-copy of a training image, clipped, disagreement with a segmenter trained on real images, duplicate of a kept sample
that scores better, surplus. A segmenter misses the rare and the difficult most: so that these stay, a sample is held
against what held-out real images with true masks get, by type.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..data.records import MANIFEST, files_of
from ..errors import InputError
from ..file_io import read_bytes, read_json, write_atomic
from ..generation.sample_io import WRITERS, SampleFolder
from .image_sets import ImageSet, Row

Names = Collection[str]
CUT_OFF = "free space, and name a new folder"
CLIPPED = 0.05  # share of pixels; of held-out windows of magnetic tiles 2 in 256 exceed it, of whole tiles 0 in 64
LEAST_AGREEING = 0.05  # share of real images
LEAST_IMAGES = 8  # real images of a type that a limit of agreement needs


def curate(
    rows: Sequence[Row], among: np.ndarray, limits: Row, per_type: int | None = None, keep: Names = (), drop: Names = ()
) -> tuple[list[Row], list[Row]]:
    """Rows {"name", "score"} of kept and {"name", "rule", "reason", "score", "limit"} of dropped samples, in order.

    rows, among: of score_samples; limits: of measure_limits and "agreement", {type: IoU} or None. per_type: wished
    number of each type. keep, drop: names that a person listed. A kept one's score is its agreement, else the distance
    to the nearest other sample; a dropped one's what its rule measured, None where it measures nothing."""
    values = []
    for row in rows:
        near = row["nearest_sample"]["distance"] if row["nearest_sample"] else 1.0
        values.append(near if row["agreement"] is None else row["agreement"])
    names, faults, chosen = [row["name"] for row in rows], {}, []
    # The best first, so that of similar ones the best stays; listed ones before all others.
    for i in sorted(range(len(rows)), key=lambda i: (names[i] not in keep, -values[i], i)):
        alike = min(chosen, key=lambda j: among[i, j], default=i)
        if names[i] in keep:
            chosen.append(i)
        elif names[i] in drop:
            faults[i] = "list", "listed to drop", None, None
        elif fault := _fault(rows[i], limits):
            faults[i] = fault
        elif among[i, alike] < limits["duplicate"]["value"]:
            reason = f"near-duplicate of {names[alike]}"
            faults[i] = "duplicate", reason, float(among[i, alike]), limits["duplicate"]["value"]
        else:
            chosen.append(i)
    if per_type is not None:
        available = Counter(name for i in chosen for name in rows[i]["types"])
        taken = [i for i in chosen if names[i] in keep]
        for name in sorted(available, key=available.get):  # the rarest first, as it has the least choice
            short = per_type - sum(name in rows[i]["types"] for i in taken)
            taken += [i for i in chosen if name in rows[i]["types"] and i not in taken][: max(0, short)]
        surplus = "surplus", f"not needed for {per_type} of each type", None, None
        faults |= dict.fromkeys(set(chosen) - set(taken), surplus)
    keys = ("rule", "reason", "score", "limit")
    kept = [{"name": names[i], "score": values[i]} for i in range(len(rows)) if i not in faults]
    return kept, [{"name": names[i], **dict(zip(keys, faults[i], strict=True))} for i in sorted(faults)]


def _fault(row: Row, limits: Row) -> tuple[str, str, float | None, float | None] | None:
    """The first rule that a sample breaks by itself, the reason, and what was measured against which limit."""
    near, agreement, clipped, types = row["nearest_train"], row["agreement"], row["clipped"], row["types"]
    if row["empty"]:
        return "empty", "the mask is empty", None, None
    if row["speck"]:
        name = max(types, key=lambda name: types[name]["largest"])
        largest = types[name]["largest"]
        return "speck", f"only specks: the largest, of {name}, has {largest} px", largest, limits["speck"][name]
    if near["copy"]:
        return "near-copy", f"near-copy of {near['name']}", near["distance"], limits["copy"]["value"]
    if clipped > CLIPPED:
        return "clipped", f"{100 * clipped:.0f}% more pixels at black or white than real", clipped, CLIPPED
    least = min((limits["agreement"] or {}).get(name, 0.0) for name in types)
    if agreement is not None and agreement < least:
        return "disagreement", "a segmenter sees something else than the mask", agreement, least
    return None


def agreement_limits(values: np.ndarray, real: ImageSet) -> dict[str, float]:
    """The least agreement to ask for, by type: what all but the worst LEAST_AGREEING of held-out real images reach, of
    which these are the values, float [N]. Types that few of them have get no limit."""
    limits = {}
    for k, name in enumerate(real.class_names, start=1):
        own = [value for value, mask in zip(values, real.masks, strict=True) if (mask == k).any()]
        if len(own) >= LEAST_IMAGES:
            limits[name] = float(np.quantile(own, LEAST_AGREEING))
    return limits


def read_list(path: str, names: Names) -> tuple[set[str], set[str]]:
    """The names to keep and to drop in a file {"keep": [...], "drop": [...]}, which may lack one. Raises InputError."""
    try:
        content = read_json(path)
        keep, drop = (set(map(str, content.get(key, ()))) for key in ("keep", "drop"))
        if not {"keep", "drop"} & content.keys():
            raise TypeError("it has neither")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        wanted = '{"keep": [names], "drop": [names]}, as the report exports it'
        raise InputError(f"--list {path}: should hold {wanted} ({error})") from error
    if strangers := sorted((keep | drop) - set(names)):
        raise InputError(f"--list {path}: {strangers[0]} is not in --samples; give the list exported for these samples")
    if both := sorted(keep & drop):
        raise InputError(f"--list {path}: has {both[0]} both to keep and to drop; remove one")
    return keep, drop


def write_curated(
    out: str, samples: ImageSet, manifest: Mapping[str, Row], kept: list[Row], dropped: list[Row], about: Row
) -> None:
    """Copy the kept samples into `out`, and write kept.jsonl, dropped.jsonl and, last, the manifest.

    manifest: row of each sample by name, of read_manifest, so that no path leads out of either folder. about: what the
    manifest's settings say as "curated", so that nobody adds to these samples unawares."""
    rows = [manifest[row["name"]] for row in kept]
    rows = [{**row, "settings": {**row["settings"], "curated": dict(about)}} for row in rows]
    paths = [path for row in rows for path in files_of(row)]
    if gone := next((path for path in paths if not bf.exists(bf.join(samples.folder, path))), None):
        remedy = "put it back, or remove its line there"
        raise InputError(f"--samples {samples.folder}: {gone}, which its manifest.jsonl lists, is gone; {remedy}")
    write_atomic(bf.join(out, MANIFEST), b"")  # until all is there nothing takes it for samples

    def copy(path: str) -> None:
        write_atomic(bf.join(out, path), read_bytes(bf.join(samples.folder, path)), "--out", CUT_OFF)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(tqdm(pool.map(copy, paths), "copying", len(paths), unit="file", leave=False))
    for name, lines in (("kept", kept), ("dropped", dropped), ("manifest", rows)):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_atomic(bf.join(out, f"{name}.jsonl"), text.encode(), "--out", CUT_OFF)
    SampleFolder(out, samples.class_names, rows[0]["settings"]).write_contact_sheet()
