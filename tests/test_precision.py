"""Precision by the hardware, one line where compiling fails, and telling a lack of memory from other errors."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guided_diffusion.errors import InputError
from guided_diffusion.precision import Graphs, exact_float32, is_out_of_memory, resolve_precision, try_compile

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "avx512", "amx", "gpu", "expected"),
    [
        (CPU, 0, 0, 1, "fp32"),
        (CPU, 1, 0, 0, "bf16"),
        (CPU, 0, 1, 0, "bf16"),
        (GPU, 1, 1, 0, "fp32"),
        (GPU, 0, 0, 1, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_hardware_multiplies_in_it(device, avx512, amx, gpu, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(avx512))
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: bool(amx))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu or including_emulation)
    assert resolve_precision("auto", device) == expected
    assert resolve_precision("fp32", device) == "fp32" and resolve_precision("bf16", device) == "bf16"


def test_float32_is_exact_whatever_was_set_unless_tf32_is_asked_for():
    with pytest.raises(InputError, match="^precision tf32: only GPUs multiply so, and this is cpu; give fp32$"):
        resolve_precision("tf32", CPU)
    assert resolve_precision("tf32", GPU) == "tf32"
    for precision, rounded in (("tf32", True), ("fp32", False)):
        torch.set_float32_matmul_precision("medium")
        exact_float32(precision)
        backends = torch.backends
        assert backends.cudnn.allow_tf32 == backends.cuda.matmul.allow_tf32 == rounded
        assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")


def test_a_failing_compiler_is_one_line(monkeypatch):
    def broken(network):
        raise RuntimeError("CppCompileError: no\nlong text")

    monkeypatch.setattr(torch, "compile", lambda network, dynamic, mode: broken)
    with pytest.raises(InputError, match=r"^torch\.compile: failed \(CppCompileError: no\); turn it off \(train\.comp"):
        try_compile(torch.nn.Identity(), lambda network: network(1))


@pytest.mark.parametrize(("fault", "count"), [(None, 3), ("stream is capturing", 8), ("out of memory", 0)])
def test_graphs_are_recorded_once_and_replayed(fault, count, monkeypatch):
    """With a stand-in for CUDA, whose replays compute anew at the addresses of the recording."""
    calls, graph = [], SimpleNamespace(pool=int, recording=False)

    @contextmanager
    def record(graph, *_):
        graph.recording = fault
        yield
        given, output = calls[-1]
        graph.replay = lambda: torch.mul(given, 2, out=output)

    def network(x):
        if graph.recording:
            graph.recording = False
            raise RuntimeError(fault)
        calls.append((x, 2 * x))
        return calls[-1][1]

    for name in ("Stream", "device", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: nullcontext())
    for name in ("graph_pool_handle", "current_device"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    graphs, given = Graphs(GPU), [torch.full((3,), float(i)) for i in range(8)]
    with nullcontext() if count else pytest.raises(RuntimeError, match=fault):
        found = [graphs.run(network, x) for x in given]
        assert all(torch.equal(y, 2 * x) for x, y in zip(given, found, strict=True))  # none is overwritten
        assert len(calls) == count  # two to warm up, one to record


def test_a_lack_of_memory_is_told_from_other_errors():
    for allocate in (lambda: torch.empty(1 << 60, dtype=torch.uint8), lambda: np.empty(1 << 60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)
    messages = ("CUDA error: out of memory", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "could not create a primitive")
    for error in (torch.OutOfMemoryError("CUDA out of memory."), *map(RuntimeError, messages)):
        assert is_out_of_memory(error)
    for error in (RuntimeError("CUDA error: an illegal memory access"), InputError("out of memory"), OSError(28, "")):
        assert not is_out_of_memory(error)
