"""Choose the switch step, or the checkpoint to stop at, by evidence.

    python scripts/evaluate.py sweep --large work/large --small work/small --real data_held_out --train data
    python scripts/evaluate.py sweep --checkpoints work/large --real data_held_out --train data  # when to stop

The first form generates the same seeds at every step of a grid (--steps; 0: large network only, T: small only). The
second one does so with every checkpoint in WORK_DIR/checkpoint: with that network alone or, with --other, as a pair at
the one step that --steps names. Measured at each point:

- fidelity: KID, FID, precision, density, coverage against held-out real images
- diversity: mean perceptual distance of pairs of samples; recall
- near-copies of training images (with --train)
- labels: agreement of a segmenter trained on real images, empty masks, types covered
- with --lift: what the samples add to a segmenter (slow)
- of checkpoints: the held-out loss

A point is shown to be worse than another if the 95% bootstrap interval of their paired difference leaves out 0. The
rule: first in KID, then in agreement, then in near-copies, drop what is shown to be worse than the best of those still
there. Of steps, the default, 400, is kept if it is left; else the one with the fewest near-copies is recommended, then
the one with the greatest diversity. Of checkpoints, the one with the lowest held-out loss is recommended.

Writes cells/<point>/ (sample folders), sweep.json, sweep.md, sweep.png (plots) and sweep_sheet.png (the same seeds at
every point) into OUT. Run again after a stop, it goes on; cells that are there are used again.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import groupby
from typing import Any

import blobfile as bf
import numpy as np

from .. import dist_util
from ..diffusion.respace import SPACINGS, parse_num_steps
from ..diffusion.samplers import SAMPLERS
from ..diffusion.two_stage import HANDOFFS
from ..errors import InputError
from ..file_io import encode_png, ensure_writable, read_json, write_atomic, write_json
from ..generation.api import DEFAULT_SAMPLER, DEFAULT_SPACING, DEFAULT_STEPS, Network
from ..tuning import PRECISIONS
from . import lift
from .cells import CellStore
from .features import DEFAULT_EXTRACTOR, EXTRACTORS
from .image_sets import ImageSet
from .seen import LEAST_IMAGES
from .sweep_checkpoints import held_out_losses
from .sweep_measures import Bench, types_in
from .sweep_report import draw_plot, draw_sheet, markdown
from .sweep_rule import DEFAULT_STEP, MEASURES, Estimate, Point, recommend
from .sweep_series import STEPS, Series, checkpoint_series, step_series

HELP = "the switch step, or the checkpoint to stop at, chosen by evidence"
BATCH_SIZE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--large", help="checkpoint of the large network, or its work_dir")
    add("--small", help="checkpoint of the small network, or its work_dir")
    add("--checkpoints", metavar="WORK_DIR", help="compare the checkpoints of this training instead")
    add("--other", help="with --checkpoints: the other network of the pair (none: that network alone)")
    add("--real", required=True, help="held-out real images with masks")
    add("--train", help="what the networks were trained on; needed for near-copies")
    add("--groups", help="CSV or JSON file: which real images are of one object (each by itself)")
    add("--out", default="work/sweep", help="(work/sweep)")
    add("--steps", help=f"switch steps, comma-separated ({STEPS}; with --other: one, {DEFAULT_STEP})")
    add("--num_samples", type=int, default=64, help="at every point (64)")
    add("--num_steps", metavar="N|A+B", help=f"denoising steps ({DEFAULT_STEPS})")
    add("--sampler", choices=tuple(SAMPLERS), default=DEFAULT_SAMPLER, help=f"({DEFAULT_SAMPLER})")
    add("--spacing", choices=SPACINGS, default=DEFAULT_SPACING, help=f"of the steps ({DEFAULT_SPACING})")
    add("--handoff", choices=HANDOFFS, default="paper", help="released: the released script's restart (paper)")
    add("--seed", type=int, default=0, help="(0)")
    add("--batch_size", type=int, default=BATCH_SIZE, help=f"images at a time; a stop loses one batch ({BATCH_SIZE})")
    add("--precision", choices=PRECISIONS, default="fp32", help="of generating (fp32)")
    add("--extractor", choices=tuple(EXTRACTORS), default=DEFAULT_EXTRACTOR, help=f"of features ({DEFAULT_EXTRACTOR})")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--no_agreement", action="store_true", help="train no segmenter")
    add("--lift", action="store_true", help="also train segmenters with each point's samples (slow)")


def main(args: argparse.Namespace) -> None:
    """Make and measure all points; write the results and print the table. Raises InputError."""
    for flag, least in (("num_samples", LEAST_IMAGES), ("batch_size", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise InputError(f"--{flag} {getattr(args, flag)}: must be at least {least}")
    common = {key: getattr(args, key) for key in ("sampler", "spacing", "handoff")}
    common["num_steps"] = args.num_steps and parse_num_steps(args.num_steps)
    if args.lift and not args.train:
        raise InputError("--lift: needs the real images to train with; name them by --train")
    device = dist_util.setup(args.device)
    series = checkpoint_series(args, device) if args.checkpoints else step_series(args, device)
    first = series.stops[0].load()
    checked = [first.check_settings(stop.cell.step_inference, **common) for stop in series.stops]
    settings = checked[0]  # but for the step, where that differs
    networks = {"large": first.large, "small": first.small}
    if series.checkpoints:  # of which the network differs from point to point
        del networks["small" if series.checkpoints[0].config.model.patch else "large"]
    else:
        del settings["step_inference"]
    bench = Bench(args, first, device)
    ensure_writable(args.out, "--out")

    samples = generate(args, series, common, bench)
    bench.prepare()
    measured = bench.measure(samples)
    notes = bench.notes()
    if args.lift:
        for name, gain in measure_lift(args, len(bench.whole), samples).items():
            measured[name]["lift"] = gain
        notes.append(f"lift: a first look only (lift --quick), in {bf.join(args.out, 'lift')}")
    if series.checkpoints:
        losses, source = held_out_losses(args.checkpoints, series.checkpoints, args.real, device)
        for estimates, loss in zip(measured.values(), losses, strict=True):
            estimates["held_out_loss"] = Estimate(loss)
        S = series.stops[0].cell.step_inference
        notes.append(f"S={S} at every point, " + (f"with {args.other}" if args.other else "this network alone"))
        notes.append(f"held-out loss: {source}")
    points = [Point(stop.cell.name, stop.at, stop.label, measured[stop.cell.name]) for stop in series.stops]
    result = {
        "command": "sweep",
        "kind": series.kind,
        "axis": series.axis,
        "settings": {
            **{key: getattr(args, key) for key in ("num_samples", "seed", "precision")},
            **settings,
            "view": asdict(bench.view),
        },
        "provenance": {**bench.provenance(), "checkpoints": shas(networks)},
        "counts": bench.counts(),
        "reference": bench.reference,
    }
    write(args.out, result | conclude(series, points, samples, notes), samples)


def generate(args: argparse.Namespace, series: Series, common: dict[str, Any], bench: Bench) -> dict[str, ImageSet]:
    """The samples of all points by the cells' names; what is not there is made. Raises InputError."""
    samples = {}
    for loader, stops in groupby(series.stops, key=lambda stop: stop.load):
        generator = loader()
        provenance = {
            "weights": "ema",
            "precision": generator.precision,
            "checkpoints": shas({"large": generator.large, "small": generator.small}),
            **bench.crops(),
        }
        store = CellStore(
            args.out,
            generator,
            num_samples=args.num_samples,
            batch_size=args.batch_size,
            provenance=provenance,
            **common,
        )
        cells = [stop.cell for stop in stops]
        store.generate(cells)
        for cell in cells:
            names = [f"{index:06d}" for index in range(args.num_samples)]
            samples[cell.name] = ImageSet(*store.read(cell), names, names, bench.class_names, store.path(cell))
    return samples


def shas(networks: dict[str, Network | None]) -> dict[str, str | None]:
    """The hash of each network's checkpoint."""
    return {name: network and network.sha256 for name, network in networks.items()}


def measure_lift(args: argparse.Namespace, num_real: int, samples: dict[str, ImageSet]) -> dict[str, Estimate]:
    """What each point's samples add to real images in a quick lift, as many samples as real images if there are."""
    parser = argparse.ArgumentParser()
    lift.add_arguments(parser)
    out = bf.join(args.out, "lift")
    flags = ["--train", args.train, "--val", args.real, "--out", out, "--device", args.device, "--quick"]
    flags += ["--baselines=", "--ratios", f"{min(1, args.num_samples / num_real):g}"]
    flags += ["--groups", args.groups] if args.groups else []
    for name, images in samples.items():
        flags += ["--samples", f"{name}={images.folder}"]
    lift.main(parser.parse_args(flags))
    arms = read_json(bf.join(out, "lift.json"))["arms"].values()
    gains = {arm["samples"]: arm["difference_to_real"]["miou"] for arm in arms if arm["kind"] == "synthetic"}
    return {name: Estimate(gain["value"], interval=gain["interval"]) for name, gain in gains.items()}


def conclude(series: Series, points: list[Point], samples: dict[str, ImageSet], notes: list[str]) -> dict[str, Any]:
    """What sweep.json says of the points, once they are judged by the rule."""
    found = recommend(points, series.rule)
    measures = [measure for measure in MEASURES if measure.key in points[0].estimates]
    sentence = found.sentence
    if series.checkpoints and found.point is points[-1]:
        sentence += " It is the last checkpoint: longer training may do better still."
    return {
        "class_names": list(next(iter(samples.values())).class_names),
        "notes": notes,
        "measures": [measure.to_json() for measure in measures],
        "points": [
            {
                "name": point.name,
                "folder": f"cells/{point.name}",
                "at": point.at,
                "label": point.label,
                "values": {measure.key: point.estimates[measure.key].to_json() for measure in measures},
                "types": types_in(samples[point.name]),
                "beaten": point.beaten,
            }
            for point in points
        ],
        "recommendation": {
            "name": found.point.name,
            "at": found.point.at,
            "separated": found.separated,
            "sentence": sentence,
            "rule": series.rule.text,
            "default": series.rule.default,
            "looks_at": [*series.rule.stages, *series.rule.ties],
        },
        "pictures": {"plot": "sweep.png", "sheet": "sweep_sheet.png"},
    }


def write(out: str, result: dict[str, Any], samples: dict[str, ImageSet]) -> None:
    """Write table, plot and sheet, sweep.json last; print the table."""
    table = markdown(result)
    sheet = draw_sheet(result, {name: (images.images, images.masks) for name, images in samples.items()})
    write_atomic(bf.join(out, "sweep.md"), table.encode())
    write_atomic(bf.join(out, result["pictures"]["plot"]), draw_plot(result))
    write_atomic(bf.join(out, result["pictures"]["sheet"]), encode_png(np.asarray(sheet)))
    write_json(bf.join(out, "sweep.json"), result)
    print(f"{table}\nlook at {bf.join(out, 'sweep.png')} and {bf.join(out, 'sweep_sheet.png')}")
