"""In which precision networks compute, torch.compile, and running out of memory."""

import gc
from collections.abc import Callable

import torch
from torch import nn

from . import dist_util
from .errors import InputError

PRECISIONS = ("fp32", "bf16")
# In a RuntimeError's text: of CUDA, cuDNN and cuBLAS, torch's CPU allocator, C++, oneDNN.
_MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "std::bad_alloc", "could not create a primitive")


def resolve_precision(asked: str, device: torch.device) -> str:
    """fp32 or bf16; "auto" is bf16 where the hardware multiplies in it, emulation excluded. Ranks follow rank 0."""
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, test, bool)() for test in tests)
    return dist_util.broadcast_from_zero("bf16" if native else "fp32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run. precision: "fp32", or "bf16": products in bfloat16, sums in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact_float32() -> None:
    """Make fp32 mean IEEE float32 on GPUs as well: by default PyTorch lets convolutions round to TF32's 10 bits."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def cast_weights(model: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, for a network that only generates.

    Autocast would cast them anew at every step; the result is the same.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(torch.bfloat16)


def try_compile(network: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module:
    """The network under torch.compile, once run(it) has made it compile.

    Raises InputError if something is lacking or fails; running out of memory is passed on.
    """
    fast = torch.compile(network)
    try:
        run(fast)
    except Exception as error:  # what a compiler raises has no common type
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"torch.compile: failed ({reason}); turn it off (train.compile off, --compile off)") from error
    return fast


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
