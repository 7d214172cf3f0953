"""Sets of labelled images as the measures take them: samples, and real images seen as samples show them (`View`)."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..data.files import read_groups, stem_of
from ..data.image_datasets import DefectDataset
from ..data.image_files import View, read_image, resize_image, resize_mask
from ..data.prepared import find_good, find_samples, read_pair
from ..data.records import recorded_settings
from ..errors import InputError
from ..generation.sample_io import common_class_names
from ..keyed_random import numpy_generator

Row = dict[str, Any]  # of a file of results
Pair = tuple[np.ndarray, np.ndarray]  # an image [H, W, 3] and its mask [H, W]
BAR_DELAY = 2  # seconds that work has to last to get a progress bar
BAR = {"desc": "reading images", "unit": "image", "delay": BAR_DELAY}
WINDOWS = 4  # of each real image, where samples show windows of images
WINDOW = "//"  # between the name of an image, which cannot hold it, and the number of its window
FLAGS: dict[str, dict[str, Any]] = {  # of several commands
    "samples": {"help": "folder of generated samples"},
    "real": {"help": "data set of real images to measure against, best held out"},
    "train": {"help": "data set that the generator was trained on"},
    "groups": {"help": "CSV or JSON file: which real images show one object (default: each its own)"},
    "device": {"default": "auto", "help": "auto (default), cpu, cuda or cuda:N"},
    "seed": {"type": int, "default": 0, "help": "of all random draws (0)"},
}


def add_flags(parser: argparse.ArgumentParser, required: Sequence[str], optional: Sequence[str]) -> None:
    for name in (*required, *optional):
        parser.add_argument(f"--{name}", required=name in required, **FLAGS[name])


@dataclass(frozen=True)
class ImageSet:
    """N labelled images; an array of N where all are of one size."""

    images: Sequence[np.ndarray] | np.ndarray  # uint8 [H, W, 3] each
    masks: Sequence[np.ndarray] | np.ndarray  # uint8 [H, W] each
    names: list[str]  # "<type>/<stem>" of real images, "#k" appended for window k; the stem of samples
    groups: list[str]  # what the bootstrap resamples together
    class_names: tuple[str, ...]
    folder: str

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int]) -> "ImageSet":
        """The images at these places, in this order; an array stays one."""

        def pick(values: Sequence) -> Sequence:
            array = isinstance(values, np.ndarray)
            return values[np.asarray(indices, np.int64)] if array else [values[i] for i in indices]

        return replace(self, **{field: pick(getattr(self, field)) for field in ("images", "masks", "names", "groups")})

    def in_groups(self, flag: str) -> "ImageSet":
        """Itself; raises InputError where it is of fewer than two groups, over which there are no intervals."""
        if len(set(self.groups)) < 2:
            raise InputError(f"{flag} {self.folder}: intervals need images of at least 2 groups; add some")
        return self


def sources(images: ImageSet) -> list[str]:
    """The images that they are or that they are windows of."""
    return [name.partition(WINDOW)[0] for name in images.names]


def view_of_samples(folder: str, size: tuple[int, int]) -> View:
    """The view of the samples in `folder`, which are of `size`: from their manifest, without one whole images. Raises
    InputError where that shows no images of such a size."""
    crops = recorded_settings(folder).get("crops")
    if crops and any(side < window for side, window in zip(crops["crop_from"], size, strict=False)):
        shown = "{1} x {0} pixels, but training saw images of {3} x {2}".format(*size, *crops["crop_from"])
        raise InputError(f"{folder}: its samples are of {shown}; make samples that are no larger")
    return View(size, True, tuple(crops["crop_from"]), float(crops["crop_defect"])) if crops else View(size)


def read_samples(folder: str, class_names: tuple[str, ...]) -> ImageSet:
    """All samples in `folder`, in the order of their names, as arrays; each is a group of its own. Photographs with
    defects drawn in are brought to the size that training saw. Raises InputError where there are none, they cannot be
    read, or they differ in size."""
    found, whole = find_samples(folder), recorded_settings(folder).get("whole_size")
    pairs = (read_pair(sample, len(class_names)) for sample in tqdm(found, **BAR))
    if whole:
        pairs = ((resize_image(image, whole), resize_mask(mask, whole)) for image, mask in pairs)
    images, masks = zip(*pairs, strict=True)
    for sample, mask in zip(found, masks, strict=True):
        if mask.shape != masks[0].shape:
            (height, width), (first, across), of = mask.shape, masks[0].shape, found[0].image
            other = f"is {width} x {height} pixels, but {of} is {across} x {first}"
            raise InputError(f"{sample.image}: {other}; samples must be of one size")
    names = [stem_of(sample.image) for sample in found]
    return ImageSet(np.stack(images), np.stack(masks), names, names, class_names, folder)


def read_real(root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None) -> ImageSet:
    """The images with defects of the data set at `root`, whole, at the samples' scale. groups: a file for read_groups
    (each by itself). Raises InputError."""
    data = DefectDataset.load(root, class_names, view)
    own = read_groups(groups, data.names, "--groups") if groups else data.names
    images = [image.movedim(0, -1).contiguous().numpy() for image in data.images]
    return ImageSet(images, [mask.numpy() for mask in data.masks], data.names, own, class_names, root)


def as_shown(whole: ImageSet, view: View) -> ImageSet:
    """Images of read_real as samples show them, in arrays of view.size: with view.windows WINDOWS of each, drawn as in
    training, always the same; else each once."""
    images = [torch.from_numpy(image).movedim(-1, 0) for image in whole.images]
    data = DefectDataset(images, [torch.from_numpy(mask) for mask in whole.masks], whole.names, view)
    which = np.repeat(np.arange(len(whole)), WINDOWS if view.windows else 1)
    images, masks = data.batch(which, numpy_generator("evaluation windows"))
    shown = whole.take(which)
    names = [f"{name}{WINDOW}{k % WINDOWS}" for k, name in enumerate(shown.names)] if view.windows else shown.names
    return replace(shown, images=images.movedim(1, -1).contiguous().numpy(), masks=masks.numpy(), names=names)


def read_good(root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None) -> ImageSet:
    """The defect-free images of the data set at `root` (its type folder `good`), whole; there may be none. groups: as
    in read_real. Raises InputError where one cannot be read."""
    samples = find_good(root)
    images = [read_image(sample.image, view.whole_size) for sample in tqdm(samples, **BAR)]
    masks, names = [np.zeros(image.shape[:2], np.uint8) for image in images], [sample.name for sample in samples]
    own = read_groups(groups, names, "--groups") if groups else names
    return ImageSet(images, masks, names, own, class_names, root)


def check_unseen(flag: str, held_out: ImageSet, train: ImageSet, otherwise: str = "") -> None:
    """Raise InputError where whole images are among those of training too. otherwise: what else the user may do."""
    known = {image.tobytes() for image in train.images}
    if both := [name for name, image in zip(held_out.names, held_out.images, strict=True) if image.tobytes() in known]:
        also = f"{len(both)} of its images are in --train {train.folder} too, such as {both[0]}"
        raise InputError(f"{flag} {held_out.folder}: {also}; test on images that no training has seen{otherwise}")


@dataclass(frozen=True)
class RealSets:
    """What --real and --train name, for samples of a view; without --train, --real stands for it."""

    view: View
    seen: dict[str, ImageSet]  # "real" and "train", where given, as the samples show them
    train: ImageSet  # whole
    good: ImageSet  # whole, defect-free
    trained: ImageSet  # `train` as the samples show it
    held_out: ImageSet | None  # the real images that no training has seen

    @classmethod
    def read(cls, args: argparse.Namespace, class_names: tuple[str, ...], view: View) -> "RealSets":
        """Raises InputError."""
        folders = {name: root for name in ("real", "train") if (root := getattr(args, name))}
        whole = {name: read_real(root, class_names, view, groups=args.groups) for name, root in folders.items()}
        if len(whole) == 2:
            check_unseen("--real", whole["real"], whole["train"], ", or give one of the two sets alone")
        seen = {name: as_shown(images, view) for name, images in whole.items()}
        trains = "train" if args.train else "real"
        good = read_good(folders[trains], class_names, view)
        return cls(view, seen, whole[trains], good, seen[trains], seen.get("real") if args.train else None)


def read_sets(args: argparse.Namespace) -> tuple[ImageSet, RealSets]:
    """The samples, and the real images. Raises InputError where one cannot be read, or they have other types."""
    folders = {f"--{name}": root for name in ("samples", "real", "train") if (root := getattr(args, name))}
    names = common_class_names(folders)
    samples = read_samples(args.samples, names)
    return samples, RealSets.read(args, names, view_of_samples(args.samples, samples.masks.shape[1:]))
