"""How networks compute on a device: precision, copies, torch.compile, CUDA graphs, and running out of memory."""

import gc
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from . import dist_util
from .errors import InputError

PRECISIONS = ("fp32", "tf32", "bf16")
WARM_UP, MOST_GRAPHS = 2, 16  # calls before a network is recorded as a CUDA graph; graphs that are kept
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

    precision: "tf32" lets all products do so. It holds for the whole process, until it is called again."""
    rounded = precision == "tf32"
    torch.set_float32_matmul_precision("high" if rounded else "highest")  # where a user set it, it must not contradict
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = rounded


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """tensor.to(device), but the host does not wait for a GPU, which copies from pinned memory in its own time."""
    pin = torch.device(device).type == "cuda" and tensor.device.type == "cpu"
    return tensor.pin_memory().to(device, non_blocking=True) if pin else tensor.to(device)


def cast_weights(model: nn.Module) -> None:
    """Keep the weights of convolutions and linear layers in bfloat16, for a network that only generates.

    Autocast would cast them anew at every step; the result is the same."""
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            module.to(torch.bfloat16)


class Graphs:
    """Runs networks that need no gradients; on a GPU as CUDA graphs, of which the host launches one, not a thousand
    kernels, and which read and write at fixed addresses.

    A network is recorded after WARM_UP calls with inputs of the same shapes. Where that fails it just runs, as on the
    CPU. Not for several threads at once."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._calls, self._recorded = device, Counter(), {}
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def run(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """network(*inputs)"""
        if self._device.type == "cpu":
            return network(*inputs)
        key = (network, *(value.shape for value in inputs))
        self._calls[key] += 1
        if self._calls[key] <= WARM_UP:
            return network(*inputs)
        if key not in self._recorded:
            if len(self._recorded) == MOST_GRAPHS:
                self.clear()
            self._recorded[key] = self._record(network, [value.clone() for value in inputs])
        if self._recorded[key] is None:
            return network(*inputs)
        graph, given, output = self._recorded[key]
        for place, value in zip(given, inputs, strict=True):
            place.copy_(value)
        graph.replay()
        return output.clone()  # the next replay writes there

    def _record(self, network: Callable[..., Tensor], given: Sequence[Tensor]) -> tuple[Any, ...] | None:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        pool = next((one[0].pool() for one in self._recorded.values() if one), None)  # as they run one at a time
        pool = pool or torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._device):
            try:
                with torch.cuda.graph(graph, pool, self._stream, "thread_local"):  # other threads may allocate
                    return graph, given, network(*given)
            except RuntimeError as error:
                with suppress(Exception):  # torch up to 2.11 goes on to take this for a recording (its issue 180395)
                    torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
                if is_out_of_memory(error):
                    raise
                warnings.warn(f"no CUDA graph, so networks run as they are: {error}", stacklevel=2)
                return None
            finally:
                torch.cuda.set_stream(before)  # a recording that fails leaves its own

    def clear(self) -> None:
        """Give back the graphs and their memory."""
        self._recorded.clear()


def try_compile(network: nn.Module, run: Callable[[nn.Module], object], graphs: bool = False) -> nn.Module:
    """The network under torch.compile, once run(it) has made it compile. graphs: as CUDA graphs, where that works;
    gradients must neither be accumulated nor exchanged between processes, which they have got wrong.

    Raises InputError if something is lacking or fails; running out of memory is passed on."""
    # dynamic: a second size would be compiled anew, for all sizes, which is slower
    fast = torch.compile(network, dynamic=False, mode="reduce-overhead" if graphs else None)
    try:
        for _ in range(1 + WARM_UP * graphs):  # the first warms up, the second records
            run(fast)
    except Exception as error:  # what a compiler raises has no common type
        if is_out_of_memory(error):
            raise
        if graphs:
            return try_compile(network, run)
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
