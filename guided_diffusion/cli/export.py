"""Write generated samples, and real images beside them, in the format of another program.

    defect-gen export work/samples work/coco --format coco --real data --val data_held_out

SAMPLES is a sample folder, or a prepared set, whose images are then marked as real. --real joins the training part,
--val becomes the validation part; names, and where the format can say it a field, tell generated from real. Only
OUT is written. It must be empty or hold an earlier export in that format without other images; missing or changed
files are written.
"""

from collections import Counter

import blobfile as bf

from ..data.prepared import find_good
from ..errors import InputError, Parser
from ..export.formats import FORMATS
from ..export.records import read_export, safe_names, write_export
from ..file_io import lies_in


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("samples", metavar="SAMPLES", help="folder of generated samples, or a prepared set")
    add("out", metavar="OUT", help="folder for the export")
    add("--format", required=True, choices=tuple(FORMATS), help="whose layout to write")
    add("--real", metavar="DIR", help="prepared set of real images that join the training part")
    add("--val", metavar="DIR", help="prepared set of held-out real images, which become the validation part")
    add("--keep_good", action="store_true", help="take their defect-free images too (mvtec always does)")
    add("--segmentation", choices=("polygon", "rle"), help="coco only: how regions are written (polygon)")
    args = parser.parse_args(argv)
    if args.segmentation and args.format != "coco":
        raise InputError("--segmentation: only --format coco knows it; leave it out")
    if args.val and args.format == "defect_spectrum":
        raise InputError(f"--val: defect_spectrum has no parts; export {args.val} to a folder of its own")
    for flag, folder in (("SAMPLES", args.samples), ("--real", args.real), ("--val", args.val)):
        if folder and (lies_in(args.out, folder) or lies_in(folder, args.out)):
            raise InputError(f"OUT {args.out}: lies in {flag} {folder} or around it; name a folder apart from it")
    for flag, folder in (("SAMPLES", args.samples), ("--real", args.real)):
        if folder and args.val and lies_in(folder, args.val) and lies_in(args.val, folder):
            raise InputError(f"--val {args.val}: is {flag} too; name images that nothing trains on")
    keep_good, name = args.keep_good or args.format == "mvtec", bf.basename(args.out.rstrip("/"))
    told = {"segmentation": args.segmentation or "polygon", "object_name": safe_names([name])[0]}
    export = read_export(args.samples, args.real, args.val, keep_good=keep_good, **told)
    layout = FORMATS[args.format](export)
    settings = {flag: getattr(args, flag) for flag in ("samples", "real", "val", "keep_good", "segmentation")}
    kinds = {"gen": "generated", "real": "real", "val": "held out"}
    counts = dict(Counter(kinds[record.origin] for record in export.records))
    written = write_export(args.out, args.format, layout, export, {"settings": settings, "counts": counts})

    given = ", ".join(f"{number} {kind}" for kind, number in counts.items())
    types = Counter(name for record in export.records for name in record.types)
    holding = ", ".join(f"{name} in {types[name]}" for name in export.label_map)
    print(f"{args.out}: {given} ({holding}), {written or 'no'} files written")
    for note in layout.notes:
        print(f"note: {note}")
    good = 0 if keep_good else sum(len(find_good(one)) for one in (args.samples, args.real, args.val) if one)
    if good:
        print(f"note: left out: {good} defect-free images; --keep_good takes them")
    if "generated" not in counts:
        print(f"note: {args.samples} has no manifest.jsonl, so its images are marked as real")
