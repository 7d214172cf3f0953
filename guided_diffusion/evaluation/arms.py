"""The arms of a comparison: what a segmenter is given besides the real images, and the baselines among them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from ..errors import InputError, unknown_name
from ..keyed_random import numpy_generator
from .augmentation import Pool
from .image_sets import ImageSet

BASELINES = ("plain", "repeat", "copy_paste")
PASTE_SCALE = 1.25  # pasted defects are enlarged by up to this factor, or its inverse
PLACES = 20  # tried, for one without a defect


@dataclass(frozen=True)
class Arm:
    """One way to train. kind: real, plain, repeat, copy_paste or synthetic. extra: images beside the real ones.

    ratio: extra over real, None where a count was asked for. samples: name of the set that a synthetic arm takes.
    """

    name: str
    kind: str
    extra: int = 0
    ratio: float | None = None
    samples: str | None = None


def plan_arms(
    num_real: int,
    samples: dict[str, int],
    *,
    ratios: Sequence[float],
    counts: Sequence[int],
    baselines: Sequence[str],
    baseline_ratios: Sequence[float],
    strict: Collection[str] = (),
) -> tuple[list[Arm], list[str]]:
    """The arms, `real` first, and notes on those left out for want of samples.

    samples: how many there are in each set (in its smallest run). strict: for which of "ratios" and "counts" an
    InputError is raised instead.
    """
    arms = [Arm("real", "real")]
    if "plain" in baselines:
        arms.append(Arm("plain", "plain"))
    for kind in ("repeat", "copy_paste"):
        if kind in baselines:
            arms += [Arm(f"{kind}_x{r:g}", kind, _times(r, num_real), r) for r in baseline_ratios]
    notes = []
    for name, there in samples.items():
        wanted = [("ratios", Arm(f"{name}_x{r:g}", "synthetic", _times(r, num_real), r, name)) for r in ratios]
        wanted += [("counts", Arm(f"{name}_n{n}", "synthetic", n, None, name)) for n in counts]
        for flag, arm in wanted:
            if arm.extra <= there:
                arms.append(arm)
                continue
            problem = f"{arm.name} needs {arm.extra} samples, but {name} has {there}"
            if flag in strict:
                raise InputError(f"--{flag}: {problem}; make more samples or ask for fewer")
            notes.append(f"Left out: {problem}.")
    return arms, notes


def choose_verdict_arm(name: str | None, arms: Sequence[Arm]) -> str:
    """The arm named, or ratio 1 of the first set, or its first arm. Raises InputError."""
    synthetic = [arm for arm in arms if arm.kind == "synthetic"]
    if name is not None:
        if name not in [arm.name for arm in arms[1:]]:
            raise InputError(unknown_name("--verdict_arm", name, [arm.name for arm in arms[1:]]))
        return name
    if not synthetic:
        raise InputError("--samples: too few for any arm; make more samples or ask for a smaller --ratios")
    return next((arm for arm in synthetic if arm.ratio == 1), synthetic[0]).name


def make_pool(
    arm: Arm,
    real: ImageSet,
    good: ImageSet | None,
    samples: ImageSet | None,
    size: tuple[int, int],
    seed: int,
    good_share: float,
    real_share: float | None,
) -> Pool:
    """What a run of this arm trains on; samples: those of its generator run. seed: of the run."""
    extra = None
    if arm.kind == "repeat":
        extra = real.take(numpy_generator("repeat", seed).permutation(np.arange(arm.extra) % len(real)))
    elif arm.kind == "copy_paste":
        extra = copy_paste(real, good, arm.extra, numpy_generator("copy_paste", seed))
    elif arm.kind == "synthetic":
        extra = samples.take(range(arm.extra))
    return Pool(real, extra, good, size, good_share, real_share if extra else None, augment=arm.kind != "plain")


def copy_paste(real: ImageSet, good: ImageSet | None, count: int, rng: np.random.Generator) -> ImageSet:
    """`count` images with the defects of one real image pasted into a defect-free one, or a defect-free place.

    The defects of an image are moved together: flipped, scaled by up to PASTE_SCALE, put anywhere, shifted in
    brightness by as much as their surroundings differ, and blended over about a pixel (after Dwibedi et al. 2017,
    "Cut, Paste and Learn"). Where there are no defect-free images they go into real ones, of PLACES tried places where
    they cover the fewest defect pixels.
    """
    sources = [i for i, mask in enumerate(real.masks) if mask.any()]
    targets = good if good else real
    images, masks = [], []
    for source, target in zip(_walk(len(sources), count, rng), _walk(len(targets), count, rng), strict=True):
        image, mask = _paste(
            real.images[sources[source]],
            real.masks[sources[source]],
            targets.images[target],
            targets.masks[target],
            rng,
        )
        images.append(image)
        masks.append(mask)
    names = [f"copy_paste/{k}" for k in range(count)]
    return replace(real, images=images, masks=masks, names=names, groups=list(names))


def _paste(
    image: np.ndarray, mask: np.ndarray, onto: np.ndarray, onto_mask: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One image and mask of copy_paste."""
    margin = 3  # pixels of surroundings, to compare and to blend
    box = []
    for axis in (0, 1):
        there = np.flatnonzero(mask.any(axis=1 - axis))
        box.append(slice(max(0, there[0] - margin), min(mask.shape[axis], there[-1] + 1 + margin)))
    patch, label = image[tuple(box)], mask[tuple(box)]
    for axis in (0, 1):
        if rng.random() < 0.5:
            patch, label = np.flip(patch, axis), np.flip(label, axis)
    fits = min(have / want for have, want in zip(onto_mask.shape, label.shape, strict=True))
    scale = min(PASTE_SCALE ** rng.uniform(-1, 1), fits)
    height, width = (
        min(have, max(1, round(side * scale))) for side, have in zip(label.shape, onto_mask.shape, strict=True)
    )
    patch = np.asarray(Image.fromarray(np.ascontiguousarray(patch)).resize((width, height), Image.Resampling.BILINEAR))
    label = np.asarray(Image.fromarray(np.ascontiguousarray(label)).resize((width, height), Image.Resampling.NEAREST))

    places = []
    for _ in range(PLACES):
        top = int(rng.integers(onto_mask.shape[0] - height + 1))
        left = int(rng.integers(onto_mask.shape[1] - width + 1))
        window = slice(top, top + height), slice(left, left + width)
        places.append((int(np.count_nonzero(onto_mask[window])), len(places), window))
        if not places[-1][0]:
            break
    window = min(places)[2]
    image, mask = onto.copy(), onto_mask.copy()
    below, around = image[window].astype(np.float64), label == 0
    shift = (below - patch)[around].mean(axis=0) if around.any() else 0.0
    inside = Image.fromarray((label > 0).astype(np.uint8) * 255)
    alpha = np.maximum(np.asarray(inside), np.asarray(inside.filter(ImageFilter.GaussianBlur(1))))[..., None] / 255
    image[window] = np.clip(alpha * (patch + shift) + (1 - alpha) * below, 0, 255).round()
    mask[window] = np.where(label > 0, label, mask[window])
    return image, mask


def _walk(size: int, count: int, rng: np.random.Generator) -> Iterator[int]:
    """`count` indices below size, in one permutation after another."""
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return iter(np.concatenate(rounds)[:count].tolist() if rounds else [])


def _times(ratio: float, num_real: int) -> int:
    return max(1, round(ratio * num_real))
