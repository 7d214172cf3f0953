"""A folder of generated samples: written, continued after a kill, added to later, and shown on one sheet.

images/NNNNNN.png               uint8 RGB
masks/NNNNNN.png                the mask in colours, for people
masks_converted_dir/NNNNNN.png  the index mask: 0 background, k the k-th type
defects/<type>/NNNNNN.png       0/255, for each type that occurs in the sample
manifest.jsonl                  a line per sample; written last, so it is what makes a sample exist
contact_sheet.png               the first samples at a glance
"""

import io
import json
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image

from ..data.image_files import present_types
from ..data.prepared import read_label_map
from ..errors import InputError
from ..file_io import encode_png, read_bytes, remove_temporaries, write_atomic
from ..pictures import Tile, colorize, draw_sheet, fit_tile, overlay

WRITERS = 8  # a disk waits for several files as long as for one
_KEYS = {"image": "images", "mask": "masks", "index_mask": "masks_converted_dir"}  # of a manifest's row
_SAMPLE_FILE = re.compile(r"(\d{6,})\.png")


class SampleFolder:
    """A folder of samples made by the same settings, all that decides them besides their index, as JSON would hold it.

    Making the object only reads; it raises InputError where the folder holds samples of other settings, or images that
    are not known to be samples. One process may add() at a time.
    """

    def __init__(self, sample_dir: str, class_names: Sequence[str], settings: dict[str, Any]) -> None:
        self._folder, self._class_names = sample_dir, list(class_names)
        self._type_folders = _type_folders(class_names)
        # Through JSON and back, so that tuples compare equal to the lists that a manifest holds.
        self._settings = json.loads(json.dumps({**settings, "class_names": self._class_names}))
        self._manifest = bf.join(sample_dir, "manifest.jsonl")
        self._lines: dict[int, str] = {}  # of the manifest, by sample
        self._prepared = False
        if bf.exists(self._manifest):
            new = dict(_flat(self._settings))
            for row in read_manifest(self._manifest):
                old = dict(_flat(row["settings"]))
                for key in [*new, *old]:
                    if old.get(key) != new.get(key) and (key, old.get(key)) != ("upscale", 1):  # of older folders
                        raise InputError(
                            f"`sample_dir`: {sample_dir!r} holds samples made with {key} {_short(old.get(key))}, not "
                            f"{_short(new.get(key))}; use the settings of its manifest.jsonl, or another `sample_dir`"
                        )
                self._lines[row["index"]] = _line(row)
        elif own := [name for name in _KEYS.values() if _listdir(bf.join(sample_dir, name))]:
            raise InputError(
                f"`sample_dir`: {sample_dir!r} has files in {own[0]}/ but no manifest.jsonl, so they may not be "
                "generated ones; name another `sample_dir`"
            )

    def missing(self, num_samples: int) -> list[int]:
        """The indices among 0..num_samples-1 of which there is no sample yet, ascending."""
        return [index for index in range(num_samples) if index not in self._lines]

    def add(
        self,
        indices: Sequence[int],
        images: np.ndarray,
        masks: np.ndarray,
        conditions: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        """Write samples: uint8 images [N, H, W, 3] and uint8 index masks [N, H, W], N = len(indices).

        conditions: the files that each was held to, {"mask": name, "background": name}, for the manifest.
        Raises ValueError where these do not fit together or a mask has an index without a type, and InputError where
        a file cannot be written.
        """
        if images.shape != (len(indices), *masks.shape[1:], 3) or len(masks) != len(indices):
            raise ValueError(f"{len(indices)} indices, images {images.shape} and masks {masks.shape} differ")
        if masks.max(initial=0) > len(self._class_names):
            raise ValueError(f"mask index {masks.max()}, but there are {len(self._class_names)} types")
        if not self._prepared:
            self._prepare()
        with ThreadPoolExecutor(WRITERS) as pool:
            rows = list(pool.map(self._write_sample, map(int, indices), images, masks))
        for i, row in enumerate(rows):
            self._lines[row["index"]] = _line({**row, "condition": conditions[i]} if conditions else row)
        self._write_manifest()

    def write_contact_sheet(self, max_samples: int = 64) -> str:
        """Draw the first samples beside their masks to contact_sheet.png and return its path.

        Raises InputError where there is no sample, or a file of one is gone.
        """
        if not self._lines:
            raise InputError(f"`sample_dir`: {self._folder!r} holds no samples to draw a contact sheet of")
        rows, tiles = [json.loads(self._lines[index]) for index in sorted(self._lines)], []
        for row in rows[:max_samples]:
            image, mask = self._read_png(row["image"]), self._read_png(row["index_mask"])
            types = {k: name for k, name in enumerate(self._class_names, start=1) if name in row["types"]}
            tiles.append(Tile(fit_tile(image), fit_tile(overlay(image, mask, alpha=0.7)), f"{row['index']:06d}", types))
        total = f"{len(rows):,} generated sample{'s' * (len(rows) > 1)}"
        title = total if len(tiles) == len(rows) else f"first {len(tiles)} of {total}"
        legend = [f"{name} (in {sum(name in row['types'] for row in rows):,})" for name in self._class_names]
        sheet = draw_sheet(title, _short_settings(self._settings), legend, tiles)
        path = bf.join(self._folder, "contact_sheet.png")
        remove_temporaries(self._folder)  # of a run that was killed here, with no sample left to make
        self._write(path, encode_png(np.asarray(sheet)))
        return path

    def _write_manifest(self) -> None:
        self._write(self._manifest, "".join(self._lines[i] for i in sorted(self._lines)).encode())

    def _prepare(self) -> None:
        """Mark a new folder as ours by an empty manifest, or clear what a kill left in an old one."""
        self._prepared = True
        remove_temporaries(self._folder)
        if not bf.exists(self._manifest):
            self._write_manifest()
            return
        types = [f"defects/{name}" for name in _listdir(bf.join(self._folder, "defects"))]
        for folder in (bf.join(self._folder, name) for name in (*_KEYS.values(), *types)):
            remove_temporaries(folder)
            for name in _listdir(folder):
                match = _SAMPLE_FILE.fullmatch(name)
                if match and int(match[1]) not in self._lines:
                    bf.remove(bf.join(folder, name))

    def _write_sample(self, index: int, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Write the files of one sample and return its manifest row."""
        name = f"{index:06d}.png"
        types = present_types(mask, self._class_names)
        paths = {key: f"{folder}/{name}" for key, folder in _KEYS.items()}
        defects = {type_: f"defects/{self._type_folders[type_]}/{name}" for type_ in types}
        binary = ((mask == self._class_names.index(type_) + 1).astype(np.uint8) * 255 for type_ in types)
        arrays = (image, colorize(mask), mask, *binary)
        for path, array in zip((*paths.values(), *defects.values()), arrays, strict=True):
            self._write(bf.join(self._folder, path), encode_png(array))
        about = {"defects": defects, "types": types, "settings": self._settings}
        return {"index": index, "seed": self._settings.get("seed"), **paths, **about}

    def _write(self, path: str, data: bytes) -> None:
        try:
            write_atomic(path, data)
        except (OSError, bf.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"`sample_dir`: cannot write {path!r} ({reason}); the samples in manifest.jsonl are complete, and the "
                "same command goes on from there"
            ) from error

    def _read_png(self, path: str) -> np.ndarray:
        path = bf.join(self._folder, path)
        try:
            return np.asarray(Image.open(io.BytesIO(read_bytes(path))))
        except OSError as error:
            raise InputError(
                f"{path}: is in manifest.jsonl but missing or damaged; remove its line there to make it anew"
            ) from error


def read_manifest(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest.jsonl, at least with index, image, index_mask, types, settings. Raises InputError."""
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            complete = row.keys() >= {"index", "image", "index_mask", "types", "settings"}
        except (ValueError, AttributeError):
            complete = False
        if not complete:
            raise InputError(f"{path}: line {number} does not describe a sample; remove it, or name another folder")
        yield row


def recorded_settings(folder: str) -> dict[str, Any]:
    """The settings of the samples in a folder; {} where there are none. Raises InputError as SampleFolder does."""
    path = bf.join(folder, "manifest.jsonl")
    return next(read_manifest(path), {}).get("settings", {}) if bf.exists(path) else {}


def class_names_of(folder: str) -> tuple[str, ...] | None:
    """The types of a data set or sample folder, by their index; None where neither manifest nor dataset.json tells."""
    if names := recorded_settings(folder).get("class_names"):
        return tuple(names)
    label_map = read_label_map(folder)
    return label_map and tuple(sorted(label_map, key=label_map.get))


def common_class_names(folders: dict[str, str]) -> tuple[str, ...]:
    """The types that all these folders agree on, `folders` being {what the user calls it: folder}.

    Folders that do not tell are passed over. Raises InputError where one is missing, two differ or none tells.
    """
    for flag, folder in folders.items():
        if not bf.isdir(folder):
            raise InputError(f"{flag} {folder}: does not exist; check the path")
    known = {flag: names for flag, folder in folders.items() if (names := class_names_of(folder))}
    if not known:
        flag, folder = next(iter(folders.items()))
        raise InputError(
            f"{flag} {folder}: no manifest.jsonl or dataset.json says which types its masks hold; add "
            'dataset.json with {"label_map": {"<type>": 1, ...}}'
        )
    first = next(iter(known))
    for flag, names in known.items():
        if names != known[first]:
            raise InputError(
                f"{flag} {folders[flag]}: its types are {', '.join(names)}, but those of {first} {folders[first]} are "
                f"{', '.join(known[first])}; use sets with the same label map"
            )
    return known[first]


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _listdir(folder: str) -> list[str]:
    return sorted(name.rstrip("/") for name in bf.listdir(folder)) if bf.isdir(folder) else []


def _type_folders(class_names: Sequence[str]) -> dict[str, str]:
    """A folder name for each type: letters, digits, '-', '_' and '.', and no two alike."""
    folders: dict[str, str] = {}
    for k, name in enumerate(class_names, start=1):
        folder = re.sub(r"[^\w.-]", "_", name)
        if not folder.strip("."):  # "" or ".."
            folder = f"type_{k}"
        if folder.lower() in map(str.lower, folders.values()):  # lower: some disks do not tell case
            folder = f"{folder}_{k}"
        folders[name] = folder
    return folders


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """What is in nested dicts, by dotted keys."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else name)


def _short(value: Any, limit: int = 72) -> str:
    text = "unset" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _short_settings(settings: dict[str, Any]) -> str:
    """The settings that a title line has room for: no hashes, paths or nested ones."""
    shown = dict(settings)
    for key, sign in (("image_size", " x "), ("num_steps", "+")):
        if isinstance(shown.get(key), list):
            shown[key] = sign.join(map(str, shown[key]))
    short = (key for key, value in shown.items() if isinstance(value, (str, int, float)) and len(str(value)) <= 16)
    return "   ".join(f"{key} {shown[key]}" for key in short)
