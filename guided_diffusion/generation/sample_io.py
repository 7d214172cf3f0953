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

from ..data.index_masks import present_types
from ..errors import InputError
from ..file_io import encode_png, read_bytes, remove_temporaries, write_atomic
from ..pictures import Tile, colorize, draw_sheet, fit_tile, overlay

WRITERS = 8
_FOLDERS = ("images", "masks", "masks_converted_dir")
_SAMPLE_FILE = re.compile(r"(\d{6,})\.png")
# What older manifests do not say, because there was no choice yet.
_FORMERLY = {"spacing": "uniform", "windows": "off", "upscale": 1}


class SampleFolder:
    """A folder that holds samples of one kind: made by the same settings with the same types.

    `settings` is everything that decides the samples besides their index, as JSON would hold it. Making
    the object only reads; it raises InputError where the folder holds samples of other settings, or
    images that are not known to be samples. One process may add() at a time.
    """

    def __init__(self, folder: str, class_names: Sequence[str], settings: dict[str, Any]) -> None:
        self._folder = folder
        self._class_names = list(class_names)
        self._type_folders = _type_folders(class_names)
        # Through JSON and back, so that tuples compare equal to the lists that a manifest holds.
        self._settings = json.loads(json.dumps({**settings, "class_names": self._class_names}))
        self._manifest = bf.join(folder, "manifest.jsonl")
        self._rows: dict[int, dict[str, Any]] = {}
        self._lines: dict[int, str] = {}  # the rows as JSON, made once each
        self._prepared = False
        if bf.exists(self._manifest):
            for row in read_manifest(self._manifest):
                self._check_settings(row["settings"])
                self._keep(row)
        else:
            self._check_unused()

    def missing(self, num_samples: int) -> list[int]:
        """The indices among 0..num_samples-1 of which there is no sample yet, ascending."""
        return [index for index in range(num_samples) if index not in self._rows]

    def add(
        self,
        indices: Sequence[int],
        images: np.ndarray,
        masks: np.ndarray,
        conditions: Sequence[dict[str, str]] | None = None,
    ) -> None:
        """Write samples: uint8 images [N, H, W, 3] and uint8 index masks [N, H, W], N = len(indices).

        conditions: the files that each was held to, {"mask": name, "background": name}, for the manifest.
        Raises ValueError where these do not fit together or a mask has an index without a type, and InputError where
        a file cannot be written.
        """
        if images.shape != (len(indices), *masks.shape[1:], 3) or len(masks) != len(indices):
            raise ValueError(
                f"{len(indices)} indices, images {list(images.shape)} and masks {list(masks.shape)} differ"
            )
        if masks.size and masks.max() > len(self._class_names):
            raise ValueError(f"mask index {masks.max()}, but there are {len(self._class_names)} types")
        if not self._prepared:
            self._prepare()
        with ThreadPoolExecutor(WRITERS) as pool:  # a disk waits for several files as long as for one
            rows = list(pool.map(self._write_sample, map(int, indices), images, masks))
        for row, condition in zip(rows, conditions or [None] * len(rows), strict=True):
            self._keep(row if condition is None else {**row, "condition": condition})
        self._write_manifest()

    def write_contact_sheet(self, max_samples: int = 64) -> str:
        """Draw the first samples beside their masks to contact_sheet.png and return its path.

        Raises InputError where there is no sample, or a file of one is gone.
        """
        if not self._rows:
            raise InputError(f"--sample_dir: {self._folder!r} holds no samples to draw a contact sheet of")
        shown = sorted(self._rows)[:max_samples]
        total = f"{len(self._rows):,} generated sample{'s' * (len(self._rows) > 1)}"
        frequency = [sum(name in row["types"] for row in self._rows.values()) for name in self._class_names]
        sheet = draw_sheet(
            title=total if len(shown) == len(self._rows) else f"first {len(shown)} of {total}",
            settings=_short_settings(self._settings),
            legend=[f"{name} (in {n:,})" for name, n in zip(self._class_names, frequency, strict=True)],
            tiles=[self._read_tile(index) for index in shown],
        )
        path = bf.join(self._folder, "contact_sheet.png")
        remove_temporaries(self._folder)  # of a run that was killed here, with no sample left to make
        self._write(path, encode_png(np.asarray(sheet)))
        return path

    def _check_settings(self, found: dict[str, Any]) -> None:
        former = {key: value for key, value in _FORMERLY.items() if key in self._settings}
        difference = _first_difference({**former, **found}, self._settings)
        if difference:
            key, theirs, ours = difference
            raise InputError(
                f"--sample_dir: {self._folder!r} holds samples made with {key} {theirs}, not {ours}; "
                "use the settings of its manifest.jsonl, or another --sample_dir"
            )

    def _check_unused(self) -> None:
        """Without a manifest, images are someone's own: samples must not be written over or among them."""
        for name in _FOLDERS:
            if _listdir(bf.join(self._folder, name)):
                raise InputError(
                    f"--sample_dir: {self._folder!r} has files in {name}/ but no manifest.jsonl, so they may "
                    "not be generated ones; name another --sample_dir"
                )

    def _keep(self, row: dict[str, Any]) -> None:
        self._rows[row["index"]] = row
        self._lines[row["index"]] = json.dumps(row, ensure_ascii=False) + "\n"

    def _write_manifest(self) -> None:
        self._write(self._manifest, "".join(self._lines[i] for i in sorted(self._lines)).encode())

    def _prepare(self) -> None:
        """Mark a new folder as ours by an empty manifest, or clear what a kill left in an old one."""
        self._prepared = True
        remove_temporaries(self._folder)
        if not bf.exists(self._manifest):
            self._write_manifest()
            return
        defects = bf.join(self._folder, "defects")
        folders = [bf.join(self._folder, name) for name in _FOLDERS]
        folders += [bf.join(defects, name) for name in _listdir(defects)]
        for folder in folders:
            remove_temporaries(folder)
            for name in _listdir(folder):
                match = _SAMPLE_FILE.fullmatch(name)
                if match and int(match[1]) not in self._rows:
                    bf.remove(bf.join(folder, name))

    def _write_sample(self, index: int, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Write the files of one sample and return its manifest row."""
        name = f"{index:06d}.png"
        types = present_types(mask, self._class_names)
        defects = {type_: f"defects/{self._type_folders[type_]}/{name}" for type_ in types}
        row = {
            "index": index,
            "seed": self._settings.get("seed"),
            "image": f"images/{name}",
            "mask": f"masks/{name}",
            "index_mask": f"masks_converted_dir/{name}",
            "defects": defects,
            "types": types,
            "settings": self._settings,
        }
        self._write_png(row["image"], image)
        self._write_png(row["mask"], colorize(mask))
        self._write_png(row["index_mask"], mask)
        for type_, path in defects.items():
            occurs = mask == self._class_names.index(type_) + 1
            self._write_png(path, occurs.astype(np.uint8) * 255)
        return row

    def _write_png(self, path: str, array: np.ndarray) -> None:
        self._write(bf.join(self._folder, path), encode_png(array))

    def _write(self, path: str, data: bytes) -> None:
        try:
            write_atomic(path, data)
        except (OSError, bf.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"--sample_dir: cannot write {path!r} ({reason}); the samples in manifest.jsonl are complete, and the "
                "same command goes on from there"
            ) from error

    def _read_tile(self, index: int) -> Tile:
        row = self._rows[index]
        image, mask = self._read_png(row["image"]), self._read_png(row["index_mask"])
        types = {k: name for k, name in enumerate(self._class_names, start=1) if name in row["types"]}
        return Tile(fit_tile(image), fit_tile(overlay(image, mask, alpha=0.7)), f"{index:06d}", types)

    def _read_png(self, path: str) -> np.ndarray:
        path = bf.join(self._folder, path)
        try:
            return np.asarray(Image.open(io.BytesIO(read_bytes(path))))
        except OSError as error:
            raise InputError(
                f"{path}: is in manifest.jsonl but missing or damaged; remove its line there to make it anew"
            ) from error


def recorded_settings(folder: str) -> dict[str, Any]:
    """The settings of the samples in a folder; {} where there are none. Raises InputError as SampleFolder does."""
    path = bf.join(folder, "manifest.jsonl")
    rows = read_manifest(path) if bf.exists(path) else iter(())
    return next(rows, {"settings": {}})["settings"]


def _listdir(folder: str) -> list[str]:
    return sorted(name.rstrip("/") for name in bf.listdir(folder)) if bf.isdir(folder) else []


def _type_folders(class_names: Sequence[str]) -> dict[str, str]:
    """A folder name for each type: letters, digits, '-', '_' and '.', and no two alike."""
    folders: dict[str, str] = {}
    taken: set[str] = set()
    for k, name in enumerate(class_names, start=1):
        folder = re.sub(r"[^\w.-]", "_", name)
        if not folder.strip("."):  # "" or ".."
            folder = f"type_{k}"
        if folder.lower() in taken:  # lower: some disks do not tell case
            folder = f"{folder}_{k}"
        taken.add(folder.lower())
        folders[name] = folder
    return folders


def read_manifest(path: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            whole = isinstance(row["index"], int) and isinstance(row["settings"], dict)
            whole = whole and all(key in row for key in ("image", "index_mask", "types"))
        except (ValueError, TypeError, KeyError):
            whole = False
        if not whole:
            raise InputError(
                f"{path}: line {number} does not describe a sample; remove that line, or name another --sample_dir"
            )
        yield row


def _first_difference(old: Any, new: Any, key: str = "") -> tuple[str, str, str] | None:
    """Dotted key, old and new value (as short text) where two JSON values first differ, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*new, *(name for name in old if name not in new)]:
            inner = f"{key}.{name}" if key else name
            if name not in old or name not in new:
                here, there = (_short(values[name]) if name in values else "unset" for values in (old, new))
                return inner, here, there
            difference = _first_difference(old[name], new[name], inner)
            if difference:
                return difference
        return None
    return None if old == new else (key, _short(old), _short(new))


def _short(value: Any, limit: int = 72) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _short_settings(settings: dict[str, Any]) -> str:
    """The settings that a title line has room for: no hashes, paths or nested ones."""
    shown = []
    for key, value in settings.items():
        if isinstance(value, list) and key in ("image_size", "num_steps"):
            value = (" x " if key == "image_size" else "+").join(map(str, value))
        if isinstance(value, (str, int, float)) and len(str(value)) <= 16:
            shown.append(f"{key} {value}")
    return "   ".join(shown)
