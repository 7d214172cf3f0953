"""What a lift is measured on: real images, defect-free ones, and the samples of each generator run; all checks."""

from __future__ import annotations

import argparse
import hashlib
import os
import string
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..generation.class_names import common_class_names
from .arms import BASELINES
from .image_sets import ImageSet, View, read_good, read_samples, read_whole, view_of_samples

_NAME_CHARACTERS = set(string.ascii_letters + string.digits + "_-")


@dataclass(frozen=True)
class Data:
    """All that trainings take. samples: the generator runs of each set, by its name."""

    view: View
    train: ImageSet
    good: ImageSet | None
    val: ImageSet
    val_good: ImageSet
    samples: dict[str, list[ImageSet]]


def read_data(args: argparse.Namespace) -> tuple[Data, list[str]]:
    """Everything read and checked, and notes on what is missing. Raises InputError."""
    folders = _named_folders(args.samples)
    first = next(iter(folders.values()))[0]
    every = [folder for runs in folders.values() for folder in runs]
    flags = {f"--samples #{k + 1}" if k else "--samples": folder for k, folder in enumerate(every)}
    class_names = common_class_names({"--train": args.train, "--val": args.val, **flags})
    samples = {name: [read_samples(folder, class_names) for folder in runs] for name, runs in folders.items()}
    view = view_of_samples(first, samples[next(iter(samples))][0].masks.shape[1:])
    for runs in samples.values():
        for run in runs:
            other = view_of_samples(run.folder, run.masks.shape[1:])
            if (other.size, other.windows, other.crop_from) != (view.size, view.windows, view.crop_from):
                raise InputError(
                    f"--samples {run.folder}: shows {_seen(other)}, but {first} {_seen(view)}; compare samples of "
                    "one kind"
                )
    train = read_whole(args.train, class_names, view, groups=args.groups, flag="--train")
    val = read_whole(args.val, class_names, view, groups=args.groups, flag="--val")
    good = None if args.no_good else read_good(args.train, class_names, view)
    val_good = read_good(args.val, class_names, view, groups=args.groups)
    if len(set(val.groups)) < 2:
        raise InputError(f"--val {args.val}: an interval needs images of at least 2 groups; add some")

    def shown(images: Sequence[ImageSet]) -> set[str]:
        indices = {int(k) for part in images for mask in part.masks for k in np.unique(mask)} - {0}
        return {class_names[k - 1] for k in indices}

    known = {image.tobytes() for image in train.images}
    if both := [name for name, image in zip(val.names, val.images, strict=True) if image.tobytes() in known]:
        raise InputError(
            f"--val {args.val}: {both[0]} is also in --train {args.train}, as are {len(both) - 1} more; test on images "
            "that no training has seen"
        )
    notes = []
    trained, tested = shown([train]), shown([val])
    if not trained & tested:
        raise InputError(
            f"--val {args.val}: shows {', '.join(sorted(tested))}, but --train {args.train} "
            f"{', '.join(sorted(trained))}; test on types that are trained"
        )
    if missing := [name for name in class_names if name not in tested]:
        notes.append(f"--val shows no {', '.join(missing)}: left out of all means.")
    if missing := [name for name in class_names if name in tested and name not in trained]:
        notes.append(f"--train shows no {', '.join(missing)}, which --val does.")
    for name, runs in samples.items():
        given = shown(runs)
        if not given & trained:
            raise InputError(f"--samples {runs[0].folder}: its masks show none of the types of --train {args.train}")
        if missing := [type_ for type_ in class_names if type_ in trained and type_ not in given]:
            notes.append(f"The samples of {name} show no {', '.join(missing)}.")
    if not good:
        notes.append("No defect-free images in training" + ("." if args.no_good else ": --train has no folder good."))
    if not val_good:
        notes.append("--val has no defect-free images (folder good): false-positive rates are not known.")
    return Data(view, train, good or None, val, val_good, samples), notes


def digest(images: ImageSet | None) -> str:
    """Hash of pixels and masks."""
    digest = hashlib.sha256()
    for image, mask in zip(images.images, images.masks, strict=True) if images else ():
        digest.update(str(image.shape).encode() + image.tobytes() + mask.tobytes())
    return digest.hexdigest()


def _named_folders(values: Sequence[str]) -> dict[str, list[str]]:
    """{name: folders} of --samples; a single unnamed one is called synthetic, others by their folder."""
    found: dict[str, list[str]] = {}
    for value in values:
        name, sign, folders = value.partition("=")
        if not sign:
            folders = value
            name = "synthetic" if len(values) == 1 else os.path.basename(os.path.normpath(value.split(",")[0]))
        if not name or not set(name) <= _NAME_CHARACTERS or name in ("real", *BASELINES):
            raise InputError(
                f"--samples {value}: cannot be called {name!r}; name it NAME=DIR, of letters, digits, _ and -"
            )
        if name in found:
            raise InputError(f"--samples {value}: a second set called {name}; name them NAME=DIR")
        found[name] = [folder for folder in folders.split(",") if folder]
        if not found[name]:
            raise InputError(f"--samples {value}: names no folder")
    return found


def _seen(view: View) -> str:
    size = f"{view.size[1]} x {view.size[0]} px"
    return f"windows of {size}" if view.windows else f"whole images of {size}"
