"""How many images are generated at a time: chosen by what the device's memory holds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from .errors import InputError

LARGEST = 64  # images on a GPU, which is busy long before
SHARE = 0.85  # of the GPU's free memory; the rest is for fragments and for kernels that need more at larger batches
MEASURED = (2, 4)  # images; no more than these are generated unmeasured
# On the CPU more gain nothing, and the memory is everybody's: 16 images of up to 128 x 128 pixels, fewer of larger.
CPU_LARGEST, CPU_PIXELS = 16, 16 * 128 * 128
# In a RuntimeError's text: of CUDA, cuDNN and cuBLAS, torch's CPU allocator, C++, oneDNN.
_MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "std::bad_alloc", "could not create a primitive")


def parse_batch_size(value: int | str) -> int | None:
    """A number of images from 1; None for "auto". Raises InputError."""
    if value == "auto":
        return None
    try:
        size = int(value)
    except ValueError:
        size = 0
    if size < 1:
        raise InputError(f"--batch_size {value}: must be auto, or a number of images, at least 1")
    return size


def choose_batch_size(run: Callable[[int], object], count: int, device: torch.device, image_size: Sequence[int]) -> int:
    """Batch size for `count` images [height, width]: the fewest batches that fit and pay, all of about one size.

    run(n) generates n images. On a GPU it is called to measure the memory of small batches, from which that of
    larger ones follows.
    """
    if device.type == "cuda":
        largest = _fitting(run, device) if count > max(MEASURED) else count
    else:
        largest = min(CPU_LARGEST, CPU_PIXELS // (image_size[0] * image_size[1]))
    batches = -(-count // max(1, largest))
    return max(1, -(-count // max(1, batches)))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the GPU or of the machine did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)


def free_memory() -> None:
    """Give back what a failed try left. Not for an except block, whose error still holds the tensors."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _fitting(run: Callable[[int], object], device: torch.device) -> int:
    """The largest batch for a GPU, up to LARGEST: memory grows evenly with it."""
    try:
        run(1)  # kernels are chosen and workspaces made: these stay, and count as used below
        peaks = []
        for n in MEASURED:
            free_memory()
            torch.cuda.reset_peak_memory_stats(device)
            run(n)
            peaks.append(torch.cuda.max_memory_allocated(device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return 1
    free_memory()
    free, _ = torch.cuda.mem_get_info(device)
    room = SHARE * free + torch.cuda.memory_allocated(device)
    each = (peaks[1] - peaks[0]) / (MEASURED[1] - MEASURED[0])
    return int(min(LARGEST, MEASURED[0] + (room - peaks[0]) / max(each, 1)))
