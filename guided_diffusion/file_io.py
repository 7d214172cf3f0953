"""Files, local or in a cloud store ("gs://...", "az://..."): the one place where they are read, written and deleted.

A kill leaves the old content of a file or the new. What goes wrong is an InputError of one line.
"""

import errno
import io
import json
import math
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import blobfile as bf
import numpy as np
from PIL import Image
from tqdm import tqdm

from .errors import InputError, brief, reason

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None
TEMPORARY_PREFIX = ".tmp-"
LOCK_FILE = ".lock"
JSON_DEPTH = 100
PNG_COMPRESSION = 3  # of zlib: a photograph takes a third of the time of the usual 6, and 1% more bytes
SPACE = "free space, or name a folder that can be written"
OTHER_FOLDER = "name a folder that can be created and written"
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_warned: set[str] = set()  # paths that write_or_warn spoke of


def as_path(value: Any, parameter: str) -> str:
    """A path that is given as a text or an os.PathLike. Raises InputError."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise InputError(f"`{parameter}` {brief(value)}: must be a path") from None


def is_cloud(path: str) -> bool:
    """Whether `path` lies in a cloud store instead of on a disk of this machine."""
    return "://" in str(path)


def read_bytes(path: str) -> bytes:
    """The whole content of a file. Raises FileNotFoundError where there is none, else InputError."""
    try:
        if is_cloud(path):
            return bf.read_bytes(path)
        _check_regular(path, "cannot be read")  # before it is opened: opening a pipe waits for its writer
        with open(path, "rb") as file:
            size, data = os.fstat(file.fileno()).st_size, file.read()
    except (FileNotFoundError, InputError):
        raise
    except (OSError, bf.Error, ValueError, MemoryError) as error:  # ValueError: no path at all, as with a null in it
        raise InputError(f"{path}: cannot be read ({reason(error)}); check the path and its permissions") from error
    if len(data) != size:
        raise InputError(f"{path}: changed or cut while it was read ({len(data)} of {size} bytes); try again")
    return data


def _check_regular(path: str, fault: str) -> None:
    """Refuse folders, and what ends never or acts when it is opened: devices, pipes, sockets."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        kind = "folder" if os.path.isdir(path) else "pipe, a socket or a device"
        raise InputError(f"{path}: {fault}, it is a {kind}; name a regular file")


def mentions(path: str, *keys: str) -> bool:
    """Whether a file holds these JSON keys, be it damaged or in UTF-16."""
    with suppress(OSError):
        data = read_bytes(path).replace(b"\0", b"")
        return all(f'"{key}"'.encode() in data for key in keys)
    return False


def write_atomic(path: str, data: bytes, flag: str = "", remedy: str = SPACE) -> None:
    """Write `data` to `path`, making its folders, so that readers see the old content or the new one: locally a
    temporary file is synced and renamed; a cloud store does so itself. Raises InputError as writing() does."""
    with writing(path, flag, remedy):
        _write(path, data)


def _write(path: str, data: bytes) -> None:
    if is_cloud(path):
        bf.write_bytes(path, data)
        return
    if os.path.exists(path):
        _check_regular(path, "cannot be written")
    # A link is replaced, never followed; but /dev/stdout is one, and a file in its place would break the machine.
    if os.path.islink(path) and os.readlink(path).startswith("/proc/"):
        raise InputError(f"{path}: cannot be written, it leads to an open file; name a regular file")
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


@contextmanager
def writing(path: str, flag: str = "", remedy: str = SPACE) -> Iterator[None]:
    """Make an InputError of what goes wrong inside. flag: how the user named the folder, such as "--work_dir"."""
    try:
        yield
    except (OSError, bf.Error) as error:
        told = f"{flag}: " if flag else ""
        raise InputError(f"{told}cannot write {path!r} ({reason(error)}); {remedy}") from error


def write_or_warn(path: str, data: bytes, write: Callable[[str, bytes], None] = write_atomic) -> None:
    """Write what a run can do without, such as a log or a plot; where that fails, warn, once for a path."""
    try:
        with writing(path):
            write(path, data)
    except InputError as error:
        warn_once(path, str(error))


def append(path: str, data: bytes) -> None:
    """Add to the end of a local log that others read while it grows: all of `data` or nothing. Raises OSError."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        size = file.tell()
        if file.write(data) < len(data):  # a full disk
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def warn_once(path: str, text: str) -> None:
    """Print a warning on what is wrong with `path`, unless there was one before."""
    if path not in _warned:
        _warned.add(path)
        with suppress(OSError):
            tqdm.write(f"warning: {text}", file=sys.stderr)


def remove_temporaries(folder: str) -> None:
    """Delete what killed writes left in `folder` (not below it). Call it from the only writer there."""
    if not is_cloud(folder):
        for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*"):
            with suppress(OSError):
                path.unlink()


def ensure_writable(folder: str, flag: str) -> None:
    """Create `folder` and prove by a write that files can be made in it: permission bits say little."""
    with writing(folder, flag, OTHER_FOLDER):
        probe = bf.join(folder, TEMPORARY_PREFIX + secrets.token_hex(8))
        write_atomic(probe, b"")
        bf.remove(probe)


@contextmanager
def lock_folder(folder: str, flag: str) -> Iterator[None]:
    """Keep other processes of this program out of `folder`, which is made, proven writable, and removed if that left it
    empty. The lock ends with its process. Raises InputError where another holds it. No lock in a cloud store, nor, with
    a warning, where the file system knows none."""
    if is_cloud(folder):
        ensure_writable(folder, flag)
        yield
        return
    path, there = os.path.join(folder, LOCK_FILE), os.path.isdir(folder)
    with writing(path, flag, OTHER_FOLDER):
        os.makedirs(folder, exist_ok=True)
        descriptor = _take_lock(path, f"{flag} {folder}")
    try:
        ensure_writable(folder, flag)
        yield
    finally:
        with suppress(OSError):
            os.remove(path)  # while it is held; _take_lock looks whether it got the file that lies there
            if not there:
                os.rmdir(folder)
        os.close(descriptor)


def _take_lock(path: str, name: str) -> int:
    """Descriptor of the file `path`, locked, or not where locks are not supported."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "not supported")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise InputError(f"{name}: {holder} is at work there; let it end, or name another folder") from None
        except OSError as error:
            warn_once(path, f"{name}: cannot be locked ({reason(error)}); start no second process there")
            return descriptor
        with suppress(OSError):  # a full disk: then nobody learns who holds it
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)  # its last holder has removed the file: make another


def write_if_changed(path: str, data: bytes, *how: str) -> bool:
    """write_atomic, unless the file holds `data` already; returns whether it was written."""
    if bf.exists(path) and read_bytes(path) == data:
        return False
    write_atomic(path, data, *how)
    return True


def lies_in(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies below it, links resolved."""
    if is_cloud(path) != is_cloud(folder):
        return False
    inner, outer = (place if is_cloud(place) else os.path.realpath(place) for place in (path, folder))
    return f"{inner.rstrip('/')}/".startswith(f"{outer.rstrip('/')}/")


def inside(folder: str, name: Any, what: str, *, links: bool = False) -> str:
    """The path of `name` in `folder`, where a file says `name`: only a relative path that stays there will do. what:
    where it stands, for the error, as "data/manifest.jsonl: line 3: image". links: whether links in the folder may lead
    out of it, to where its owner keeps images; for reading only."""
    fault = "leads out of its folder"
    try:
        if not isinstance(name, str) or not name or b"\0" in os.fsencode(name):
            fault = "is not the name of a file"
        elif not (os.path.isabs(name) or is_cloud(name)) and name.strip("./"):
            path, steps = bf.join(folder, name), name.split("/")
            if ".." not in steps if is_cloud(folder) or links else lies_in(path, folder) and not lies_in(folder, path):
                return path
    except UnicodeEncodeError:
        fault = "cannot be the name of a file"
    raise InputError(f"{what} {brief(name)} {fault}; name a file in {folder}")


def remove_inside(folder: str, name: Any, what: str) -> bool:
    """Delete the file, or link, that a file or a listing names in `folder`, as in inside(); whether there was one."""
    path = inside(folder, name, what, links=True)
    if not lies_in(os.path.dirname(path), folder):
        raise InputError(f"{what} {brief(name)} leads out of its folder; nothing is deleted there")
    with writing(path, remedy="mend the permissions of its folder"), suppress(FileNotFoundError):
        bf.remove(path)
        return True
    return False


def as_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_json(path: str, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_atomic(path, as_json(value))


def read_json(path: str) -> Any:
    """The value in a JSON file. Raises FileNotFoundError, or InputError as parse_json does."""
    return parse_json(read_bytes(path), path)


def parse_json(data: bytes | str, name: str) -> Any:
    """The value of the JSON text `name`: numbers are finite, keys stand once, nothing is deeper than JSON_DEPTH."""
    try:
        data = data.encode() if isinstance(data, str) else data
        if data.count(b"[") + data.count(b"{") > JSON_DEPTH:
            brackets = np.frombuffer(_JSON_STRING.sub(b"", data), np.uint8)
            steps = np.isin(brackets, list(b"[{")).astype(np.int8) - np.isin(brackets, list(b"]}")).astype(np.int8)
            if steps.cumsum(dtype=np.int64).max(initial=0) > JSON_DEPTH:
                raise ValueError(f"nested deeper than {JSON_DEPTH}")
        value = json.loads(data, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
        if b"\\ud" in data.lower():  # half a character, which no file can hold
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # malformed JSON, or bytes that are no text
        raise InputError(f"{name}: is not valid JSON ({error}); mend or remove it") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {brief(max(names, key=names.count))} stands twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{brief(text)} is no number")
    return number


def encode_png(array: np.ndarray, palette: np.ndarray | None = None) -> bytes:
    """PNG bytes of a uint8 array, [H, W] (grey, or indices into `palette`, uint8 [N, 3]) or [H, W, 3] (RGB)."""
    buffer, picture = io.BytesIO(), Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        picture.putpalette(palette.tobytes())  # makes the mode "P"
    picture.save(buffer, format="PNG", compress_level=PNG_COMPRESSION)
    return buffer.getvalue()
