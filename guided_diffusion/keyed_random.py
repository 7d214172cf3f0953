"""Random numbers that depend on a key alone, such as (seed, sample index, t).

So samples do not depend on batch size, process count or restart, and resuming needs no generator state.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from .parallel import default_workers

if TYPE_CHECKING:  # where only numpy's generator is wanted, torch need not be loaded
    import torch
    from torch import Tensor

Key = int | str
MANY = 2**22  # numbers that are worth threads


def key_to_seed(*key: Key) -> int:
    """Hash a key to a 63-bit seed; the same on every machine."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(*key: Key) -> np.random.Generator:
    return np.random.default_rng(key_to_seed(*key))


def torch_generator(device: torch.device | str, *key: Key) -> torch.Generator:
    import torch

    return torch.Generator(device).manual_seed(key_to_seed(*key))


def sample_noise(seed: int, indices: Sequence[int], t: int, shape: Sequence[int], device: torch.device | str) -> Tensor:
    """Standard normal noise float32 [len(indices), *shape]; row i keyed by (seed, indices[i], t).

    Drawn on the CPU, so that every device gets the same.
    """
    import torch

    from .precision import to_device

    def draw(index: int) -> Tensor:
        return torch.randn(*shape, generator=torch_generator("cpu", "sample", seed, index, t))

    with ThreadPoolExecutor(default_workers() if len(indices) * prod(shape) >= MANY else 1) as pool:
        return to_device(torch.stack(list(pool.map(draw, indices))), device)


class NoiseAhead:
    """sample_noise of a seed, but a thread of `pool` draws meanwhile what it will be asked for next."""

    def __init__(self, seed: int, pool: ThreadPoolExecutor) -> None:
        self._seed, self._pool, self._rows = seed, pool, {}

    def expect(self, indices: Sequence[int], t: int, shape: Sequence[int]) -> None:
        for index in indices:
            self._rows[index, t] = self._pool.submit(sample_noise, self._seed, [index], t, shape, "cpu")

    def __call__(self, indices: Sequence[int], t: int, shape: Sequence[int], device: torch.device) -> Tensor:
        import torch

        from .precision import to_device

        rows = [self._rows.pop((index, t), None) for index in indices]
        if None in rows:
            return sample_noise(self._seed, indices, t, shape, device)
        return to_device(torch.cat([row.result() for row in rows]), device)
