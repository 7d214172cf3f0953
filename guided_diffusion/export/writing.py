"""Writing an export: only into a folder of its own, what is there already left alone, what leads to it last."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import blobfile as bf
from tqdm import tqdm

from ..errors import InputError
from ..file_io import ensure_writable, read_json, remove_temporaries, write_if_changed
from .contents import Content, read_content
from .records import Export, Record

WRITERS = 8  # a disk waits for several files as long as for one
RECORD_FILE = "export.json"
LEFT_BY_READERS = (".cache", ".npy")  # ultralytics leaves labels/train.cache and, where asked to, images as arrays
Files = dict[str, Callable[[Content], bytes]]  # path below OUT: what makes its content
IndexFiles = dict[str, Callable[[], bytes]]


@dataclass(frozen=True)
class Format:
    """What a consumer wants.

    files: those of one record; {} leaves it out. index_files: those that lead to the others. notes: lines for the user.
    takes_good: defect-free images are wanted without being asked for. has_parts: there is a place for held-out images.
    """

    files: Callable[[Export, Record], Files]
    index_files: Callable[[Export], IndexFiles] = lambda export: {}
    notes: Callable[[Export], list[str]] = lambda export: []
    takes_good: bool = False
    has_parts: bool = True


def write_export(out: str, name: str, form: Format, export: Export, about: dict[str, Any]) -> int:
    """Write `export` into the folder `out`; returns how many files had to be written.

    name: of the format. about: where the export came from, for export.json. The files that lead to the others are
    written last. What is there already with the same content is left alone, so a run that was cut off goes on. Raises
    InputError, before anything is written, where `out` holds anything that does not belong to this export.
    """
    planned = [(record, files) for record in export.records if (files := form.files(export, record))]
    index_files = form.index_files(export)
    paths = [*(path for _, files in planned for path in files), *index_files, RECORD_FILE]
    _check_no_strangers(out, name, set(paths))
    ensure_writable(out, "OUT")
    for folder in {bf.dirname(bf.join(out, path)) for path in paths}:
        remove_temporaries(folder)
    if not bf.exists(bf.join(out, RECORD_FILE)):  # marks the folder as ours, should this run be cut off
        _write(out, RECORD_FILE, _as_json({"format": name}))

    def write_record(item: tuple[Record, Files]) -> int:
        record, files = item
        content = read_content(record, len(export.class_names))
        return sum(_write(out, path, make(content)) for path, make in files.items())

    with ThreadPoolExecutor(WRITERS) as pool:
        written = sum(tqdm(pool.map(write_record, planned), "writing", len(planned), unit="image", disable=None))
    written += sum(_write(out, path, make()) for path, make in index_files.items())
    files_of = {path: record.sample.image for record, files in planned for path in list(files)[:1]}
    content = {"format": name, **about, "label_map": export.label_map, "generation": export.settings, "files": files_of}
    return written + _write(out, RECORD_FILE, _as_json(content))


def _write(out: str, path: str, data: bytes) -> bool:
    try:
        return write_if_changed(bf.join(out, path), data)
    except (OSError, bf.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"OUT: cannot write {bf.join(out, path)!r} ({reason}); the same command goes on from there"
        ) from error


def _as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _check_no_strangers(out: str, name: str, expected: set[str]) -> None:
    """Refuse to write over or among files that are not of this export."""
    if bf.exists(out) and not bf.isdir(out):
        raise InputError(f"OUT {out}: is a file; name a folder for the export")
    found = [path for path in _walk(out) if not _is_ignored(path)]
    if not found:
        return
    path = bf.join(out, RECORD_FILE)
    content = read_json(path) if bf.exists(path) else None
    theirs = content.get("format") if isinstance(content, dict) else None
    if theirs != name:
        what = f"holds an export as {theirs}" if theirs else "is not empty and holds no export"
        raise InputError(f"OUT {out}: {what}; name a new folder, or remove what is there")
    strangers = sorted(set(found) - expected)
    if strangers:
        raise InputError(
            f"OUT {out}: holds {len(strangers)} files that are not of this export, such as {strangers[0]}; name a new "
            "folder, or remove what is there"
        )


def _walk(folder: str, below: str = "") -> Iterator[str]:
    """The path of every file below `folder`, relative to it."""
    if not bf.isdir(folder):
        return
    for entry in bf.scandir(folder):
        if entry.is_dir:
            yield from _walk(bf.join(folder, entry.name), f"{below}{entry.name}/")
        else:
            yield below + entry.name


def _is_ignored(path: str) -> bool:
    """Whether a file is hidden, as temporary ones are, or a consumer's note to itself."""
    return any(part.startswith(".") for part in path.split("/")) or path.endswith(LEFT_BY_READERS)
