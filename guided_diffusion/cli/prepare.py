"""Turn a labelled defect data set of any usual layout into a training data set.

    python scripts/prepare_data.py bottle data/bottle                         # MVTec AD, found by its folders
    python scripts/prepare_data.py photos data/parts --val_fraction 0.2 --group_regex '(part\\d+)'
    python scripts/prepare_data.py DIR data/parts --colormap crack=255,0,0 hole=0,255,0

OUT gets test/ (images), converted_ground_truth/ (index masks) and dataset.json; with a split one such folder per part,
OUT/train, OUT/val. SOURCE is only read, and checked before anything is written. Run again, it writes what is missing or
has changed, and removes what is gone from SOURCE. docs/data.md shows the layouts.
"""

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace

import blobfile as bf

from ..data.files import check_no_links, check_text
from ..data.prepared import TRAIN, check_problems
from ..errors import InputError, Parser, check_range, unknown_name
from ..file_io import lies_in, lock_folder
from ..parallel import check_memory, default_workers
from ..prepare import splits
from ..prepare.check import find_overlaps
from ..prepare.layouts import FORMATS, Options, read_layout
from ..prepare.layouts.model import BOXES, MASK_VALUES, Shapes
from ..prepare.preparation import Recipe, check_no_other_kind, look_first, plan_set
from ..prepare.shaping import FITS

NUMBERS = {  # flag: default, least, most, meaning
    "mask_threshold": (None, 0, 254, "mask values above this are defects; default: from all masks"),
    "void": (None, 0, 255, "a value of mask files that is void and becomes background"),
    "bits": (None, 8, 16, "used bits of 16-bit images; default: from all images"),
    "line_width": (10, 1, 1000, "width of labelme's lines in pixels"),
    "shots": (None, 1, 10**6, "OUT/train: the first N images of each type; OUT/val: the rest"),
    "val_fraction": (None, 0.001, 0.999, "OUT/val: this share of each type; OUT/train: the rest"),
    "seed": (0, 0, 2**32, "of --val_fraction and of the tiles without defects"),
    "tile": (None, 8, 2**16, "pixels: cut images into square tiles of this side"),
    "overlap": (0, 0, 2**16, "pixels that neighbouring tiles share, at least"),
    "keep_empty": (0.1, 0.0, 1.0, "share of tiles without defects kept"),
    "workers": (0, 0, 1024, "processes that read and write images; 0: one per CPU"),
}
EXCLUDE = "shots val_fraction split", "shots val_fraction part", "group_regex group_csv", "fit tile"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of the data set")
    add("out", metavar="OUT", help="folder for the training data set")
    add("--format", choices=("auto", *FORMATS), default="auto", help="layout of SOURCE (default auto)")
    add("--label_map", metavar="MAP", help="the types in order, as crack,hole (default: from SOURCE)")
    add("--mask_values", choices=MASK_VALUES, default="auto", help="what mask files hold")
    add("--colormap", nargs="+", default=[], metavar="NAME=R,G,B", help="the type of each colour or grey level")
    add("--priority", default="", metavar="TYPES", help="types that win where masks overlap, the first most (a,b,c)")
    add("--boxes", choices=BOXES, default=BOXES[0], help="boxes without outlines: refuse them, or fill them as masks")
    add("--rename", nargs="+", default=[], metavar="OLD=NEW", help="rename types, or merge them into one ('*': all)")
    add("--types_as_found", action="store_true", help="accept doubtful type names")
    add("--type_regex", metavar="REGEX", help="its first group, searched in a file's stem, is the type")
    add("--split", metavar="FILE", help="JSON or CSV of parts (default SOURCE/split.json, if there)")
    add("--part", metavar="NAME", nargs="+", help="take these parts of the split only, together into OUT")
    add("--group_regex", metavar="REGEX", help="images whose paths give the same first group show one object")
    add("--group_csv", metavar="FILE", help="rows image,group: images of one group show one object")
    about = "refuse a SOURCE with a photograph that has no mask or label, or is not read"
    add("--strict", action="store_true", help=about)
    add("--keep_good", action="store_true", help="take defect-free images too, without masks")
    add("--fit", choices=FITS, help="bring images to --size: stretch, crop around the defects, or pad")
    add("--size", type=int, nargs="+", metavar="PX", help="height and width for --fit; one number for both")
    for name, (default, least, most, meaning) in NUMBERS.items():
        told = "" if default is None else f"; default {default}"
        add(f"--{name}", type=type(most), default=default, metavar="N", help=f"{meaning} ({least} to {most}{told})")
    args = parser.parse_args(argv)
    check_range(args, **{name: (least, most) for name, (_, least, most, _) in NUMBERS.items()}, size=(8, 2**16))
    for names in EXCLUDE:
        given = [f"--{name}" for name in names.split() if getattr(args, name)]
        if len(given) > 1:
            raise InputError(f"{' and '.join(given)}: exclude each other; give one")
    if bool(args.fit) != bool(args.size) or len(args.size or ()) > 2:
        raise InputError("--fit and --size: go together, as in --fit pad --size 256, or --size 256 320")
    if args.size:
        check_memory(8 * args.size[0] * args.size[-1], "--size: an image", "give a smaller one")
    if args.overlap and (args.tile is None or args.overlap >= args.tile):
        raise InputError(f"--overlap: {args.overlap} needs a --tile that is larger")
    for name in ("group_regex", "type_regex"):
        pattern = getattr(args, name)
        try:
            groups = re.compile(pattern or "()").groups
        except re.error:
            groups = 0
        if not groups:
            raise InputError(f"--{name}: {pattern!r} is no regular expression with a (group) of what matters")
    check_text(args.out)
    if lies_in(args.out, args.source):
        raise InputError(f"OUT {args.out}: lies in SOURCE, which is never written to; name a folder outside it")
    return args


def parse_colormap(items: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """--colormap: `crack=255,0,0`, or `crack=128` for a grey level; {name: (r, g, b)}."""
    colours: dict[str, tuple[int, int, int]] = {}
    for item in items:
        name, _, value = item.partition("=")
        levels = [int(level) if level.strip().isdecimal() else 256 for level in value.split(",")]
        colour = tuple(levels * 3 if len(levels) == 1 else levels)
        if not name or len(colour) != 3 or max(colour) > 255 or name in colours or colour in colours.values():
            raise InputError(f"--colormap: {item!r} should be a NAME=R,G,B or NAME=GREY of its own, levels 0..255")
        colours[name] = colour
    return colours


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    workers = args.workers or default_workers()
    path = args.split or bf.join(args.source, "split.json")
    if args.split and (bf.isdir(path) or not bf.exists(path)):
        raise InputError(f"--split: there is no split file {path}; name one that is there")
    drawn = args.shots or args.val_fraction
    unused = [f"{path} is not used: parts are drawn anew"] if drawn and bf.exists(path) else []
    split, label_map = splits.read_split(path) if not drawn and bf.exists(path) else ({}, None)
    if args.label_map is not None:
        names = [name.strip() for name in args.label_map.split(",")]
        if "" in names or "=" in args.label_map or len(set(names)) < len(names):
            raise InputError(f"--label_map: {args.label_map!r} should be the types' names, each once, as in crack,hole")
        label_map = {name: index for index, name in enumerate(names, 1)}
    given = {name: getattr(args, name) for name in ("mask_values", "type_regex", "boxes", "mask_threshold", "void")}
    rename = {old: new.strip() for old, _, new in (item.rpartition("=") for item in args.rename)}
    if len(rename) < len(args.rename) or not all(old and new for old, new in rename.items()):
        raise InputError(f"--rename: {' '.join(args.rename)!r} should be OLD=NEW, each old name once")
    options = Options(label_map, parse_colormap(args.colormap) or None, rename=rename, **given)
    data = read_layout(args.source, options, format=args.format, workers=workers)
    check_problems(data.problems + ([] if args.types_as_found else data.doubts))
    lacking = data.unlabelled + data.unread
    if args.strict and lacking:
        text = f"has no mask or label, or is not read ({len(lacking)} in all); label it, move it, or leave out --strict"
        raise InputError(f"{lacking[0]}: {text}")

    # Which images, of which groups, and in which parts where files say so.
    root = args.source.rstrip("/") + "/"
    items = [splits.Item(one, one.image.removeprefix(root), None, one.part) for one in data.samples + data.good]
    splits.find_groups(items if args.keep_good else items[: len(data.samples)], args.group_regex, args.group_csv)
    if split:
        splits.apply_split(path, split, items)
        print(f"{path}: parts {', '.join(dict.fromkeys(str(entry['part']) for entry in split.values()))}")
        if missed := [item.source for item in items if item.part is None and item.sample.mask]:
            print(f"left out: {len(missed)} images with a mask that it does not list, such as {missed[0]}")
    if args.part:
        splits.take_parts(items, args.part)
    listed = split or args.part
    items = [i for i in items if (i.sample.mask or args.keep_good) and (not listed or i.part is not None)]
    if not items:
        raise InputError(f"SOURCE {args.source}: all that is asked for is defect-free; --keep_good takes it")
    if twice := [name for name, count in Counter(item.sample.name for item in items).items() if count > 1]:
        raise InputError(f"SOURCE {args.source}: two images would become {twice[0]}.png; rename one")

    # Their pixels are looked at, and parts drawn where that is asked for.
    priority, known = [name.strip() for name in args.priority.split(",") if name.strip()], data.label_map or {}
    if unknown := [name for name in priority if name not in known]:
        raise InputError(f"--priority: {unknown_name('type', unknown[0], known)}")
    ranks = tuple(known[name] for name in priority)
    rule = replace(data.rule, line_width=args.line_width, priority=ranks, bits=args.bits)
    label_map, rule = look_first(items, data.label_map, rule, workers=workers)
    if blank := [i for i in items if isinstance(i.sample.mask, Shapes) and i.sample.mask.shapes and not i.record.types]:
        told = f"{len(blank)} annotated images show no defect, such as {blank[0].source}"
        data.notes.append(f"{told}: annotations outside of the image, or of no area")
    if rule.bits:
        data.notes.append(f"16-bit images hold levels of {rule.bits} bits: {2**rule.bits - 1} is white")
    by = bf.basename(path) if split else "layout"
    if args.shots:
        splits.split_by_shots(items, args.shots)
        by = f"shots {args.shots}"
    elif args.val_fraction:
        by = f"val_fraction {args.val_fraction}, seed {args.seed}"
        if not (args.group_regex or args.group_csv) and (grouped := splits.group_alike(items)):
            by += ", look-alikes kept together"
            print(f"{grouped} images look like others, and stay on the side of these (--group_regex, --group_csv)")
        splits.split_by_fraction(items, args.val_fraction, args.seed)
    elif not listed:
        default = TRAIN if any(item.part for item in items if item.sample.mask) else ""
        for item in items:
            item.part = default and (item.part or default)
    splits.report_split(items)
    if not priority:
        for finding in find_overlaps([item.record for item in items], {k: name for name, k in label_map.items()}):
            print(finding.line)

    # All parts are planned before the first is written.
    size = tuple(args.size * 2)[:2] if args.size else None
    keep_empty = args.keep_empty if args.tile else 0.0
    recipe = Recipe(label_map, rule, args.fit, size, args.tile, args.overlap, keep_empty, args.seed)
    made = asdict(recipe)
    del made["label_map"], made["rule"]
    source = {"prepared_from": bf.basename(args.source.rstrip("/")), "format": data.format, **rule.told(), **made}
    # What is not used is not said: sets that were prepared before there were these flags stay as they are.
    source |= {"rename": rename} if rename else {}
    source |= {"boxes": args.boxes} if args.boxes != BOXES[0] else {}
    parts = dict.fromkeys(item.part for item in items if item.part is not None)
    with lock_folder(args.out, "OUT"):
        check_no_links(args.out, filter(None, parts))
        check_no_other_kind(args.out, parts)
        plans = []
        for part in parts:
            about = {"source": source, "split": {"part": part or ", ".join(args.part or ["all"]), "by": by}}
            own = [item for item in items if item.part == part]
            out = bf.join(args.out, part) if part else args.out
            plans.append(plan_set(out, own, recipe, about, workers=workers))
        for write in plans:
            print(write())
    hint = "" if data.label_map else "; the source names no types: --label_map NAME,NAME,... does, in this order"
    print("label map: " + ", ".join(f"{name} {index}" for name, index in label_map.items()) + hint)
    if left := sum(item.part is None for item in items):
        print(f"left out: {left} images that show a part of another side of the split, but are not wanted there")
    if data.good and not args.keep_good:
        print(f"left out: {len(data.good)} defect-free images (--keep_good takes them)")
    if data.unlabelled:
        print(f"left out: {len(data.unlabelled)} photographs without a mask or label (--strict refuses them):")
        print(*(f"  {path}" for path in data.unlabelled), sep="\n")
    for note in [*data.notes, *unused]:
        print(f"note: {note}")
