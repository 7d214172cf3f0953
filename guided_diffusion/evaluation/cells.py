"""Cells of a comparison on disk: for each a sample folder under <out>/cells, made batch by batch and used again."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any, Protocol

import blobfile as bf
import numpy as np
from tqdm import tqdm

from ..data.index_masks import read_pair
from ..diffusion.respace import Pair, total_steps
from ..errors import InputError
from ..file_io import read_json, write_json
from ..generation.api import DefectGen
from ..generation.sample_io import SampleFolder
from ..prepare.layouts import find_samples


class Cell(Protocol):
    """What tells one set of samples from another: a dataclass whose fields are `seed`, settings of DefectGen.generate
    and, unless that is a property, the `name` of its folder."""

    seed: int

    @property
    def name(self) -> str: ...


class CellStore:
    """The cells below `out`, num_samples in each: those that are there, and a generator for those that are not.

    `provenance` is what else decides the samples, for the manifests; `settings` are those of DefectGen.generate that
    all cells share.
    """

    def __init__(
        self,
        out: str,
        generator: DefectGen,
        *,
        num_samples: int,
        batch_size: int,
        provenance: dict[str, Any],
        **settings: Any,
    ):
        self._root = bf.join(out, "cells")
        self.class_names = generator.layout.class_names
        self._generator = generator
        self._common = settings
        self._num_samples, self._batch_size = num_samples, batch_size
        self._provenance = provenance

    def settings(self, cell: Cell) -> dict[str, Any]:
        """What DefectGen.generate needs for a cell. Raises InputError for steps that cannot be shared out."""
        own = {key: value for key, value in vars(cell).items() if key not in ("name", "seed")}
        return self._generator.check_settings(**self._common, **own)

    def generate(self, cells: Sequence[Cell]) -> None:
        """Make what is missing of these cells, with a bar that counts denoising steps of images.

        Raises InputError where a folder holds samples of other settings.
        """
        folders = [self._folder(cell) for cell in cells]
        missing = [folder.missing(self._num_samples) for folder in folders]
        steps = [total_steps(self.settings(cell)["num_steps"]) for cell in cells]
        work = sum(len(indices) * count for indices, count in zip(missing, steps, strict=True))
        with tqdm(total=work, unit="image steps", unit_scale=True, disable=not work) as bar:
            for cell, folder, indices in zip(cells, folders, missing, strict=True):
                for i in range(0, len(indices), self._batch_size):
                    bar.set_description(cell.name)
                    self._generate_batch(cell, folder, indices[i : i + self._batch_size], bar)

    def read(self, cell: Cell) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 [N, H, W, 3] and index masks uint8 [N, H, W] of a finished cell, by sample index."""
        samples = find_samples(self.path(cell))[: self._num_samples]
        pairs = [read_pair(sample, len(self.class_names)) for sample in samples]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])

    def seconds_per_image(self, cell: Cell) -> float | None:
        """Of generating: the median over batches; None where the samples come from elsewhere."""
        times = self._times(cell)
        return median(entry["seconds"] / entry["images"] for entry in times) if times else None

    def _generate_batch(self, cell: Cell, folder: SampleFolder, indices: Sequence[int], bar: tqdm) -> None:
        def counted(pairs: Iterable[Pair]) -> Iterator[Pair]:
            for pair in pairs:
                yield pair
                bar.update(len(indices))

        start = time.perf_counter()
        batch = self._generator.generate(
            indices, seed=cell.seed, batch_size=len(indices), progress=counted, **self.settings(cell)
        )
        seconds = time.perf_counter() - start  # the samples are on the host by then
        folder.add(indices, batch.images, batch.masks)
        write_json(self._times_file(cell), [*self._times(cell), {"images": len(indices), "seconds": seconds}])

    def _folder(self, cell: Cell) -> SampleFolder:
        settings = {"seed": cell.seed, **self.settings(cell), **self._provenance}
        try:
            return SampleFolder(self.path(cell), self.class_names, settings)
        except InputError as error:
            raise InputError(str(error).replace("--sample_dir", "--out")) from error

    def path(self, cell: Cell) -> str:
        """The sample folder of a cell."""
        return bf.join(self._root, cell.name)

    def _times_file(self, cell: Cell) -> str:
        return bf.join(self.path(cell), "times.json")

    def _times(self, cell: Cell) -> list[dict[str, float]]:
        path = self._times_file(cell)
        return read_json(path) if bf.exists(path) else []
