"""Choose the samples to train on, and say why the others were dropped.

    python scripts/curate.py --samples work/samples --train data --real data_held_out --out work/curated --per_type 100

Drops empty masks and specks, near-copies of training images, near-duplicates of other samples, clipped colours, and
masks that a segmenter trained on real images does not agree with; then balances the types. --list reads what a person
marked in the report. OUT is another sample folder with kept.jsonl, dropped.jsonl (reason, score) and curate.json.
"""

import re
from collections import Counter

import blobfile as bf

from .. import dist_util
from ..data.prepared import check_apart
from ..data.records import read_manifest
from ..errors import InputError, Parser, check_range
from ..evaluation import curation, image_sets, sample_scores, tables
from ..evaluation.segmenter import agreement, train_agreement_segmenter
from ..file_io import LOCK_FILE, TEMPORARY_PREFIX, lock_folder, write_json


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    add = parser.add_argument
    image_sets.add_flags(parser, ("samples", "train"), ("real", "groups", "device", "seed"))
    add("--out", required=True, help="folder for the kept samples, new or empty")
    add("--per_type", type=int, metavar="N", help="keep about N samples with each type (all that pass)")
    add("--list", metavar="FILE", help="JSON file of names to keep and to drop, as the report exports it")
    about = "least IoU of a mask with a segmenter's; auto: per type, the 5th percentile of --real (auto)"
    add("--min_agreement", default="auto", metavar="X|auto|off", help=about)
    args = parser.parse_args(argv)
    check_range(args, per_type=(1, 10**6), seed=(0, 10**18))
    wish = args.min_agreement
    if not re.fullmatch(r"auto|off|0?\.\d+|[01](\.0*)?", wish):
        raise InputError(f"--min_agreement {wish}: must be auto, off or a number from 0 to 1")
    check_apart(args.out, "out")
    with lock_folder(args.out, "--out"):
        left = (LOCK_FILE, TEMPORARY_PREFIX)  # by a run that was killed
        there = bf.listdir(args.out) if bf.isdir(args.out) else []
        if not all(name.startswith(left) for name in there):
            raise InputError(f"--out {args.out}: is not empty; name a new folder, or remove what is there")
        samples, sets = image_sets.read_sets(args)
        rows = read_manifest(args.samples)
        if rows is None:
            raise InputError(f"--samples {args.samples}: has no manifest.jsonl; name a folder that inference.py wrote")
        manifest = {f"{index:06d}": row for index, row in rows.items()}
        keep, drop = curation.read_list(args.list, samples.names) if args.list else ((), ())
        real, device, agreed, segmenter = sets.held_out, dist_util.setup(args.device), None, None
        limits = {**sample_scores.measure_limits(sets.train, sets.trained, real), "agreement": None}
        for line in sample_scores.notes(limits):
            print(line)
        if wish == "auto" and not real:
            print("no --real: no sample is dropped because a segmenter disagrees with its mask")
        elif wish != "off":
            segmenter = train_agreement_segmenter(sets, args.seed, device)
            agreed, _ = agreement(segmenter, samples)
            if wish == "auto":
                limits["agreement"] = curation.agreement_limits(agreement(segmenter, real)[0], real)
                found = ", ".join(f"{name} {limit:.2f}" for name, limit in limits["agreement"].items())
                print(f"least agreement: {found}")
            else:
                limits["agreement"] = dict.fromkeys(samples.class_names, float(wish))
        rows, among = sample_scores.score_samples(samples, sets.train, limits, agreed)
        kept, dropped = curation.curate(rows, among, limits, per_type=args.per_type, keep=keep, drop=drop)
        counts = dict(Counter(row["rule"] for row in dropped))
        if not kept:
            reasons = ", ".join(f"{rule} {count}" for rule, count in counts.items())
            raise InputError(f"--samples {args.samples}: all {len(samples)} samples would be dropped ({reasons})")

        names = {row["name"] for row in kept}
        types = {name: [row["name"] in names for row in rows if name in row["types"]] for name in samples.class_names}
        result = {
            "command": "curate",
            "settings": vars(args),
            "provenance": {"segmenter": segmenter and segmenter.provenance},
            "limits": limits,
            "uncurated": sample_scores.memorization(rows),
            "counts": {"samples": len(samples), "kept": len(kept), "dropped": counts},
            "per_type": {name: {"samples": len(own), "kept": sum(own)} for name, own in types.items()},
        }
        about = {"per_type": args.per_type, "min_agreement": wish, "listed": bool(args.list), "of": len(samples)}
        curation.write_curated(args.out, samples, manifest, kept, dropped, about)
        write_json(bf.join(args.out, "curate.json"), result)
        print(tables.table(["dropped", "samples"], list(counts.items())))
        shown = [[name, len(own), sum(own), max(0, (args.per_type or 0) - sum(own))] for name, own in types.items()]
        print(tables.table(["type", "samples", "kept", "short of --per_type"], shown))
        print(f"{len(kept)} of {len(samples)} samples in {args.out}; look at {bf.join(args.out, 'contact_sheet.png')}")
