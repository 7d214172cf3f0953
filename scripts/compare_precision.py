"""Does bf16 train as well as fp32? The same seeds in both, loss curves side by side.

    python scripts/compare_precision.py --config configs/magnetic_tile_large.yml --data_dir data --out work/precision

Runs of one seed see the same images, timesteps and noise. Writes curves.json and curves.png into OUT; run again after
a stop, it goes on with the runs that are missing. The verdict compares the mean loss of the last fifth of the steps:
the largest difference that precision makes at one seed, and the spread of the seeds in fp32.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import blobfile as bf  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from guided_diffusion import dist_util  # noqa: E402
from guided_diffusion.config import Config  # noqa: E402
from guided_diffusion.config_file import load_config, parse_override  # noqa: E402
from guided_diffusion.errors import InputError, run_cli  # noqa: E402
from guided_diffusion.file_io import ensure_writable, read_json, write_atomic, write_json  # noqa: E402
from guided_diffusion.image_datasets import DefectDataset  # noqa: E402
from guided_diffusion.layouts import read_label_map  # noqa: E402
from guided_diffusion.logger import smooth  # noqa: E402
from guided_diffusion.train_util import TrainLoop  # noqa: E402
from guided_diffusion.tuning import PRECISIONS  # noqa: E402

COLOURS = ("#1f77b4", "#d1495b", "#2a9d6f", "#f0a202", "#8e3b7e")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", required=True, help="YAML file of one network")
    add("--data_dir", required=True, help="training set")
    add("--out", required=True, help="folder for curves.json and curves.png")
    add("--num_steps", type=int, default=500, help="training steps of every run (500)")
    add("--seeds", default="0,1,2", help="comma-separated (0,1,2)")
    add("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override one YAML key; repeatable")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.num_steps < 10:
        raise InputError(f"--num_steps {args.num_steps}: must be at least 10")
    try:
        seeds = [int(text) for text in args.seeds.split(",")]
    except ValueError:
        raise InputError(f"--seeds {args.seeds}: expected whole numbers, e.g. 0,1,2") from None
    device = dist_util.setup(args.device)
    runs = {f"{precision} {seed}": (seed, precision) for seed in seeds for precision in PRECISIONS}
    configs = {name: make_config(args, *run) for name, run in runs.items()}
    first = next(iter(configs.values()))
    shots, good = first.data.num_image_train, first.data.include_good
    data = DefectDataset.as_trained(args.data_dir, first, num_image_train=shots, include_good=good)
    ensure_writable(args.out, "--out")
    path = bf.join(args.out, "curves.json")
    found = read_json(path) if bf.exists(path) else {}
    curves = {name: found[name] for name in runs if len(found.get(name, ())) == args.num_steps}
    for name, config in configs.items():
        if name not in curves:
            loop = TrainLoop(config, args.out, data, None, device)
            curves[name] = [step_loss(loop) for _ in tqdm(range(args.num_steps), desc=name, unit="step")]
            write_json(path, curves)
    write_atomic(bf.join(args.out, "curves.png"), draw(curves, seeds, bf.basename(args.config)))
    print(verdict(curves, seeds))
    print(f"look at {bf.join(args.out, 'curves.png')}")


def make_config(args: argparse.Namespace, seed: int, precision: str) -> Config:
    overrides = dict(parse_override(text) for text in args.set)
    overrides |= {"train.seed": seed, "train.precision": precision, "train.compile": "off"}
    overrides["train.iterations"] = args.num_steps
    label_map = read_label_map(args.data_dir)
    if label_map:
        overrides["data.label_map"] = label_map
    return load_config(args.config, None, overrides)


def step_loss(loop: TrainLoop) -> float:
    loop.train_step()
    loop.check_finite()
    return loop.window.report()["loss"]


def last_fifth(curve: list[float]) -> float:
    return float(np.mean(curve[-len(curve) // 5 :]))


def verdict(curves: dict[str, list[float]], seeds: list[int]) -> str:
    """A table of the runs' last fifths, and one sentence."""
    means = {name: last_fifth(curve) for name, curve in curves.items()}
    lines = [f"seed {seed}: fp32 {means[f'fp32 {seed}']:.5f}, bf16 {means[f'bf16 {seed}']:.5f}" for seed in seeds]
    fp32 = [means[f"fp32 {seed}"] for seed in seeds]
    difference = max(abs(means[f"bf16 {seed}"] - means[f"fp32 {seed}"]) for seed in seeds)
    spread = max(fp32) - min(fp32)
    lines.append(
        f"largest difference by precision at one seed {difference:.5f}, spread of the seeds in fp32 {spread:.5f}: "
        + ("within the spread" if difference <= spread else "NOT within the spread")
    )
    return "\n".join(lines)


def draw(curves: dict[str, list[float]], seeds: list[int], title: str) -> bytes:
    """PNG: a colour for each seed, fp32 solid and bf16 dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for seed, colour in zip(seeds, COLOURS * len(seeds), strict=False):
        for precision, style in zip(PRECISIONS, ("-", (0, (3, 1.5))), strict=True):
            values = smooth(np.array(curves[f"{precision} {seed}"]), half=15)
            steps, label = np.arange(1, len(values) + 1), f"{precision}, seed {seed}"
            axes.plot(steps, values, color=colour, ls=style, lw=1.8, label=label)
    axes.set(yscale="log", xlabel="training step", ylabel="loss (mean over 31 steps)")
    axes.set_title(f"{title}: fp32 solid, bf16 dashed", loc="left", fontsize=12)
    axes.grid(color="#e2e2e2", lw=0.7, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, ncols=len(seeds))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    run_cli(main)
