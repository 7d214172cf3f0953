"""The arms of a comparison: what a segmenter is trained on besides the real images; copy-paste among them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from ..data.image_files import resize_image, resize_mask
from ..errors import InputError
from .image_sets import ImageSet, Pair

BASELINES = ("repeat", "copy_paste")
ALL = "all"  # in place of a ratio: as many samples as there are
PASTE_SCALE = 1.25  # pasted defects are enlarged by up to this factor, or its inverse
PLACES = 20  # tried, for one without a defect
SURROUNDINGS = 3  # pixels around the defects that are compared with the place, and blended


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str
    kind: str  # real, repeat, copy_paste or synthetic
    extra: int = 0  # images beside the real ones
    ratio: float = 0  # extra over real
    samples: str | None = None  # name of the set that a synthetic arm takes
    runs: int = 1  # of its generator


def plan_arms(
    num_real: int, samples: dict[str, list[ImageSet]], ratios: Sequence[float | str], baselines: Sequence[str]
) -> tuple[list[Arm], list[str]]:
    """The arms, `real` first, and notes on those left out for want of samples; raises InputError if all are. samples:
    the generator runs of each set, of which the smallest counts. ratios: of samples to real images, or ALL."""
    arms, notes = [Arm("real", "real"), *(Arm(f"{kind}_x1", kind, num_real, 1) for kind in baselines)], []
    for name, runs in samples.items():
        there = min(map(len, runs))
        for ratio in ratios:
            if ratio == ALL:
                arm = Arm(f"{name}_{ALL}", "synthetic", there, there / num_real, name, len(runs))
            else:
                arm = Arm(f"{name}_x{ratio:g}", "synthetic", max(1, round(ratio * num_real)), ratio, name, len(runs))
            if (arms[-1].samples, arms[-1].extra) == (name, arm.extra):
                continue  # the same images again
            if arm.extra <= there:
                arms.append(arm)
            else:
                notes.append(f"Left out: {arm.name} needs {arm.extra} samples, but {name} has {there}.")
    if not arms[-1].samples:
        raise InputError(" ".join(["--samples: no arm takes any.", *notes, "Make more, or ask for smaller --ratios."]))
    return arms, notes


def copy_paste(real: ImageSet, good: ImageSet | None, count: int, rng: np.random.Generator) -> ImageSet:
    """`count` images with the defects of one real image pasted into a defect-free one (after Dwibedi et al. 2017).

    They are moved together: flipped, scaled by up to PASTE_SCALE, put anywhere, shifted in brightness by as much as
    their surroundings differ, and blended. Without defect-free images: into real ones, where they cover fewest defects.
    """
    sources = real.take([i for i, mask in enumerate(real.masks) if mask.any()])
    pairs = zip(_walk(sources, count, rng), _walk(good or real, count, rng), strict=True)
    images, masks = zip(*(_paste(source, target, rng) for source, target in pairs), strict=True)
    names = [f"copy_paste/{k}" for k in range(count)]
    return replace(real, images=list(images), masks=list(masks), names=names, groups=list(names))


def _paste(source: Pair, target: Pair, rng: np.random.Generator) -> Pair:
    """One image and mask of copy_paste."""
    (image, mask), (onto, onto_mask) = source, target
    (box,) = ndimage.find_objects((mask > 0).astype(np.uint8))
    box = tuple(slice(max(0, side.start - SURROUNDINGS), side.stop + SURROUNDINGS) for side in box)
    patch, label = image[box], mask[box]
    for axis in (0, 1):
        if rng.random() < 0.5:
            patch, label = np.flip(patch, axis), np.flip(label, axis)
    room = np.array(onto_mask.shape)
    scale = min(PASTE_SCALE ** rng.uniform(-1, 1), (room / label.shape).min())
    height, width = np.minimum(room, np.maximum(1, np.round(scale * np.array(label.shape)).astype(int))).tolist()
    patch = resize_image(np.ascontiguousarray(patch), (height, width))
    label = resize_mask(np.ascontiguousarray(label), (height, width))

    covered = []  # defect pixels that each place would cover, its number, and the place
    while len(covered) < PLACES and not (covered and covered[-1][0] == 0):
        top, left = rng.integers(room - label.shape + 1)
        window = slice(top, top + height), slice(left, left + width)
        covered.append((int(np.count_nonzero(onto_mask[window])), len(covered), window))
    window = min(covered)[2]
    image, mask = onto.copy(), onto_mask.copy()
    below, around = image[window].astype(np.float64), label == 0
    shift = (below - patch)[around].mean(axis=0) if around.any() else 0.0
    inside = Image.fromarray((label > 0).astype(np.uint8) * 255)
    alpha = np.maximum(np.asarray(inside), np.asarray(inside.filter(ImageFilter.GaussianBlur(1))))[..., None] / 255
    image[window] = np.clip(alpha * (patch + shift) + (1 - alpha) * below, 0, 255).round()
    mask[window] = np.where(label > 0, label, mask[window])
    return image, mask


def _walk(images: ImageSet, count: int, rng: np.random.Generator) -> list[Pair]:
    """`count` images with their masks, in one permutation after another."""
    rounds = [rng.permutation(len(images)) for _ in range(-(-count // len(images)))]
    return [(images.images[i], images.masks[i]) for i in np.concatenate(rounds)[:count]]
