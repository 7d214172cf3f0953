"""Filling a sample folder: round after round, on one process or several, each written while the next is computed."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from .. import dist_util
from ..diffusion.respace import Pair
from ..errors import InputError, whole
from ..file_io import as_path, lock_folder
from ..keyed_random import sample_noise
from .conditions import Conditions
from .insertion import Insertions
from .sample_io import SampleFolder
from .settings import MOST_SAMPLES, MOST_SEED, Settings

if TYPE_CHECKING:
    from .api import DefectGen


def _say_stop(before: int) -> None:
    """Ctrl-C or a closed terminal: the run ends after this step; a second one ends it at once."""
    if before:
        raise KeyboardInterrupt
    with suppress(OSError):  # not print, which a signal may interrupt; and the terminal may be gone
        os.write(2, b"\nstopping after this step; once more to stop at once\n")


def fill_folder(
    generator: "DefectGen",
    sample_dir: str,
    num_samples: int,
    settings: Settings,
    conditions: Conditions | Insertions | None = None,
    *,
    seed: int = 0,
    batch_size: int | str = "auto",
    compile: bool = False,
) -> SampleFolder | None:
    """Add to a folder what it lacks of samples 0..num_samples-1.

    All processes go through the same number of rounds, at whose ends they meet; rank 0 writes a round while the next is
    computed, and gets the folder, which no other run may write to meanwhile. Raises InputError; and KeyboardInterrupt
    after SIGINT or SIGHUP, when the round before is written."""
    settings, sample_dir = generator.settings(settings), as_path(sample_dir, "sample_dir")
    seed, num_samples = whole("seed", seed, MOST_SEED), whole("num_samples", num_samples, MOST_SAMPLES)
    conditions = conditions or Conditions(generator.config, settings)
    rank, inserting = dist_util.rank(), isinstance(conditions, Insertions)
    about = generator.about(settings, conditions, seed)
    with ExitStack() as ending:

        def begin() -> SampleFolder:
            ending.enter_context(lock_folder(sample_dir, "`sample_dir`"))
            return SampleFolder(sample_dir, generator.layout.class_names, about)

        folder = dist_util.on_zero(begin)
        missing = dist_util.broadcast_from_zero(folder and folder.missing(num_samples))
        if folder and len(missing) < num_samples:
            print(f"{num_samples - len(missing)} of {num_samples} samples are there already", flush=True)
        own, share = missing[rank :: dist_util.world_size()], ceil(len(missing) / dist_util.world_size())
        size = generator.choose_batch_size(batch_size, share, settings)
        size = dist_util.broadcast_from_zero(size)  # as GPUs may differ
        if compile and missing:
            generator.compile(size, settings)
        rounds, steps = [own[i : i + size] for i in range(0, share, size)], int(np.sum(settings.num_steps))

        def counted(pairs: Iterable[Pair]) -> Iterator[Pair]:
            for pair in pairs:
                yield pair
                if not inserting:
                    bar.update()
                if stop.number:
                    raise KeyboardInterrupt
                if written.done():
                    written.result()  # an error in writing ends the run now, not after the round

        def halved(smaller: int, left: int) -> None:
            nonlocal size
            tqdm.write(f"out of memory with {size} images at a time; going on with {smaller}")
            size = smaller
            if not inserting:
                bar.total = bar.n + steps * sum(ceil(count / size) for count in (left, *map(len, rounds)))

        stop = ending.enter_context(dist_util.Stop("SIGINT", "SIGHUP", on_signal=_say_stop))
        writer = ending.enter_context(ThreadPoolExecutor(1))
        total, unit = (len(own), "photograph") if inserting else (len(rounds) * steps, "step")
        bar = ending.enter_context(tqdm(total=total, unit=unit, disable=rank > 0))
        drawer = ending.enter_context(ThreadPoolExecutor(1))
        shape = generator.layout.num_channels, *settings.image_size
        key = generator.diffusion.num_timestep, shape, torch.device("cpu")
        how: dict[str, Any] = {"settings": settings, "seed": seed, "progress": counted, "on_out_of_memory": halved}
        written, drawn = writer.submit(lambda: None), None  # the last round, and the noise of the next
        while rounds:
            indices = rounds.pop(0)
            if inserting:  # whose windows are known once their masks are drawn
                count = len(indices)
                indices, images, masks, about_each = conditions.draw(generator, indices, size, **how)
                bar.update(count)
            else:
                x = drawn and drawn.result()
                drawn = drawer.submit(sample_noise, seed, rounds[0], *key) if rounds and rounds[0] else None
                batch = generator.draw(indices, size, x, conditions=conditions, **how)
                images, masks, about_each = batch.images, batch.masks, conditions.names_of(indices)
            parts = dist_util.gather_to_zero([*zip(indices, images, masks, about_each, strict=True)])
            if samples := [sample for part in parts or () for sample in part]:
                written.result()  # at most one round waits to be written
                written = writer.submit(folder.add, *zip(*samples, strict=True))
        written.result()
        if stop.number:
            raise KeyboardInterrupt
        none = inserting and bool(missing) and folder and len(folder.missing(num_samples)) == num_samples
        if dist_util.broadcast_from_zero(none):
            remedy = "allow more of them (`where`), or give another `scale` or types"
            raise InputError(f"`background`: no photograph has room for a defect; {remedy}")
    return folder
