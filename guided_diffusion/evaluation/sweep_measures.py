"""What is measured at every point of a sweep, with the same resamples of seeds and of real images at each."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ..config import DataConfig
from ..errors import InputError
from ..generation.api import DefectGen
from ..generation.class_names import class_names_of
from ..keyed_random import numpy_generator
from .agreement import agreement, train_agreement_segmenter
from .bootstrap import NUM_RESAMPLES, Resampling, mean_of_pairs, resampled_mean_of_pairs, share_interval
from .copies import nearest_whole
from .features import load_extractor
from .fidelity import measure_fidelity
from .image_sets import ImageSet, View, read_good, read_whole, read_windows
from .kid import kid, kid_resampled
from .perceptual import distances, embed, within_memory
from .sample_scores import Limits
from .seen import LEAST_IMAGES
from .sweep_rule import Estimate

KEY = "sweep"  # of the draws


def view_of(data: DataConfig) -> View:
    """How a network trained with these settings shows the world."""
    windows = data.fit == "random_crop"
    return View(tuple(data.resolution), windows, tuple(data.crop_from), data.crop_defect)


class Bench:
    """The real images, the extractor and the segmenter that all points are measured with.

    Making it reads and checks; `prepare` does the work that all points share. Raises InputError.
    """

    def __init__(self, args: argparse.Namespace, generator: DefectGen, device: torch.device):
        self.args, self.device = args, device
        self.class_names, self.view = generator.layout.class_names, view_of(generator.config.data)
        for flag, folder in (("--real", args.real), ("--train", args.train)):
            self._check_types(flag, folder)
        self.real = read_windows(args.real, self.class_names, self.view, groups=args.groups)
        if len(self.real) < LEAST_IMAGES:
            raise InputError(f"--real {args.real}: holds {len(self.real)} images; measures need {LEAST_IMAGES}")
        if len(set(self.real.groups)) < 2:
            raise InputError(f"--real {args.real}: an interval needs images of at least 2 groups; add some")
        root, flag = (args.train, "--train") if args.train else (args.real, "--real")
        self.whole = read_whole(root, self.class_names, self.view, groups=args.groups, flag=flag)
        self.good = read_good(root, self.class_names, self.view)
        self.extractor = load_extractor(args.extractor, device)
        self.of_seeds = Resampling.draw(range(args.num_samples), NUM_RESAMPLES, numpy_generator(KEY, "seeds"))
        self.of_real = Resampling.draw(self.real.groups, NUM_RESAMPLES, numpy_generator(KEY, "real"))

    def _check_types(self, flag: str, folder: str | None) -> None:
        found = class_names_of(folder) if folder else None
        if found and found != self.class_names:
            raise InputError(
                f"{flag} {folder}: its types are {', '.join(found)}, but the networks' are "
                f"{', '.join(self.class_names)}; use a set with the same label map"
            )

    def crops(self) -> dict[str, Any]:
        """What a manifest says of samples that show windows, see image_sets.view_of_samples."""
        if not self.view.windows:
            return {}
        return {"crops": {"crop_from": list(self.view.crop_from), "crop_defect": self.view.crop_defect}}

    def provenance(self) -> dict[str, Any]:
        """Extractor, segmenter and folders."""
        segmenter = None if self.args.no_agreement else self.segmenter.provenance
        folders = {"real": self.args.real, "train": self.args.train}
        return {**self.extractor.provenance, "segmenter": segmenter, **folders}

    def counts(self) -> dict[str, int | None]:
        """Of images; real ones are counted as the samples show them, windows each."""
        return {
            "samples": self.args.num_samples,
            "real_images": len(self.real),
            "real_groups": len(set(self.real.groups)),
            "train_images": len(self.whole) if self.args.train else None,
        }

    def notes(self) -> list[str]:
        """What was measured on what, and what was not."""
        args = self.args
        height, width = self.view.size
        seen = f"windows of {height} x {width} px" if self.view.windows else f"{height} x {width} px"
        sha256 = self.extractor.provenance["weights_sha256"][:8]
        copies = f"near-copies of the {len(self.whole)} images of {args.train}"
        return [
            f"{args.num_samples} samples at each point, {seen}, seed {args.seed}; the same seeds at every point",
            f"against {len(self.real)} real images in {len(set(self.real.groups))} groups of {args.real}; features of "
            f"{args.extractor} ({sha256}); intervals at 95%, over seeds and groups of real images",
            copies if args.train else "near-copies were not measured: --train was not given",
            "agreement was not measured: --no_agreement"
            if args.no_agreement
            else f"agreement with a segmenter trained on {self.whole.folder}, which knows images like those best",
            "the best is the best of these points, and nothing is corrected for their number",
        ]

    def prepare(self) -> None:
        """Features and diversity of the real images, what is a near-copy, and the segmenter."""
        self.real_features = self.extractor(self.real.images)
        chosen = within_memory(self.extractor, self.real.images, KEY)
        embedded = embed(self.extractor, self.real.images[chosen])
        self.reference = {"diversity": mean_of_pairs(distances(embedded, embedded))}
        if self.args.train:
            self.limits = Limits.measure(self.whole, self.real, self.view.size, self.extractor)
        if self.args.no_agreement:
            return
        self.segmenter = train_agreement_segmenter(
            self.whole,
            self.good if len(self.good) else None,
            self.view,
            self.args.seed,
            held_out=self.real if self.args.train else None,
            device=self.device,
            progress=lambda steps: tqdm(steps, desc="training a segmenter", unit="step"),
        )
        judged = self.segmenter.reference
        if judged and judged["mean"]:
            self.reference["agreement"] = judged["mean"]["value"]

    def measure(self, sets: Mapping[str, ImageSet]) -> dict[str, dict[str, Estimate]]:
        """The estimates by key of each of these sets, all of the same seeds."""
        return {name: self._measure(images) for name, images in tqdm(sets.items(), desc="measuring", unit="point")}

    def _measure(self, samples: ImageSet) -> dict[str, Estimate]:
        features = self.extractor(samples.images)
        fidelity = measure_fidelity(features, self.real_features, self.real.groups, key=(KEY,))
        estimates = {
            name: Estimate(found["value"], interval=found["interval"]) if found else Estimate(None)
            for name, found in fidelity.items()
        }
        estimates["kid"] = Estimate(
            kid(features, self.real_features), kid_resampled(features, self.real_features, self.of_seeds, self.of_real)
        )
        estimates["diversity"] = self._diversity(samples.images)
        if self.args.train:
            matches = nearest_whole(samples.images, self.whole.images, device=self.device)
            estimates["copies"] = self._share([match.distance < self.limits.copy.value for match in matches])
        if not self.args.no_agreement:
            estimates["agreement"] = self._mean(agreement(self.segmenter, samples))
        estimates["empty"] = self._share((samples.masks == 0).all(axis=(1, 2)))
        estimates["types"] = Estimate(float(len(types_in(samples))))
        return estimates

    def _diversity(self, images: np.ndarray) -> Estimate:
        chosen = within_memory(self.extractor, images, KEY)  # the same seeds at every point
        embedded = embed(self.extractor, images[chosen])
        pairs = distances(embedded, embedded)
        of = Resampling(self.of_seeds.unit[chosen], self.of_seeds.counts)
        return Estimate(mean_of_pairs(pairs), resampled_mean_of_pairs(pairs, of))

    def _mean(self, values: np.ndarray) -> Estimate:
        """The mean over seeds of values [N]; nan ones do not count."""
        known = ~np.isnan(values)
        if not known.any():
            return Estimate(None)
        mean, weights = float(values[known].mean()), self.of_seeds.weights[:, known]
        total = weights.sum(axis=1)
        resampled = np.divide(weights @ values[known], total, out=np.full(len(total), mean), where=total > 0)
        return Estimate(mean, resampled)

    def _share(self, flags: Sequence[bool] | np.ndarray) -> Estimate:
        """The share of seeds whose flag [N] is set; its interval is above 0 even if no flag is."""
        found = self._mean(np.asarray(flags, np.float64))
        return replace(found, interval=share_interval(flags, range(len(flags)))["interval"])


def types_in(samples: ImageSet) -> list[str]:
    """The types that occur in at least one sample."""
    present = np.unique(samples.masks)
    return [name for index, name in enumerate(samples.class_names, start=1) if index in present]
