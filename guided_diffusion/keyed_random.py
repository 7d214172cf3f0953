"""Random numbers that depend on a key alone, such as (seed, sample index, t).

So samples do not depend on batch size, process count or restart, and resuming needs no generator state.
"""

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # where only numpy's generator is wanted, torch need not be loaded
    import torch
    from torch import Tensor

Key = int | str


def key_to_seed(*key: Key) -> int:
    """Hash a key to a 63-bit seed; the same on every machine."""
    words = [zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def numpy_generator(*key: Key) -> np.random.Generator:
    return np.random.default_rng(key_to_seed(*key))


def torch_generator(device: "torch.device | str", *key: Key) -> "torch.Generator":
    import torch

    return torch.Generator(device).manual_seed(key_to_seed(*key))


def sample_noise(
    seed: int, indices: Sequence[int], t: int, shape: Sequence[int], device: "torch.device | str"
) -> "Tensor":
    """Standard normal noise float32 [len(indices), *shape]; row i keyed by (seed, indices[i], t).

    Drawn on the CPU, so that every device gets the same."""
    import torch

    from .precision import to_device

    rows = [torch.randn(*shape, generator=torch_generator("cpu", "sample", seed, i, t)) for i in indices]
    return to_device(torch.stack(rows), device)
