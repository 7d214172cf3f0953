"""How networks compute on a device: precision, copies, torch.compile, and running out of memory."""

import gc
from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import dist_util
from .errors import InputError

PRECISIONS = ("fp32", "tf32", "bf16")
# In a RuntimeError's text: of CUDA, cuDNN and cuBLAS, torch's CPU allocator, C++, oneDNN.
_MESSAGES = ("out of memory", "ALLOC_FAILED", "can't allocate memory", "std::bad_alloc", "could not create a primitive")


def resolve_precision(asked: str, device: torch.device) -> str:
    """One of PRECISIONS; "auto" is bf16 where the hardware multiplies in it, emulation excluded, else fp32. Ranks
    follow rank 0. Raises InputError."""
    if asked == "tf32" and device.type != "cuda":
        raise InputError(f"precision tf32: only GPUs multiply so, and this is {device}; give fp32")
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, test, bool)() for test in tests)
    return dist_util.broadcast_from_zero("bf16" if native else "fp32")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context in which networks run. precision: "bf16": products in bfloat16, sums in float32; else float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def exact_float32(precision: str = "fp32") -> None:
    """Make fp32 mean IEEE float32 on GPUs as well: by default PyTorch lets convolutions round to TF32's 10 bits.

    precision: "tf32" lets all products do so. It holds for the whole process, until it is called again.
    """
    rounded = precision == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")  # where a user set it, it must not contradict
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rounded


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """tensor.to(device), but the host does not wait for a GPU: it copies from pinned memory in its own time."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


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
    fast = torch.compile(network, dynamic=False)  # else a second size is compiled for all sizes, and slower
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
