"""A folder of generated samples: written, continued after a kill, added to later, and shown on contact_sheet.png.

images/, masks/ (coloured), masks_converted_dir/ (0 background, k the k-th type) and defects/<type>/ (0/255, where the
type occurs) hold NNNNNN.png; manifest.jsonl has a line per sample, written last, so it is what makes a sample exist.
"""

import json
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import blobfile as bf
import numpy as np

from ..data.files import check_no_links, list_folder
from ..data.image_files import present_types, read_image, read_index_mask
from ..data.prepared import SAMPLES, check_apart, listed, read_label_map
from ..data.records import FOLDERS, MANIFEST, MAX_SAMPLES, RELEASED, read_manifest, read_records
from ..errors import InputError, whole
from ..file_io import encode_png, remove_inside, remove_temporaries, write_atomic, write_or_warn
from ..pictures import colorize, draw_sheet, tile_of

WRITERS = 8  # a disk waits for several files as long as for one
REAL = ("--real", "--val", "--train")  # flags of folders that hold no samples
_SAMPLE_FILE = re.compile(r"(\d{6,})\.png")


class SampleFolder:
    """A folder of samples made by the same settings, all that decides them besides their index, as JSON would hold it.

    Making the object only reads; it raises InputError where the folder holds samples of other settings, images that are
    not known to be samples, or links that lead out of it. One process may add() at a time: file_io.lock_folder."""

    def __init__(self, sample_dir: str, class_names: Sequence[str], settings: dict[str, Any]) -> None:
        self._folder, self._class_names = sample_dir, list(class_names)
        self._type_folders = _type_folders(class_names)
        # Through JSON and back, so that tuples compare equal to the lists that a manifest holds.
        try:
            self._settings = json.loads(json.dumps({**settings, "class_names": self._class_names}))
        except TypeError as error:
            raise InputError(f"`about`: {error}; give numbers, texts, lists and dicts of these") from None
        self._manifest = bf.join(sample_dir, MANIFEST)
        self._folders = [*FOLDERS.values(), *(f"defects/{name}" for name in self._type_folders.values())]
        check_no_links(sample_dir, self._folders)  # nothing is written or removed through them
        self._prepared = False
        check_apart(sample_dir, "sample_dir", [RELEASED])
        rows = read_manifest(sample_dir)
        self._rows = rows or {}  # of the manifest, by sample
        new, settings = _flat(self._settings), [row["settings"] for row in self._rows.values()]  # all alike
        old = _flat(settings[0]) if settings else new
        for key in [*new, *old]:
            if old.get(key) != new.get(key):
                fault = f"holds samples made with {key} {old.get(key)!r}, not {new.get(key)!r}"
                remedy = "use the settings of its manifest.jsonl, or another `sample_dir`"
                raise InputError(f"`sample_dir`: {sample_dir!r} {fault}; {remedy}")
        filled = [name for name in FOLDERS.values() if rows is None and list_folder(bf.join(sample_dir, name))[0]]
        if filled:
            fault = f"has files in {filled[0]}/ but no manifest.jsonl, so they may not be generated ones"
            raise InputError(f"`sample_dir`: {sample_dir!r} {fault}; name another `sample_dir`")

    def missing(self, num_samples: int) -> list[int]:
        """The indices among 0..num_samples-1 of which there is no sample yet, ascending."""
        return [index for index in range(num_samples) if index not in self._rows]

    @property
    def num_empty(self) -> int:
        """How many of the samples show no defect."""
        return sum(not row["types"] for row in self._rows.values())

    def add(
        self,
        indices: Sequence[int],
        images: Sequence[np.ndarray],
        masks: Sequence[np.ndarray],
        conditions: Sequence[Mapping[str, Any] | None] = (),
    ) -> None:
        """Write samples: N images uint8 [H, W, 3] and index masks uint8 [H, W], N = len(indices).

        conditions: what the manifest says that each was held to. Raises InputError where a file cannot be written."""
        indices = [whole("indices", index, MAX_SAMPLES - 1) for index in indices]
        if not len(indices) == len(images) == len(masks) == len(conditions or images) == len({*indices}):
            given = f"{len(images)} images, {len(masks)} masks, {len({*indices})} numbers, {len(conditions)} conditions"
            raise InputError(f"`indices`: {given}; give as many of each, no number twice, conditions or none")
        for image, mask in zip(images, masks, strict=True):
            if not image.dtype == mask.dtype == np.uint8 or mask.ndim != 2 or image.shape != (*mask.shape, 3):
                given = f"{image.dtype} {list(image.shape)} with a mask {mask.dtype} {list(mask.shape)}"
                raise InputError(f"`images`: {given}; give uint8 [H, W, 3] with uint8 [H, W]")
        if (top := max((int(mask.max()) for mask in masks), default=0)) > len(self._class_names):
            raise InputError(f"`masks`: hold type {top}, but there are {len(self._class_names)}")
        if not self._prepared:
            self._prepare()
        with ThreadPoolExecutor(WRITERS) as pool:
            rows = list(pool.map(self._write_sample, indices, images, masks))
        for row, condition in zip(rows, conditions or [None] * len(rows), strict=True):
            self._rows[row["index"]] = row if condition is None else row | {"condition": condition}
        self._write_manifest()

    def write_contact_sheet(self, max_samples: int = 64) -> str:
        """Draw the first samples beside the outlines of their masks to contact_sheet.png (or warn) and return its path.
        Raises InputError where there is no sample, or a file of one is gone."""
        if not self._rows:
            raise InputError(f"`sample_dir`: {self._folder!r} holds no samples to draw a contact sheet of")
        rows, tiles = [self._rows[index] for index in sorted(self._rows)], []
        for row in rows[:max_samples]:
            try:
                image = read_image(bf.join(self._folder, row["image"]))
                mask = read_index_mask(bf.join(self._folder, row["index_mask"]), len(self._class_names))
            except InputError as error:
                raise InputError(f"{error}; it is in manifest.jsonl: remove its line there to make it anew") from error
            caption = f"{row['index']:06d}  {', '.join(row['types']) or 'no defect'}"
            tiles.append(tile_of(image, mask, caption))
        total = f"{len(rows):,} generated sample{'s' * (len(rows) > 1)}"
        title = total if len(tiles) == len(rows) else f"first {len(tiles)} of {total}"
        legend = [f"{name} (in {sum(name in row['types'] for row in rows):,})" for name in self._class_names]
        short = [f"{key} {value}" for key, value in self._settings.items() if len(str(value)) <= 16]  # no hashes
        sheet = draw_sheet(title, short, legend, tiles)
        path = bf.join(self._folder, "contact_sheet.png")
        remove_temporaries(self._folder)  # of a run that was killed here, with no sample left to make
        write_or_warn(path, encode_png(np.asarray(sheet)))
        return path

    def _write_manifest(self) -> None:
        lines = (json.dumps(self._rows[index], ensure_ascii=False) + "\n" for index in sorted(self._rows))
        self._write(self._manifest, "".join(lines).encode())

    def _prepare(self) -> None:
        """Mark a new folder as ours by an empty manifest, or clear what a kill left in an old one."""
        self._prepared = True
        remove_temporaries(self._folder)
        if not bf.exists(self._manifest):
            self._write_manifest()
            return
        for folder in self._folders:
            remove_temporaries(bf.join(self._folder, folder))
            for name in list_folder(bf.join(self._folder, folder))[0]:
                match = _SAMPLE_FILE.fullmatch(name)
                if match and int(match[1]) not in self._rows:
                    remove_inside(self._folder, f"{folder}/{name}", "`sample_dir`:")

    def _write_sample(self, index: int, image: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        """Write the files of one sample and return its manifest row."""
        name, types = f"{index:06d}.png", present_types(mask, self._class_names)
        paths = {key: f"{folder}/{name}" for key, folder in FOLDERS.items()}
        defects = {type_: f"defects/{self._type_folders[type_]}/{name}" for type_ in types}
        binary = ((mask == self._class_names.index(type_) + 1).astype(np.uint8) * 255 for type_ in types)
        arrays = (image, colorize(mask), mask, *binary)
        for path, array in zip((*paths.values(), *defects.values()), arrays, strict=True):
            self._write(bf.join(self._folder, path), encode_png(array))
        about = {"defects": defects, "types": types, "settings": self._settings}
        return {"index": index, "seed": self._settings.get("seed"), **paths, **about}

    def _write(self, path: str, data: bytes) -> None:
        remedy = "the samples in manifest.jsonl are complete, and the same command goes on from there"
        write_atomic(path, data, "`sample_dir`", remedy)


def common_class_names(folders: Mapping[str, str], known: Mapping[str, Sequence[str]] | None = None) -> tuple[str, ...]:
    """The types that these folders, {what the user calls it: folder}, and `known` agree on; some may not tell. Raises
    InputError where one is missing or of the wrong kind, two differ or none tells."""
    for flag, folder in folders.items():
        _check_kind(flag, folder)
    found = {f"{flag} {folder}": read_label_map(folder) for flag, folder in folders.items()}
    known = {**(known or {}), **{name: tuple(sorted(own, key=own.get)) for name, own in found.items() if own}}
    if not known:
        flag, folder = next(iter(folders.items()))
        fault = "no manifest.jsonl or dataset.json says which types its masks hold"
        raise InputError(f'{flag} {folder}: {fault}; add dataset.json with {{"label_map": {{"<type>": 1, ...}}}}')
    first = next(iter(known))
    for name, types in known.items():
        if types != known[first]:
            fault = f"its types are {', '.join(types)}, but those of {first} are {', '.join(known[first])}"
            raise InputError(f"{name}: {fault}; use sets with the same label map")
    return known[first]


def _check_kind(flag: str, folder: str) -> None:
    """Refuse real images as samples, and generated ones as real (REAL); say which images a manifest leaves out."""
    if not bf.isdir(folder):
        problem = "is not a folder" if bf.exists(folder) else "does not exist"
        raise InputError(f"{flag} {folder}: {problem}; check the path")
    if not bf.isdir(bf.join(folder, SAMPLES[1])):
        if flag.startswith("--samples"):
            raise InputError(f"{flag} {folder}: holds no samples ({listed([SAMPLES])}); name a folder of inference.py")
        return
    rows = read_manifest(folder)
    if flag in REAL:
        made = [row.get("source") for row in read_records(folder).get("images", [])]
        if rows is not None or ("generated" in made and flag != "--train"):  # generators may train on both
            raise InputError(f"{flag} {folder}: holds generated images; name a prepared set of real ones")
    elif rows is not None and (left := len(list_folder(bf.join(folder, SAMPLES[0]))[0]) - len(rows)) > 0:
        cause = "its run was stopped, or the file was cut"
        print(f"note: {flag} {folder}: {left} images are not in manifest.jsonl, so they are left out ({cause})")


def _type_folders(class_names: Sequence[str]) -> dict[str, str]:
    """A folder name for each type: letters, digits, '-', '_' and '.', and no two alike."""
    folders: dict[str, str] = {}
    for k, name in enumerate(class_names, start=1):
        folder = re.sub(r"[^\w.-]", "_", name)
        if not folder.strip("."):  # "" or ".."
            folder = f"type_{k}"
        while folder.lower() in map(str.lower, folders.values()):  # lower: some disks do not tell case
            folder = f"{folder}_{k}"
        folders[name] = folder
    return folders


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """What is in it, and in the dicts in it by dotted keys."""
    nested = ((key, value if isinstance(value, dict) else {"": value}) for key, value in settings.items())
    return {f"{key}.{inner}".rstrip("."): value for key, values in nested for inner, value in values.items()}
