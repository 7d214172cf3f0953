"""What the report shows: the figures that other commands have written, and all that is known of each sample."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..data.index_masks import present_types, read_pair
from ..errors import InputError
from ..file_io import read_bytes
from ..generation.class_names import class_names_of, common_class_names
from ..prepare.layouts import Sample, find_samples, stem_of
from .image_sets import SHOW_PROGRESS_ABOVE, View, read_whole, view_of_samples
from .report_pictures import TRIAL, Album, choose_encoding, mask_data_uri

COMMANDS = ("quality", "lift", "sweep")
UNCURATED = {"kept": None, "rule": None, "reason": None}
TRAIN_BYTES = 4 << 20  # of the training images that are shown


@dataclass(frozen=True)
class TrainPicture:
    """A training image that is nearest to some sample.

    size: its height and width at the samples' scale, in pixels; shown: those in the report; image, mask: data URIs.
    """

    name: str
    size: tuple[int, int]
    shown: tuple[int, int]
    image: str
    mask: str


@dataclass(frozen=True)
class Contents:
    """All that the report shows.

    results: what <command>.json holds, of those commands that were run. rows: one of each sample, in the order of the
    album; as in samples.jsonl (sample_scores.py), with "kept", "rule" and "reason" of the curation (curation.py) added.
    identity: a hash of the samples. notes: what is not shown and why.
    """

    folder: str
    class_names: tuple[str, ...]
    size: tuple[int, int]
    results: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    album: Album
    train: list[TrainPicture]
    identity: str
    notes: list[str]


def gather(
    samples: str,
    *,
    train: str | None = None,
    quality: str | None = None,
    lift: str | None = None,
    sweep: str | None = None,
    curated: str | None = None,
) -> Contents:
    """Read everything. What is not named is looked for in the folder of the samples, as <samples>/quality and so on.

    Raises InputError where there are no samples, or a file is broken or tells of other samples.
    """
    try:
        found = find_samples(samples)
    except InputError as error:
        raise InputError(f"--samples {error}") from error
    names = [stem_of(sample.image) for sample in found]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"--samples {samples}: two samples are called {twice}; rename one")

    named = {"quality": quality, "lift": lift, "sweep": sweep}
    folders = {name: named[name] or _default(samples, name, f"{name}.json") for name in COMMANDS}
    results = {name: _read_result(name, folder) for name, folder in folders.items() if folder}
    known = results.get("quality", {}).get("class_names")
    class_names = class_names_of(samples) or (tuple(known) if known else common_class_names({"--samples": samples}))
    scores = _read_scores(folders["quality"], names) if folders["quality"] else {}
    curated = curated or _default(samples, "curated", "kept.jsonl")
    states = _read_states(curated, names) if curated else {}

    rows, album, digest = [], None, hashlib.sha256()
    for sample, name, image, mask in _read_samples(found, names, class_names):
        if album is None:
            trial = [read_pair(found[k], len(class_names))[0] for k in _spread(len(found), TRIAL)]
            size = mask.shape
            album = Album(*size, choose_encoding(trial, len(found)))
        digest.update(name.encode() + image.tobytes() + mask.tobytes())
        album.add(image, mask)
        row = _bare_row(name, mask, class_names)
        if scores:
            _check_areas(row, scores[name], sample, folders["quality"])
        rows.append({**row, **scores.get(name, {}), **states.get(name, UNCURATED)})
    album.close_sheet()
    settings = results.get("quality", {}).get("settings", {})
    pictures, notes = _read_train(
        train, settings.get("train") or settings.get("real"), rows, class_names, view_of_samples(samples, size)
    )
    return Contents(samples, class_names, size, results, rows, album, pictures, digest.hexdigest()[:16], notes)


def _default(samples: str, name: str, file: str) -> str | None:
    """<samples>/<name> where that holds `file`."""
    folder = bf.join(samples, name)
    return folder if bf.exists(bf.join(folder, file)) else None


def _read_result(name: str, folder: str) -> dict[str, Any]:
    path = bf.join(folder, f"{name}.json")
    if not bf.exists(path):
        raise InputError(f"--{name} {folder}: holds no {name}.json; name the --out folder of evaluate.py {name}")
    try:
        content = _parse(read_bytes(path))
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.get("command", name) != name:
        raise InputError(f"--{name} {path}: was not written by evaluate.py {name}; name its --out folder")
    return content


def _parse(text: str | bytes) -> Any:
    """The value of a JSON text, nan and infinity read as None: browsers know no such numbers."""
    return json.loads(text, parse_constant=lambda _: None)


def _read_lines(path: str, flag: str, remedy: str) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, each with a "name"."""
    if not bf.exists(path):
        raise InputError(f"{flag} {path}: does not exist; {remedy}")
    rows = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
            whole = isinstance(row["name"], str)
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise InputError(f"{flag} {path}: line {number} does not describe a sample; {remedy}")
        rows.append(row)
    return rows


def _read_scores(folder: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The rows of <folder>/samples.jsonl by name; they have to be of exactly these samples."""
    path = bf.join(folder, "samples.jsonl")
    scores = {row["name"]: row for row in _read_lines(path, "--quality", "run evaluate.py quality again")}
    for missing, what in ((set(names) - set(scores), "does not have"), (set(scores) - set(names), "also has")):
        if missing:
            raise InputError(
                f"--quality {path}: tells of other samples than --samples ({what} {min(missing)}); run evaluate.py "
                "quality on these samples"
            )
    for name, row in scores.items():
        if not _is_score(row):
            raise InputError(f"--quality {path}: the row of {name} is incomplete; run evaluate.py quality again")
    return scores


def _is_score(row: dict[str, Any]) -> bool:
    """Whether a row of samples.jsonl holds what the gallery takes for granted."""
    near = row.get("nearest_train")
    try:
        placed = near is None or {"name", "distance", "flip", "top", "left"} <= set(near)
        return placed and all({"pixels", "share"} <= set(type_) for type_ in row["types"].values())
    except (AttributeError, KeyError, TypeError):
        return False


def _read_states(folder: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{name: {"kept", "rule", "reason"}} from kept.jsonl and dropped.jsonl, which curation.py describes."""
    states = {}
    for kept, file in ((True, "kept.jsonl"), (False, "dropped.jsonl")):
        path = bf.join(folder, file)
        for row in _read_lines(path, "--curated", "name the folder that scripts/curate.py wrote"):
            states[row["name"]] = {"kept": kept, "rule": row.get("rule"), "reason": row.get("reason")}
    strangers = set(states) - set(names)
    if strangers:
        raise InputError(
            f"--curated {folder}: tells of {min(strangers)}, which is not in --samples; give the samples it was made of"
        )
    return states


def _read_samples(
    found: Sequence[Sample], names: Sequence[str], class_names: Sequence[str]
) -> Iterator[tuple[Sample, str, np.ndarray, np.ndarray]]:
    """Each sample with its name, image and mask, one at a time; all of one size."""
    size = None
    bar = tqdm(found, desc="reading samples", unit="image", disable=len(found) <= SHOW_PROGRESS_ABOVE)
    for sample, name in zip(bar, names, strict=True):
        image, mask = read_pair(sample, len(class_names))
        size = size or mask.shape
        if mask.shape != size:
            raise InputError(
                f"--samples {sample.image}: is {mask.shape[1]} x {mask.shape[0]} pixels, but {found[0].image} is "
                f"{size[1]} x {size[0]}; samples must be of one size"
            )
        yield sample, name, image, mask


def _bare_row(name: str, mask: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """What the mask alone tells, in the layout of samples.jsonl."""
    pixels = present_types(mask, class_names)
    return {
        "name": name,
        "types": {type_: {"pixels": n, "share": n / mask.size} for type_, n in pixels.items()},
        "empty": not pixels,
        "clipped": None,
        "nearest_train": None,
        "nearest_sample": None,
        "agreement": None,
    }


def _check_areas(row: dict[str, Any], score: dict[str, Any], sample: Sample, folder: str) -> None:
    """Refuse scores of another set whose samples merely have the same names."""
    areas, scored = ({name: type_["pixels"] for name, type_ in of["types"].items()} for of in (row, score))
    if areas != scored:
        raise InputError(
            f"--quality {folder}: was measured on other samples than --samples (the mask of {sample.image} has "
            f"{areas} pixels, not {scored}); run evaluate.py quality on these samples"
        )


def _read_train(
    named: str | None,
    recorded: str | None,
    rows: Sequence[dict[str, Any]],
    class_names: tuple[str, ...],
    view: View,
) -> tuple[list[TrainPicture], list[str]]:
    """Pictures of the training images that are nearest to some sample, and notes on what is lacking."""
    nearest = list(dict.fromkeys(row["nearest_train"]["name"] for row in rows if row["nearest_train"]))
    if not nearest:
        return [], []
    folder = named or recorded
    if not named and not (folder and bf.isdir(folder)):
        return [], ["The nearest training images are not shown: --train was not given."]
    whole = read_whole(folder, class_names, view, flag="--train")
    places = {name: k for k, name in enumerate(whole.names)}
    strangers = [name for name in nearest if name not in places]
    if strangers:
        raise InputError(
            f"--train {folder}: has no image {strangers[0]}, which evaluate.py quality found nearest to a sample; give "
            "the folder that it was run with"
        )
    chosen = whole.take([places[name] for name in nearest])
    trial = [chosen.images[k] for k in _spread(len(chosen), TRIAL)]
    encoding = choose_encoding(trial, len(chosen), TRAIN_BYTES, TRAIN_BYTES)
    pictures = []
    for name, image, mask in zip(chosen.names, chosen.images, chosen.masks, strict=True):
        small = encoding.image(image)
        uris = encoding.data_uri(small), mask_data_uri(encoding.mask(mask))
        pictures.append(TrainPicture(name, mask.shape, small.shape[:2], *uris))
    return pictures, []


def _spread(count: int, most: int) -> list[int]:
    """Up to `most` of the numbers 0..count-1, evenly spread."""
    return sorted({k * count // min(count, most) for k in range(min(count, most))})
