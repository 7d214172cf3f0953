"""Sets of labelled images as the measures take them: samples, and real images brought to what samples show.

A generator saw its training images either stretched to its resolution, or as windows of that size. Samples are compared
with real images seen the same way: that is their `View`, which the manifest of a sample folder tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from ..data.groups import read_groups
from ..data.image_datasets import DefectDataset, read_image
from ..data.index_masks import read_pair
from ..errors import InputError
from ..generation.sample_io import recorded_settings
from ..keyed_random import numpy_generator
from ..prepare.layouts import find_good, find_samples, stem_of

SHOW_PROGRESS_ABOVE = 200  # files


@dataclass(frozen=True)
class View:
    """How samples show the world: as whole images stretched to `size`, or as windows of `size`.

    size: (height, width) in pixels. windows: cut out of images that are first stretched to `crop_from` (empty: of
    their own size); `crop_defect` of them hold a defect for certain. See config.DataConfig.
    """

    size: tuple[int, int]
    windows: bool = False
    crop_from: tuple[int, ...] = ()
    crop_defect: float = 0.0

    @property
    def whole_size(self) -> tuple[int, ...]:
        """Height and width of a whole image at the samples' scale; empty: each image's own."""
        return self.crop_from if self.windows else self.size


@dataclass(frozen=True)
class ImageSet:
    """N labelled images.

    images: uint8 [H, W, 3] each; masks: their index masks, uint8 [H, W]; an array of N where all are of one size.
    names: "<type>/<stem>" of real images, "#k" appended for window k; the stem of samples. groups: what the bootstrap
    resamples together. folder: where they come from, for messages.
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

        def chosen(values: Sequence | np.ndarray) -> Sequence | np.ndarray:
            if isinstance(values, np.ndarray):
                return values[np.asarray(indices, dtype=np.int64)]
            return [values[i] for i in indices]

        return replace(
            self,
            images=chosen(self.images),
            masks=chosen(self.masks),
            names=chosen(self.names),
            groups=chosen(self.groups),
        )

    def having(self, index: int) -> ImageSet:
        """Those whose mask holds the type `index` (1..number of types)."""
        return self.take([i for i, mask in enumerate(self.masks) if (mask == index).any()])


def view_of_samples(folder: str, size: tuple[int, int]) -> View:
    """The view of the samples in `folder`, which are of `size`: from their manifest, without one whole images."""
    crops = recorded_settings(folder).get("crops")
    if crops is None:
        return View(size)
    return View(size, True, tuple(crops["crop_from"]), float(crops["crop_defect"]))


def read_samples(folder: str, class_names: tuple[str, ...], flag: str = "--samples") -> ImageSet:
    """All samples in `folder`, in the order of their names, as arrays; each is a group of its own.

    Raises InputError where there are none, they cannot be read, or they differ in size.
    """
    try:
        found = find_samples(folder)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error
    pairs = _progress(found, "reading samples")
    images, masks = zip(*(read_pair(sample, len(class_names)) for sample in pairs), strict=True)
    for sample, mask in zip(found, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise InputError(
                f"{flag} {sample.image}: is {mask.shape[1]} x {mask.shape[0]} pixels, but {found[0].image} is "
                f"{masks[0].shape[1]} x {masks[0].shape[0]}; samples must be of one size"
            )
    names = [stem_of(sample.image) for sample in found]
    return ImageSet(np.stack(images), np.stack(masks), names, list(names), class_names, folder)


def read_whole(
    root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None, flag: str = "--real"
) -> ImageSet:
    """The real images of the data set at `root`, whole, at the samples' scale. Defect-free ones are not among them.

    groups: a file for groups.read_groups; None: each image by itself. Raises InputError.
    """
    data = _load(root, class_names, view, flag)
    images = [image.permute(1, 2, 0).contiguous().numpy() for image in data.images]
    masks = [mask.numpy() for mask in data.masks]
    own = read_groups(groups, data.names, "--groups") if groups else list(data.names)
    return ImageSet(images, masks, list(data.names), own, class_names, root)


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
    own = read_groups(groups, data.names, "--groups") if groups else list(data.names)
    names = [f"{name}#{k}" for name in data.names for k in range(count)] if view.windows else list(data.names)
    return ImageSet(
        images.permute(0, 2, 3, 1).contiguous().numpy(),
        masks.numpy(),
        names,
        [own[i] for i in which],
        class_names,
        root,
    )


def read_good(root: str, class_names: tuple[str, ...], view: View, *, groups: str | None = None) -> ImageSet:
    """The defect-free images of the data set at `root` (its type folder `good`), whole; there may be none.

    groups: as in read_whole, None: each image by itself. Raises InputError where one cannot be read.
    """
    samples = find_good(root)
    images = [read_image(s.image, view.whole_size) for s in _progress(samples, "reading defect-free images")]
    names = [sample.name for sample in samples]
    own = read_groups(groups, names, "--groups") if groups and names else list(names)
    masks = [np.zeros(image.shape[:2], np.uint8) for image in images]
    return ImageSet(images, masks, names, own, class_names, root)


def _load(root: str, class_names: tuple[str, ...], view: View, flag: str) -> DefectDataset:
    try:
        return DefectDataset.load(
            root,
            len(class_names),
            view.size,
            fit="random_crop" if view.windows else "resize",
            crop_from=view.crop_from,
            crop_defect=view.crop_defect,
        )
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def _progress(files: Sequence, what: str) -> tqdm:
    return tqdm(files, desc=what, unit="image", disable=len(files) <= SHOW_PROGRESS_ABOVE)
