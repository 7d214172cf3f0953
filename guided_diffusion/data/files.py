"""Names of files: listing, natural order, stems, and what a list of names pairs up to."""

import csv
import io
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import blobfile as bf

from .. import GOOD
from ..errors import InputError, brief, reason
from ..file_io import inside, is_cloud, read_bytes, read_json

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".pgm", ".ppm", ".jp2")
IMAGE_SUFFIXES += (".heic", ".heif", ".avif")  # no such file is read, but said to be none
# What folders and lists of parts are called.
PARTS = dict(train="train", training="train", val="val", valid="val", validation="val", test="test", testing="test")
ALSO_GOOD = ("ok", "normal", "free", "defect_free", "defect-free", "no_defect", "nodefect")
LONGEST = 255  # bytes of a file's name, on most disks
SYSTEM = {  # what systems, NAS boxes and tools leave in folders, beside hidden files
    "@eadir", "@recycle", "@recently-snapshot", "@sharebin", "@tmp", "@__thumb", "#recycle", "#snapshot", "~snapshot",
    "__macosx", "__pycache__", "network trash folder", "temporary items", "lost+found", "found.000", "$recycle.bin",
    "recycler", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini",
}  # fmt: skip


def list_folder(folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> tuple[list[str], list[str]]:
    """Names of the files with these suffixes and of the folders in `folder`, hidden and SYSTEM ones left out, in
    natural order; none where there is no such folder. Raises InputError where it cannot be listed, or as check_text."""
    check_text(folder)
    try:  # a broken link in it raises FileNotFoundError too
        entries = list(bf.scandir(folder)) if bf.isdir(folder) else []
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be read ({reason(error)}); mend or remove it") from error
    entries = [one for one in entries if not one.name.startswith(".") and one.name.lower() not in SYSTEM]
    files = [entry.name for entry in entries if entry.is_file and entry.name.lower().endswith(suffixes)]
    folders = [entry.name for entry in entries if entry.is_dir]
    for name in files + folders:
        check_text(name, folder)
    return sorted(files, key=natural_key), sorted(folders, key=natural_key)


def folders_in(*roots: str) -> dict[str, list[str]]:
    """{name, accents composed: its path in each of `roots`} of the folders in any of them, in natural order."""
    known = [{unicodedata.normalize("NFC", name): name for name in list_folder(root)[1]} for root in roots]
    names = sorted({name for own in known for name in own}, key=natural_key)
    return {
        name: [bf.join(root, own.get(name, name)) for root, own in zip(roots, known, strict=True)] for name in names
    }


def check_text(name: str, folder: str = "") -> None:
    """Raise InputError where the name of a file is not UTF-8: it could be neither printed nor noted."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(bf.join(folder, name) if folder else name).decode("utf-8", "backslashreplace")
        raise InputError(f"{shown}: is no name in UTF-8; rename it (convmv does whole folders)") from None


def check_lengths(paths: Iterable[str], source: str) -> None:
    """Raise InputError where a file to be written would have a longer name than disks take. source: whose it is."""
    if long := [name for name in (path.rpartition("/")[2] for path in paths) if len(name.encode()) > LONGEST]:
        raise InputError(f"{source}: {brief(long[0])} would be longer than {LONGEST} bytes; shorten the image's name")


def check_no_links(root: str, files: Iterable[str]) -> None:
    """Raise InputError where one of the `files` in `root` leads out of it, by a link of its own or of its folder."""
    known: set[str] = set()
    for file in files if not is_cloud(root) else ():
        parent = file.rpartition("/")[0]  # blobfile's own are slow
        if parent not in known or os.path.islink(f"{root}/{file}"):  # links are few, and resolving is slow
            inside(root, file, f"{root}: its link")
            known.add(parent)


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key under which img2 comes before img10."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def is_good(folder: str, masks: str | None = None) -> bool:
    """Whether a type folder is called good; or ok, normal and such, and there are no masks in the folder `masks`."""
    name = folder.lower()
    return name == GOOD or (masks is not None and name in ALSO_GOOD and not list_folder(masks)[0])


def stem_of(path: str) -> str:
    """File name without folder and suffix, its accents composed (some systems store them apart)."""
    return unicodedata.normalize("NFC", os.path.splitext(os.path.basename(path))[0])  # blobfile's is slow


def part_in(name: str) -> str | None:
    """The part (train, val, test) that a word in a name tells, as train2017 or instances_train.json."""
    return next((PARTS[word] for word in re.findall("[a-z]+", name.lower()) if word in PARTS), None)


def part_of(name: str) -> str | None:
    """The part that a folder or list is called after."""
    return PARTS.get(name.lower())


def part_above(root: str, path: str) -> str | None:
    """The part that a folder between `root` and a file in it is called after."""
    return next(filter(None, map(part_of, words_of(path.removeprefix(root))[:-1])), None)


def part_folders(root: str) -> dict[str, str]:
    """{path: part} of the folders in `root` that are called after one."""
    return {bf.join(root, name): part for name in list_folder(root)[1] if (part := part_of(name))}


def part_lists(folder: str) -> dict[str, str]:
    """{path: part} of the text files in a folder that are called after one, as train.txt or train_list.txt."""
    stems = {bf.join(folder, name): stem_of(name).removesuffix("_list") for name in list_folder(folder, (".txt",))[0]}
    return {path: part for path, stem in stems.items() if (part := part_of(stem))}


def walk(folder: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, depth: int = 4) -> Iterator[str]:
    """The files with these suffixes in `folder` and in folders in it, down to `depth`."""
    files, folders = list_folder(folder, suffixes)
    yield from (bf.join(folder, name) for name in files)
    for name in folders if depth else ():
        yield from walk(bf.join(folder, name), suffixes, depth - 1)


def words_of(path: str) -> list[str]:
    """The folders and the file that a path of any system names, accents composed; where it starts is not kept."""
    words = unicodedata.normalize("NFC", path).replace("\\", "/").split("/")
    return [word for word in words if word not in ("", ".", "..")]


def by_stem(folder: str, problems: list[str], files: Iterable[str] | None = None) -> dict[str, str]:
    """{stem: path} of `files` in a folder, by default its images. Of two of a stem the second becomes a problem."""
    paths: dict[str, str] = {}
    for name in list_folder(folder)[0] if files is None else files:
        path = bf.join(folder, name)
        if (first := paths.setdefault(stem_of(name), path)) != path:
            problems.append(f"{path}: shares its stem with {bf.basename(first)}; rename or remove one")
    return paths


def read_lines(path: str) -> list[str]:
    """The lines of a text file, stripped. Raises FileNotFoundError, or InputError."""
    try:
        return [line.strip() for line in read_bytes(path).decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no text in UTF-8 ({error}); save it so") from error


def read_rows(path: str) -> list[list[str]]:
    """The rows of a CSV file, cells stripped, empty rows left out. Raises FileNotFoundError, or InputError."""
    csv.field_size_limit(2**31 - 1)  # the runs of a large mask are longer than its usual 128 KiB
    try:
        rows = list(csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no CSV file in UTF-8 ({error}); correct it") from error
    return [[cell.strip() for cell in row] for row in rows if row]


def read_groups(path: str, names: Sequence[str], flag: str) -> list[str]:
    """The group of each image, `names` being "<type>/<stem>" or "<stem>" as in DefectDataset. Raises InputError.

    The file is CSV with rows `file,group`; or JSON {file: group}; or a split file, {"files": {file: {"group": group}}}.
    Type and stem of a file count, the stem alone where it tells. flag: how the user named it."""
    try:
        rows = read_json(path) if path.endswith(".json") else read_rows(path)
    except FileNotFoundError as error:
        raise InputError(f"{flag} {path}: there is no such file; name one that is there") from error
    if path.endswith(".json"):
        files = rows.get("files", rows) if isinstance(rows, dict) else ()
        entries = files.items() if isinstance(files, dict) else ()
        rows = [(file, one.get("group", one.get("tile")) if isinstance(one, dict) else one) for file, one in entries]
    if not rows or not all(len(row) == 2 and isinstance(row[1], (str, int)) and "" not in row for row in rows):
        raise InputError(f"{flag} {path}: should hold rows 'file,group' (CSV) or {{file: group}} (JSON)")
    told: dict[str, set[str]] = defaultdict(set)
    for file, group in rows:
        *above, name = words_of(file) or [file]
        for stem in {name, stem_of(name)}:  # of p_0.5 the suffix may be none
            for key in (stem, "/".join([*above[-1:], stem])):
                told[key].add(str(group))
    groups = []
    for name in names:
        own = told[name] or told[name.rpartition("/")[2]]
        if len(own) != 1:
            raise InputError(f"{flag} {path}: names no group for the image {name}, or several; add <type>/<file>")
        groups += own
    return groups
