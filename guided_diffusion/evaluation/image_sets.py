"""Sets of labelled images as the measures take them: samples, and real images seen as samples show them (`View`)."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from ..data.files import read_groups, stem_of
from ..data.image_datasets import SHOW_PROGRESS_ABOVE, DefectDataset
from ..data.image_files import View, read_image
from ..data.prepared import find_good, find_samples, read_pair
from ..errors import InputError
from ..generation.sample_io import common_class_names, recorded_settings
from ..keyed_random import numpy_generator
from .features import DEFAULT_EXTRACTOR, EXTRACTORS


@dataclass(frozen=True)
class ImageSet:
    """N labelled images.

    images: uint8 [H, W, 3] each; masks: uint8 [H, W]; an array of N where all are of one size. names: "<type>/<stem>"
    of real images, "#k" appended for window k; the stem of samples. groups: what the bootstrap resamples together.
    """

    images: Sequence[np.ndarray] | np.ndarray
    masks: Sequence[np.ndarray] | np.ndarray
    names: list[str]
    groups: list[str]
    class_names: tuple[str, ...]
    folder: str

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int]) -> ImageSet:
        """The images at these places, in this order; an array stays one."""
        chosen = {}
        for field in ("images", "masks", "names", "groups"):
            values = getattr(self, field)
            array = isinstance(values, np.ndarray)
            chosen[field] = values[np.asarray(indices, np.int64)] if array else [values[i] for i in indices]
        return replace(self, **chosen)


def sources(images: ImageSet) -> list[str]:
    """The images that they are or that they are windows of."""
    return [re.sub(r"#\d+$", "", name) for name in images.names]


def view_of_samples(folder: str, size: tuple[int, int]) -> View:
    """The view of the samples in `folder`, which are of `size`: from their manifest, without one whole images."""
    crops = recorded_settings(folder).get("crops")
    return View(size, True, tuple(crops["crop_from"]), float(crops["crop_defect"])) if crops else View(size)


def read_samples(folder: str, class_names: tuple[str, ...], flag: str = "--samples") -> ImageSet:
    """All samples in `folder`, in the order of their names, as arrays; each is a group of its own.

    Raises InputError where there are none, they cannot be read, or they differ in size.
    """
    with _flagged(flag):
        found = find_samples(folder)
    pairs = [read_pair(sample, len(class_names)) for sample in _progress(found, "reading samples")]
    images, masks = zip(*pairs, strict=True)
    for sample, mask in zip(found, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{flag} {sample.image}: is {mask.shape[1]} x {mask.shape[0]} pixels, but {found[0].image} is "
                f"{masks[0].shape[1]} x {masks[0].shape[0]}; samples must be of one size"
            )
    names = [stem_of(sample.image) for sample in found]
    return ImageSet(np.stack(images), np.stack(masks), names, names, class_names, folder)


def read_whole(
    root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None, flag: str = "--real"
) -> ImageSet:
    """The real images of the data set at `root`, whole, at the samples' scale. Defect-free ones are not among them.

    groups: a file for files.read_groups; None: each image by itself. Raises InputError.
    """
    data = _load(root, class_names, view, flag)
    images = [image.movedim(0, -1).contiguous().numpy() for image in data.images]
    return ImageSet(
        images, [mask.numpy() for mask in data.masks], data.names, _groups(groups, data.names), class_names, root
    )


def read_windows(
    root: str,
    class_names: tuple[str, ...],
    view: View,
    *,
    windows: int = 4,
    groups: str | None = None,
    flag: str = "--real",
) -> ImageSet:
    """The real images of the data set at `root` as samples show them, as arrays of view.size.

    Without view.windows each image once; else so many windows of each, drawn as in training, always the same.
    groups and errors: as in read_whole.
    """
    data = _load(root, class_names, view, flag)
    count = windows if view.windows else 1
    which = np.repeat(np.arange(len(data)), count)
    images, masks = data.batch(which, numpy_generator("evaluation windows"))
    own = _groups(groups, data.names)
    names = [f"{name}#{k}" for name in data.names for k in range(count)] if view.windows else data.names
    images = images.movedim(1, -1).contiguous().numpy()
    return ImageSet(images, masks.numpy(), names, [own[i] for i in which], class_names, root)


def read_good(root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None) -> ImageSet:
    """The defect-free images of the data set at `root` (its type folder `good`), whole; there may be none.

    groups: as in read_whole, None: each image by itself. Raises InputError where one cannot be read.
    """
    samples = find_good(root)
    images = [read_image(s.image, view.whole_size) for s in _progress(samples, "reading defect-free images")]
    masks = [np.zeros(image.shape[:2], np.uint8) for image in images]
    names = [sample.name for sample in samples]
    return ImageSet(images, masks, names, _groups(groups, names), class_names, root)


def _load(root: str, class_names: tuple[str, ...], view: View, flag: str) -> DefectDataset:
    crops = {"fit": view.fit, "crop_from": view.crop_from, "crop_defect": view.crop_defect}
    with _flagged(flag):
        return DefectDataset.load(root, len(class_names), view.size, **crops)


@contextmanager
def _flagged(flag: str) -> Iterator[None]:
    """Errors name the flag first."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def _groups(file: str | None, names: list[str]) -> list[str]:
    return read_groups(file, names, "--groups") if file and names else names


def _progress(files: Sequence, what: str) -> tqdm:
    return tqdm(files, desc=what, unit="image", disable=len(files) <= SHOW_PROGRESS_ABOVE)


# What the command lines of evaluation share

FLAGS = {
    "real": "data set of real images to measure against, best held out",
    "train": "data set that the generator was trained on",
    "samples": "folder of generated samples",
    "groups": "CSV or JSON file: which real images are of one object (each by itself)",
    "out": "folder for the results",
}


@dataclass(frozen=True)
class Sets:
    """What --samples, --real and --train name; without --train, --real stands for it.

    real, trained: as the samples show them, None without --real, --train. train, good: whole, with defects and without.
    """

    samples: ImageSet
    view: View
    real: ImageSet | None
    trained: ImageSet | None
    train: ImageSet
    good: ImageSet


def add_arguments(
    parser: argparse.ArgumentParser, *, required: Collection[str], seed: str, extractor: bool = True, **optional: str
) -> None:
    """Flags of FLAGS, and --extractor, --device and --seed; optional: what stands in for a flag, for its help."""
    for name in required:
        parser.add_argument(f"--{name}", required=True, help=FLAGS[name])
    for name, default in optional.items():
        parser.add_argument(f"--{name}", help=f"{FLAGS[name]} ({default})")
    if extractor:
        known = {"choices": tuple(EXTRACTORS), "default": DEFAULT_EXTRACTOR}
        parser.add_argument("--extractor", **known, help=f"of features ({DEFAULT_EXTRACTOR})")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:N")
    parser.add_argument("--seed", type=int, default=0, help=f"{seed} (0)")


def read_sets(args: argparse.Namespace, windows: int = 4) -> Sets:
    """Raises InputError where a set cannot be read, or they have other types."""
    folders = {f"--{name}": getattr(args, name) for name in ("samples", "real", "train") if getattr(args, name)}
    names = common_class_names(folders)
    samples = read_samples(args.samples, names)
    view = view_of_samples(args.samples, samples.masks.shape[1:])
    shown = {
        name: read_windows(getattr(args, name), names, view, windows=windows, groups=args.groups, flag=f"--{name}")
        for name in ("real", "train")
        if getattr(args, name)
    }
    flag = "--train" if args.train else "--real"
    train = read_whole(folders[flag], names, view, groups=args.groups, flag=flag)
    return Sets(samples, view, shown.get("real"), shown.get("train"), train, read_good(folders[flag], names, view))
