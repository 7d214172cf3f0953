"""Names of types: made one where they mean one, renamed as the user says, doubted where they can hardly be types."""

import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ... import GOOD, MAX_TYPES
from ...data.files import ALSO_GOOD
from ...errors import InputError, brief, unknown_name
from .model import Dataset, Options, TypeMasks, mapped
from .pairs import PUBLISHED

ANY = "*"  # stands for all names in Options.rename
FROM_PATHS = ("type_folders", "images_masks", "defect_spectrum", "mvtec", "flat")  # elsewhere people typed the names
PART = re.compile(r"(train|val|test|dev|eval|holdout)(ing|id|idation|uation)?(val)?[\W\d_]*([\W_][a-e])?")
KINDS = {"", "anomaly", "category", "class", "cls", "damage", "defect", "fault", "flaw", "id", "kind", "label", "type"}
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
OBJECTS = {*PUBLISHED, *VISA.split()}  # of MVTec AD and VisA
SHOWN = 3  # names in a line
LONGEST = 200  # bytes; types become folders
FEW = 3  # fewer types than that may well have an image each


def tidy(data: Dataset, options: Options) -> None:
    """Give types the names of options.rename; else their own, accents composed and without spaces at the ends, unless
    the label map has it otherwise. Raises InputError where a name to be changed does not occur."""
    asked, met = dict(options.rename or {}), {ANY}

    def new(name: str) -> str:
        met.add(name)
        plain = " ".join(unicodedata.normalize("NFC", name).split())
        return asked.get(name) or asked.get(ANY) or (name if name in (options.label_map or {}) else plain or name)

    samples, data.samples = data.samples, []
    for one in samples:
        one, old = replace(one, mask=mapped(one.mask, new)), one.folder
        if isinstance(one.mask, TypeMasks) and old in met and new(old) != old:
            part = one.part or (old.lower() if PART.fullmatch(old.lower()) else None)
            one = replace(one, folder=new(old), name=f"{new(old)}/{one.name.removeprefix(f'{old}/')}", part=part)
        data.samples.append(one)
    if data.types is not None:
        places, data.types = data.types, {}
        for name, where in places.items():
            data.types.setdefault(new(name), where)
    if unknown := [name for name in asked if name not in met]:
        raise InputError(f"`rename`: {unknown_name('type', unknown[0], met - {ANY})}")
    if spaced := sorted(name for name in met - {ANY} if new(name) not in (name, *asked.values())):
        data.notes.append(f"spaces or the form of accents changed in the names of types: {_list(spaced)}")


def check_names(data: Dataset, options: Options) -> None:
    """Note as problems names that no type can have, and as doubts names that are hardly those of types. A label map, or
    options.type_regex for names of files, says that they are."""
    for name, where in data.types.items():
        if not name.isprintable() or not name.strip() or len(name.encode()) > LONGEST:
            data.problems.append(f"{where}: {brief(name)} is no name of a type; correct it or --rename it")
    if len(data.label_map or ()) > MAX_TYPES:
        data.problems.append(f"{data.root}: has {len(data.label_map)} types, but {MAX_TYPES} are the most")
    if options.label_map is None:
        data.doubts += (f"{data.root}: {line}" for line in _doubts(data, options))


def _doubts(data: Dataset, options: Options) -> Iterable[str]:
    names, keep = list(data.types), "--types_as_found takes it as it is"
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        alike[_plain(name)].append(name)
    for own in alike.values():
        if len(own) > 1:
            one = min(own, key=lambda name: (name != name.lower(), name))
            pairs = " ".join(shlex.quote(f"{name}={one}") for name in own if name != one)
            yield f"types {_list(own)} differ by case, spaces or signs only; --rename {pairs} makes them one; {keep}"
    one_type = "--rename '*=defect' makes all one type"
    for name in names:
        if _plain(name) in ("background", "bg"):
            yield f"type {name!r} is called like the background; --rename it, or take it out of SOURCE; {keep}"
    if data.format not in FROM_PATHS:
        return
    if parts := [name for name in names if PART.fullmatch(name.lower())]:
        remedy = one_type if parts == names else "--rename it, or move it away"
        yield f"{_list(parts)} would be types, but are called like parts of a data set; {remedy}; {keep}"
    if good := [name for name in names if _plain(name) in map(_plain, (GOOD, *ALSO_GOOD))]:
        yield f"type {_list(good)} is called like defect-free images, but has masks; --rename it; {keep}"
    if names and OBJECTS.issuperset(map(str.lower, names)):
        yield f"{_list(names)} would be types, but are called like objects of MVTec AD or VisA; {one_type}; {keep}"
    numbered: dict[str, list[str]] = defaultdict(list)
    for name in names:
        numbered[re.sub(r"[\W\d_]+", "", name.lower())].append(name)
    for word, own in numbered.items():
        ids = not word and (data.format == "flat" or min(map(len, own)) > 2)  # 04 of dates, 0001
        if (ids or word not in KINDS) and len(own) > 1 and (len(own) == len(names) or len(own) >= FEW):
            yield f"types {_list(own)} differ by numbers only, as parts or objects do; {one_type}; {keep}"
    images = [s for s in data.samples if isinstance(s.mask, TypeMasks) and (s.folder or data.format == "flat")]
    by_file = data.format == "flat" and not options.type_regex
    if len(names) >= FEW and images and (len(names) * 2 > len(images) if by_file else len(names) == len(images)):
        remedy = f"--type_regex says where in a file's name the type is, {one_type}" if by_file else one_type
        yield f"{len(images)} images would have {len(names)} types, such as {_list(names)}; {remedy}; {keep}"


def _plain(name: str) -> str:
    """What is left of a name without case, spaces and signs that join words."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold()) or name


def _list(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")
