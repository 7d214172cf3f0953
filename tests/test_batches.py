"""The batch size: parsing, choosing by memory, and telling a lack of memory from other errors."""

import numpy as np
import pytest
import torch

from guided_diffusion import batches
from guided_diffusion.batches import choose_batch_size, is_out_of_memory, parse_batch_size
from guided_diffusion.errors import InputError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def never(count):
    raise AssertionError("generated without need")


def test_batch_sizes_are_parsed():
    assert parse_batch_size("auto") is None
    assert parse_batch_size("12") == parse_batch_size(12) == 12
    for value in ("0", "-1", 0, "many", "", "1.5"):
        with pytest.raises(InputError, match=f"--batch_size {value}: must be auto, or a number of images, at least 1"):
            parse_batch_size(value)


@pytest.mark.parametrize(
    ("count", "image_size", "expected"),
    [
        (0, (64, 64), 1),
        (5, (64, 64), 5),
        (16, (64, 64), 16),
        (17, (64, 64), 9),  # rather than 16 and 1
        (40, (128, 128), 14),
        (100, (256, 256), 4),
        (100, (256, 512), 2),
        (3, (2048, 2048), 1),
    ],
)
def test_on_the_cpu(count, image_size, expected):
    assert choose_batch_size(never, count, CPU, image_size) == expected


class Gpu:
    """In the place of torch.cuda: images of one size in a memory of one size."""

    def __init__(self, monkeypatch, total, weights, fixed, each):
        self.total, self.weights, self.fixed, self.each = total, weights, fixed, each
        self.runs, self.peak = [], 0
        for name, value in {
            "reset_peak_memory_stats": lambda device: setattr(self, "peak", self.weights),
            "max_memory_allocated": lambda device: self.peak,
            "memory_allocated": lambda device: self.weights,
            "mem_get_info": lambda device: (self.total - self.weights, self.total),
            "is_initialized": lambda: False,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def run(self, count):
        self.runs.append(count)
        need = self.weights + self.fixed + count * self.each
        if need > self.total:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 MiB")
        self.peak = max(self.peak, need)


@pytest.mark.parametrize(
    ("gpu", "count", "expected"),
    [
        # 0.85 of the 900 that the weights leave, less 20, is 745: seven of 100
        ({"total": 1000, "weights": 100, "fixed": 20, "each": 100}, 70, 7),
        ({"total": 1000, "weights": 100, "fixed": 20, "each": 100}, 8, 4),
        ({"total": 1000, "weights": 100, "fixed": 0, "each": 1}, 1000, 63),  # 64 at most: 16 batches
        ({"total": 1000, "weights": 900, "fixed": 0, "each": 90}, 70, 1),  # two do not fit
        ({"total": 1000, "weights": 100, "fixed": 0, "each": 0}, 60, 60),
    ],
)
def test_on_a_gpu(gpu, count, expected, monkeypatch):
    gpu = Gpu(monkeypatch, **gpu)
    size = choose_batch_size(gpu.run, count, GPU, (64, 64))
    assert size == expected
    assert max(gpu.runs) <= max(batches.MEASURED)
    gpu.run(size)
    assert gpu.peak <= gpu.weights + batches.SHARE * (gpu.total - gpu.weights) or size == 1


def test_a_few_images_are_not_measured_first():
    assert choose_batch_size(never, 3, GPU, (64, 64)) == 3


def test_other_errors_of_the_measurement_are_not_hidden():
    with pytest.raises(RuntimeError, match="illegal memory access"):
        choose_batch_size(lambda count: fail("CUDA error: an illegal memory access"), 10, GPU, (64, 64))


def fail(text):
    raise RuntimeError(text)


def test_a_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as caught:
        np.empty(1 << 60, dtype=np.uint8)
    assert is_out_of_memory(caught.value)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("could not create a primitive"),
    ):
        assert is_out_of_memory(error)
    for error in (RuntimeError("CUDA error: an illegal memory access"), InputError("out of memory"), OSError(28, "")):
        assert not is_out_of_memory(error)
