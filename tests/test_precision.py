"""Precision by the hardware, one line where compiling fails, and telling a lack of memory from other errors."""

import numpy as np
import pytest
import torch

from guided_diffusion import precision
from guided_diffusion.errors import InputError
from guided_diffusion.precision import CompileError, is_out_of_memory, resolve_precision, try_compile

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "avx512, amx, expected", [(False, False, "fp32"), (True, False, "bf16"), (False, True, "bf16")]
)
def test_auto_is_bf16_where_the_cpu_multiplies_in_it(avx512, amx, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("fp32", CPU) == "fp32" and resolve_precision("bf16", CPU) == "bf16"


@pytest.mark.parametrize("supported", [False, True])
def test_auto_does_not_take_emulation_on_a_gpu(supported, monkeypatch):
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported or including_emulation
    )
    assert resolve_precision("auto", GPU) == ("bf16" if supported else "fp32")


def test_without_a_compiler(monkeypatch):
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    with pytest.raises(CompileError, match=r"no C\+\+ compiler .* install one, or turn it off"):
        try_compile(torch.nn.Identity(), lambda network: network(1), CPU)


def test_a_failing_compiler_is_one_line(monkeypatch):
    def broken(network):
        raise RuntimeError("CppCompileError: no\nlong text")

    monkeypatch.setattr(torch, "compile", lambda network: broken)
    monkeypatch.setattr(precision.shutil, "which", lambda name: name)
    with pytest.raises(CompileError) as error:
        try_compile(torch.nn.Identity(), lambda network: network(1), CPU)
    assert str(error.value) == (
        "torch.compile: failed (CppCompileError: no); turn it off (train.compile off, --compile off)"
    )


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
