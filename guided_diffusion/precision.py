"""In which precision networks compute, torch.compile, and how much memory there is."""

import functools
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

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


def check_memory(needed: int, device: torch.device, what: str, remedy: str) -> None:
    """Raise InputError where `what` takes more bytes than there are: a system without memory kills, and says nothing.

    The CPU's memory is shared by the processes of this machine.
    """
    if device.type == "cuda":
        there = torch.cuda.mem_get_info(device)[1]
    else:
        there = cpu_memory() // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if needed > there:
        sizes = f"{needed / 2**30:,.1f} GiB, but {device} has {there / 2**30:,.1f} for a process"
        raise InputError(f"{what} takes about {sizes}; {remedy}")


@functools.cache
def cpu_memory() -> int:
    """Bytes of memory that this machine has, and that its control groups (containers, batch systems) grant."""
    return min(_limits())


def _limits() -> Iterator[int]:
    yield os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError):  # elsewhere than on Linux
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers in ("", "memory"):  # version 2, or 1
                root, file = f"/sys/fs/cgroup/{controllers}", "memory.limit_in_bytes" if controllers else "memory.max"
                for place in (Path(group), *Path(group).parents):
                    with suppress(OSError, ValueError):  # "max": no limit
                        yield int(Path(root, str(place).strip("/"), file).read_text())


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
