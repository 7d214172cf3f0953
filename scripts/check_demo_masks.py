#!/usr/bin/env python3
"""Do the quickstart's generated masks sit on what they name? Ask the colours, which the networks were not told.

Each defect type of the drawn data has a tint of its own. The colour rule finds the tints in the generated RGB images
alone; this prints its overlap with the generated masks, per type: IoU of all pixels, and mean IoU over images.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from draw_demo_data import LABEL_MAP, tint_rule  # noqa: E402

from guided_diffusion.data.index_masks import read_pair
from guided_diffusion.errors import run_cli
from guided_diffusion.prepare.layouts import find_samples


def mask_agreement(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[int, float, float]]:
    """Per type: images in which mask or rule has it, IoU of all their pixels, mean of the images' IoUs.

    pairs: image uint8 [H, W, 3] and index mask uint8 [H, W] of each sample.
    """
    found = {}
    for name, index in LABEL_MAP.items():
        both, either = [], []
        for image, mask in pairs:
            rule = tint_rule(image) == index
            both.append((rule & (mask == index)).sum())
            either.append((rule | (mask == index)).sum())
        both, either = np.array(both), np.array(either)
        seen = either > 0
        overall = both.sum() / max(1, either.sum())
        found[name] = (
            int(seen.sum()),
            float(overall),
            float((both[seen] / either[seen]).mean()) if seen.any() else 0.0,
        )
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", metavar="SAMPLES", help="folder of samples generated from the drawn data")
    args = parser.parse_args(argv)
    pairs = [read_pair(sample, len(LABEL_MAP)) for sample in find_samples(args.samples)]
    found = mask_agreement(pairs)
    print(f"{'type':10} {'images':>6} {'IoU, all pixels':>16} {'IoU, mean of images':>20}")
    for name, (count, overall, mean) in found.items():
        print(f"{name:10} {count:6d} {overall:16.2f} {mean:20.2f}")
    overall, mean = (np.mean([row[k] for row in found.values()]) for k in (1, 2))
    print(f"{'average':10} {len(pairs):6d} {overall:16.2f} {mean:20.2f}")


if __name__ == "__main__":
    run_cli(main)
