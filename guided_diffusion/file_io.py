"""Files, local or in a cloud store ("gs://...", "az://..."), of which a kill leaves the old content or the new."""

import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image

from .errors import InputError

TEMPORARY_PREFIX = ".tmp-"
PNG_COMPRESSION = 3  # of zlib: a photograph takes a third of the time of the usual 6, and 1% more bytes


def is_cloud(path: str) -> bool:
    """Whether `path` lies in a cloud store instead of on a disk of this machine."""
    return "://" in path


def read_bytes(path: str) -> bytes:
    """The whole content of a file. Raises FileNotFoundError where there is none."""
    return bf.read_bytes(path)


def write_atomic(path: str, data: bytes) -> None:
    """Write `data` to `path`, making its folders, so that readers see the old content or the new one.

    Locally a temporary file is synced and renamed; a cloud store does so itself. Raises OSError or blobfile.Error.
    """
    if is_cloud(path):
        bf.write_bytes(path, data)
        return
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, exist_ok=True)
    # Not tempfile.mkstemp: its 0600 would outlive the rename and lock colleagues out of shared folders.
    temporary = os.path.join(folder, TEMPORARY_PREFIX + secrets.token_hex(8))
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.remove(temporary)
        raise
    with suppress(OSError):  # the rename outlives a power cut, where the system can sync folders at all
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_temporaries(folder: str) -> None:
    """Delete what killed writes left in `folder` (not below it). Call it from the only writer there."""
    if not is_cloud(folder):
        for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                path.unlink()


@contextmanager
def writing(path: str, flag: str, remedy: str) -> Iterator[None]:
    """Make an InputError of what goes wrong inside. flag: how the user named the folder, such as "--work_dir"."""
    try:
        yield
    except (OSError, bf.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{flag}: cannot write {path!r} ({reason}); {remedy}") from error


def ensure_writable(folder: str, flag: str) -> None:
    """Create `folder` and prove by a write that files can be made in it: permission bits say little."""
    with writing(folder, flag, "name a folder that can be created and written"):
        probe = bf.join(folder, TEMPORARY_PREFIX + secrets.token_hex(8))
        write_atomic(probe, b"")
        bf.remove(probe)


def write_if_changed(path: str, data: bytes) -> bool:
    """Write `data` atomically unless the file holds it already; returns whether it was written."""
    if bf.exists(path) and read_bytes(path) == data:
        return False
    write_atomic(path, data)
    return True


def lies_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it."""
    if is_cloud(path) != is_cloud(folder):
        return False
    inner, outer = (place if is_cloud(place) else os.path.realpath(place) for place in (path, folder))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, as_json(value))


def read_json(path: str) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, or InputError where it is not JSON."""
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:  # malformed JSON, or bytes that are no text
        raise InputError(f"{path}: is not valid JSON ({error}); mend or remove it") from error


def encode_png(array: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """PNG bytes of a uint8 array, [H, W] (grey, or indices into `palette`, uint8 [N, 3]) or [H, W, 3] (RGB)."""
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        picture.putpalette(palette.tobytes())  # makes the mode "P"
    picture.save(buffer, format="PNG", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
