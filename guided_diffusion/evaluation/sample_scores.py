"""What masks hold, of all samples and of each; which images each is most like, its faults; the types asked for.

`score_samples` makes the rows that quality writes as samples.jsonl and curate goes by, against the limits that
`measure_limits` takes from real images.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ..data.image_files import number_regions
from ..data.records import read_manifest
from ..keyed_random import Key, numpy_generator
from .bootstrap import mean_interval, share_interval, with_interval
from .copies import FLIPS, PLANTED, calibrate, distances_among, place, plant
from .image_sets import ImageSet, Row, sources

SPECK = 0.5  # of the smallest real region of its type: what is smaller is a speck
MOST_PAIRED = 300  # real images compared with one another
MOST_PLANTED = 25  # training images of which copies are planted
LEAST_FOUND = 0.9  # of planted copies, or there is a note
TRAINING_IMAGES = "training images, each against those of other groups"


def measure_limits(train: ImageSet, seen: ImageSet, held_out: ImageSet | None) -> Row:
    """What samples are held against: {"copy", "duplicate": of calibrate, "speck": {type: pixels}, "clipped": largest
    shares as of _clipped}. train: whole images. seen: these as samples show them; held_out: others, likewise. Without
    held_out, or where all of it is of training groups, from the training images."""
    real, source = seen, TRAINING_IMAGES
    if held_out is not None:
        # Where groups are known on both sides, rather than each image being its own, they tell trained objects.
        known = set(train.groups) if all(part.groups != sources(part) for part in (train, held_out)) else ()
        if kept := [i for i, group in enumerate(held_out.groups) if group not in known]:
            real, source = held_out.take(kept), "held-out images"
    distances = place(real.images, train.images)[0]
    if real is seen:
        distances = np.where(_unrelated(seen, train), distances, np.inf)
    copy = {**calibrate(distances.min(axis=1), real.groups, real.names), "calibrated_on": source}
    originals = seen.images[_some(len(seen), MOST_PLANTED)]
    planted = {kind: place(plant(originals, kind), train.images)[0].min(axis=1) for kind in PLANTED}
    copy["planted_found"] = {kind: float((own < copy["value"]).mean()) for kind, own in planted.items()}
    some = real.take(_some(len(real), MOST_PAIRED))
    among = np.where(_unrelated(some, some), distances_among(some.images), np.inf).min(axis=1)
    return {
        "copy": copy,
        "duplicate": {**calibrate(among, some.groups, some.names), "calibrated_on": source},
        "speck": speck_thresholds(train),
        "clipped": np.concatenate([_clipped(seen.images), _clipped(real.images)]).max(axis=0).tolist(),
    }


def score_samples(
    samples: ImageSet, train: ImageSet, limits: Row, agreement: np.ndarray | None = None
) -> tuple[list[Row], np.ndarray]:
    """A row for each sample, against the whole images they were trained from; and their distances_among [N, N].
    agreement: float [N], nan where there is none. In a row, "share" is of the image, "largest" the pixels of the
    largest region; "clipped" is the share of pixels at 0 or 255 in a channel, beyond the largest of real images."""
    among = distances_among(samples.images)
    clipped = (_clipped(samples.images) - np.array(limits["clipped"])).clip(min=0).max(axis=(1, 2))
    distance, *found = place(samples.images, train.images)

    def like(name: str, far: float, kind: str) -> Row:
        return {"name": name, "distance": far, kind: far < limits[kind]["value"]}

    rows = []
    for i, m in enumerate(distance.argmin(axis=1)):
        mask, other, types = samples.masks[i], among[i].argmin(), {}
        own = region_sizes(mask, samples.class_names)
        for name, n in own.items():
            types[name] = {"pixels": sum(n), "share": sum(n) / mask.size, "regions": len(n), "largest": n[0]}
        row = {"name": samples.names[i], "types": types, "empty": not types}
        row |= {"speck": _only_specks(own, limits["speck"]), "clipped": float(clipped[i])}
        flip, top, left = (int(part[i, m]) for part in found)
        near = like(train.names[m], float(distance[i, m]), "copy")
        row["nearest_train"] = {**near, "flip": list(FLIPS)[flip], "top": top, "left": left}
        alike = like(samples.names[other], float(among[i, other]), "duplicate") if len(samples) > 1 else None
        known = agreement is not None and not np.isnan(agreement[i])
        rows.append({**row, "nearest_sample": alike, "agreement": float(agreement[i]) if known else None})
    return rows, among


def region_sizes(mask: np.ndarray, class_names: Sequence[str]) -> dict[str, list[int]]:
    """Pixels of the regions of each type that an index mask holds, the largest first."""
    found = {}
    for index in np.unique(mask[mask > 0]).tolist():
        pixels = np.bincount(number_regions(mask == index)[0].ravel())[1:]
        found[class_names[index - 1]] = sorted(pixels.tolist(), reverse=True)
    return found


def speck_thresholds(real: ImageSet) -> dict[str, float]:
    """Pixels below which a region of each type is a speck: SPECK times the smallest of the images' largest regions, 0
    for types that no image shows."""
    found = [region_sizes(mask, real.class_names) for mask in real.masks]
    return {k: SPECK * min((own[k][0] for own in found if k in own), default=0) for k in real.class_names}


def _only_specks(found: Mapping[str, Sequence[int]], thresholds: Mapping[str, float]) -> bool:
    return bool(found) and all(sizes[0] < thresholds[name] for name, sizes in found.items())


def measure_labels(sides: dict[str, ImageSet], thresholds: Mapping[str, float], key: Sequence[Key] = ()) -> Row:
    """What quality.json holds as "labels", of each of `sides` ("samples", "real" and others), as the samples show them.
    thresholds: of speck_thresholds. "regions" is the mean number in images that have the type, "area" the median share
    of the image; None where no image has it."""
    empty, speck = {}, {}
    per_type = {name: {"share": {}, "regions": {}, "area": {}} for name in thresholds}
    for side, images in sides.items():
        found, groups = [region_sizes(mask, images.class_names) for mask in images.masks], images.groups
        empty[side] = share_interval([not own for own in found], groups)
        speck[side] = share_interval([_only_specks(own, thresholds) for own in found], groups)
        for name, part in per_type.items():
            pixels = [own.get(name, []) for own in found]
            areas = [one / mask.size for own, mask in zip(pixels, images.masks, strict=True) for one in own]
            part["share"][side] = share_interval([bool(own) for own in pixels], groups)
            part["regions"][side] = mean_interval([len(own) or np.nan for own in pixels], groups, ("labels", *key))
            part["area"][side] = with_interval(np.median(areas)) if areas else None
    trained = [name for name, pixels in thresholds.items() if pixels]
    return {
        "empty": empty,
        "speck": speck,
        "missing": [name for name in trained if not per_type[name]["area"]["samples"]],
        "missing_in_real": [name for name in trained if not per_type[name]["area"]["real"]],
        "per_type": per_type,
    }


def measure_asked(samples: ImageSet) -> Row | None:
    """{type: {"asked", "present": numbers of samples, "obeyed": the share of those asked for it that show it}}, of the
    samples that their manifest says types were asked of; None without any."""
    rows = read_manifest(samples.folder) or {}
    asked = {f"{index:06d}": (row.get("condition") or {}).get("types") for index, row in rows.items()}
    of = [i for i, name in enumerate(samples.names) if asked.get(name) is not None]
    result = {}
    for k, name in enumerate(samples.class_names, start=1) if of else ():
        present = {i: bool((samples.masks[i] == k).any()) for i in of}
        own = [i for i in of if name in asked[samples.names[i]]]
        obeyed = share_interval([present[i] for i in own], [samples.groups[i] for i in own]) if own else None
        result[name] = {"asked": len(own), "present": sum(present.values()), "obeyed": obeyed}
    return result or None


def memorization(rows: Sequence[Row]) -> Row:
    """The shares of near-copies and of duplicates among rows of score_samples, with their intervals."""
    flags = {
        "copies": [row["nearest_train"]["copy"] for row in rows],
        "duplicates": [bool(row["nearest_sample"] and row["nearest_sample"]["duplicate"]) for row in rows],
    }
    return {name: share_interval(own, range(len(rows))) for name, own in flags.items()}


def notes(limits: Row) -> list[str]:
    """What a person should know of the limits: images that stand out, and copies that they miss."""
    lines, copy = [], limits["copy"]
    if far_out := copy["far_out"]:
        alone = copy["calibrated_on"] == TRAINING_IMAGES
        remedy = "give it one group in --groups" if alone else "remove them from --real"
        some = f"{len(far_out)} of {copy['images']} {copy['calibrated_on']} look like training images"
        lines.append(f"{some}, such as {far_out[0]}; if they show the same object, {remedy}.")
    if missed := ", ".join(kind for kind, share in copy["planted_found"].items() if share < LEAST_FOUND):
        remedy = "It takes more held-out images of other objects to tell copies from likeness."
        lines.append(f"Near-copies are missed: the threshold does not find all planted copies ({missed}). {remedy}")
    return lines


def _unrelated(images: ImageSet, others: ImageSet) -> np.ndarray:
    """Which of them are of different groups, bool [N, M]."""
    return np.array(images.groups)[:, None] != np.array(others.groups)


def _some(count: int, most: int) -> np.ndarray:
    """Up to `most` of the numbers 0..count-1, drawn the same way always, ascending."""
    return np.sort(numpy_generator("some", count).permutation(count)[:most])


def _clipped(images: np.ndarray) -> np.ndarray:
    """Share of pixels at 0 and at 255 in each channel, float64 [N, 2, 3], of images uint8 [N, H, W, 3]."""
    return np.stack([(np.asarray(images) == value).mean(axis=(1, 2)) for value in (0, 255)], axis=1)
