"""Generating into a folder: in rounds, by one process or several, each round written while the next is computed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import dist_util
from ..diffusion.respace import Pair, total_steps
from .api import DefectGen, auto_batch_size
from .conditions import Conditions
from .sample_io import SampleFolder
from .settings import Settings


def generate_rounds(
    generator: DefectGen,
    settings: Settings,
    seed: int,
    missing: Sequence[int],
    conditions: Conditions,
    folder: SampleFolder | None,
    batch_size: int | None = None,
    compile: bool = False,
) -> None:
    """Generate the `missing` sample indices; rank 0 writes them to `folder`.

    All processes have the same number of rounds, at whose ends they meet. One whose memory turns out too small for a
    round makes it in several batches. batch_size: None for the rule's. Raises InputError.
    """
    share = math.ceil(len(missing) / dist_util.world_size())
    size = batch_size or auto_batch_size(share, settings.image_size, generator.device)
    if compile and missing:
        generator.compile(size, settings)
    own = missing[dist_util.rank() :: dist_util.world_size()]
    rounds = [own[i : i + size] for i in range(0, share, size)]
    later, steps, names = rounds, total_steps(settings.num_steps), conditions.names
    written: Future[None] = Future()  # the last round
    written.set_result(None)

    def write(parts: list[tuple[list[int], np.ndarray, np.ndarray]]) -> None:
        for indices, images, masks in parts:
            folder.add(indices, images, masks, [names[i % len(names)] for i in indices] if names else None)

    def counted(pairs: Iterable[Pair]) -> Iterator[Pair]:
        """The pairs, moving the bar as each is done."""
        for pair in pairs:
            yield pair
            bar.update()
            if written.done():
                written.result()  # an error in writing ends the run now, not after the round

    def halved(smaller: int, left: int) -> None:
        """Say so, and count the steps anew: `left` samples of this round are still to be made."""
        nonlocal size
        tqdm.write(f"out of memory with {size} images at a time; going on with {smaller}")
        size = smaller
        bar.total = bar.n + steps * sum(math.ceil(count / size) for count in (left, *map(len, later)))

    with (
        ThreadPoolExecutor(max_workers=1) as writer,
        tqdm(total=len(rounds) * steps, unit="step", disable=dist_util.rank() > 0) as bar,
    ):
        for indices in rounds:
            later = later[1:]
            batch = generator.generate(
                indices,
                settings,
                seed=seed,
                masks=conditions.masks,
                backgrounds=conditions.backgrounds,
                batch_size=size,
                progress=counted,
                on_out_of_memory=halved,
            )
            parts = dist_util.gather_to_zero((indices, batch.images, batch.masks))
            if parts:
                written.result()  # at most one round waits to be written
                written = writer.submit(write, parts)
        written.result()


def provenance(
    generator: DefectGen, settings: Settings, seed: int, weights: str, conditions: Conditions
) -> dict[str, Any]:
    """Everything that decides the samples, for the manifest. settings: complete ones."""
    networks, data = {"large": generator.large, "small": generator.small}, generator.config.data
    about = {
        "seed": seed,
        **settings.row(),
        "weights": weights,
        "precision": generator.precision,
        "checkpoints": {name: network and network.sha256 for name, network in networks.items()},
        "class_names": list(generator.layout.class_names),
    }
    if data.fit == "random_crop":  # samples show windows of images: evaluate.py cuts the same
        about["crops"] = {"crop_from": list(data.crop_from), "crop_defect": data.crop_defect}
    return {**about, "conditions": conditions.about} if conditions.about else about
