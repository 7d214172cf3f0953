"""Names of types: made one where they mean one, renamed as the user says, doubted where they can hardly be types."""

import re
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from ... import GOOD, MAX_TYPES
from ...data.files import ALSO_GOOD, is_good, part_of
from ...errors import InputError, brief, unknown_name
from .model import Dataset, Options, TypeMasks, mapped
from .pairs import PUBLISHED

ANY = "*"  # stands for all names in Options.rename
FROM_PATHS = ("type_folders", "images_masks", "defect_spectrum", "mvtec", "flat")  # elsewhere people typed the names
PART = re.compile(r"(train|val|test|dev|eval|holdout)(ing|id|idation|uation)?(val)?[\W\d_]*([\W_][a-e])?")
LIKE_PART = re.compile(  # if all are
    r"(train|val|test|dev|eval|holdout|.*[\W_](train|val|valid|test)$|(tr|trn|va|te|tst|original|augmented)$"
    r"|(un)?(seen|labell?ed)$|训练|验证|测试)"
)
CAMERA = re.compile("img|images?|dsc[nf]?|pxl|photos?|pic|picture|frames?|cam|camera")  # words before their numbers
KINDS = {*" ".join(PUBLISHED.values()).split(), "anomaly", "category", "class", "cls", "damage", "defect", "error"}
KINDS -= {"fold"}  # of leather; fold1, fold2 are parts
KINDS |= {"fault", "flaw", "grade", "kind", "label", "level", "type"}  # words that number types, of more than 2 letters
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
OBJECTS = {*PUBLISHED, *VISA.split()}  # of MVTec AD and VisA
SHOWN = 3  # names in a line
LONGEST = 200  # bytes; types become folders


def tidy(data: Dataset, options: Options) -> None:
    """Give types the names of options.rename; else their own, accents composed and spaces single, unless the label map
    has it otherwise. Raises InputError where a name to be changed does not occur."""
    asked, met = dict(options.rename or {}), {ANY}

    def new(name: str) -> str:
        plain = " ".join(unicodedata.normalize("NFC", name).split())
        met.update((name, plain))
        renamed = asked.get(name) or asked.get(plain) or asked.get(ANY)
        return renamed or (name if name in (options.label_map or {}) else plain or name)

    parts = _parts({one.folder for one in data.samples if one.folder})
    for k, one in enumerate(data.samples):
        one, old = replace(one, mask=mapped(one.mask, new)), one.folder
        if isinstance(one.mask, TypeMasks) and old in met and new(old) != old:
            part = one.part or (part_of(old) or old.lower() if old in parts else None)
            one = replace(one, folder=new(old), name=f"{new(old)}/{one.name.removeprefix(f'{old}/')}", part=part)
        data.samples[k] = one
    if data.types is not None:
        free = {one.folder for one in data.good} - {one.folder for one in data.samples}
        places, data.types = data.types, {}
        for name in (name for name in places if name not in free):
            data.types.setdefault(new(name), places[name])
    if unknown := [name for name in asked if name not in met]:
        raise InputError(f"`rename`: {unknown_name('type', unknown[0], met - {ANY})}")
    if spaced := sorted(name for name in met - {ANY} if new(name) not in (name, *asked.values())):
        data.notes.append(f"spaces or the form of accents changed in the names of types: {_list(spaced)}")


def check_names(data: Dataset, options: Options) -> None:
    """Note as problems names that no type can have, and as doubts, without a label map, names that are hardly types."""
    for name, where in data.types.items():
        other = name in (".", "..") or {*"/\\"} & {*name} or is_good(name) or part_of(name)
        if not name.isprintable() or not name.strip() or len(name.encode()) > LONGEST:
            data.problems.append(f"{where}: {brief(name)} is no name of a type; correct it or --rename it")
        elif other and data.format in FROM_PATHS:  # types become folders
            text = "cannot be a type's folder: parts and what is good are called so, or it has a slash"
            data.problems.append(f"{where}: {brief(name)} {text}; --rename it")
    if len(data.label_map or ()) > MAX_TYPES:
        data.problems.append(f"{data.root}: has {len(data.label_map)} types, but {MAX_TYPES} are the most")
    doubts = _doubts(data, options) if options.label_map is None else ()
    for names, doubt, remedy in (one for one in doubts if one[0]):
        told = f"{data.root}: {_list(names)} {doubt}"
        data.doubts.append(f"{told}; scripts/prepare_data.py {remedy}; --types_as_found takes it as it is")


def _doubts(data: Dataset, options: Options) -> Iterator[tuple[list[str], str, str]]:
    """Names, why they are hardly those of types, and what to do."""
    names, one_type = list(data.types), "--rename '*=defect' makes all one type"
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:  # what is left without case, spaces and signs that join words
        plain = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
        alike[plain or name].append(name)
    for own in alike.values():
        one = min(own, key=lambda name: (name != name.lower(), name))
        pairs = " ".join(shlex.quote(f"{name}={one}") for name in own if name != one)
        yield own * bool(pairs), "differ by case, spaces or signs only", f"--rename {pairs} makes them one"
    in_paths = data.format in FROM_PATHS
    free = ("background", "bg", *((GOOD, *ALSO_GOOD) if in_paths else ()))
    free = [name for name in names if name.lower() in free]
    yield free, "would be a type, but is called like what has no defect", "may --rename it, or take it out of SOURCE"
    if not in_paths:
        return
    parts = _parts(names)
    remedy = one_type if parts == names else "may --rename it, or move it away"
    yield parts, "would be types, but are called like parts of a data set", remedy
    objects = names if OBJECTS.issuperset(map(str.lower, names)) else []
    yield objects, "would be types, but are called like objects of MVTec AD or VisA", one_type
    if data.format == "mvtec":  # its folders are types, whatever they are called
        return
    by_file = data.format == "flat" and not options.type_regex
    stems = {re.sub(r"[\W\d_]+", "", name.lower()) for name in names}  # without numbers
    camera = by_file and len(stems) > 1 and all(map(CAMERA.fullmatch, stems))
    yield names * camera, "would be types, but are called as cameras call photographs", one_type
    ids = stems == {""} and (by_file or min(map(len, names)) > 2)  # as 0001, or 04 of dates
    ids = ids or (not stems & KINDS and all(re.search(r"0\d|\d{3}", name) for name in names))  # as s0001
    numbered = len(names) > 1 == len(stems) and (ids or not all(len(stem) < 3 or stem in KINDS for stem in stems))
    yield names * numbered, "would be types, but differ by numbers only, as parts or objects do", one_type
    images = len(data.samples)
    unique = len(names) > 2 and (len(names) * 2 > images if by_file else len(names) == images)
    remedy = f"--type_regex says where in a file's name the type is; {one_type}" if by_file else one_type
    yield names * unique, f"would be {len(names)} types of {images} images", remedy


def _parts(names: Collection[str]) -> list[str]:
    """The names that are called like parts. Where all begin or end like one they are, too."""
    if len(names) > 1 and all(LIKE_PART.match(name.lower()) for name in names):
        return list(names)
    return [name for name in names if PART.fullmatch(name.lower())]


def _list(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {more} more" if more > 0 else "")
