"""What depends on the machine and is settled before step 0, by measuring: precision, compilation, time and memory."""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from . import dist_util
from .batches import free_memory, is_out_of_memory
from .config import Config
from .errors import InputError
from .networks.estimate import estimate
from .networks.unet import create_model
from .precision import autocast

PRECISIONS = ("fp32", "bf16")
WORTH = 1.05  # bf16 must be this much faster than float32 to be chosen
MEASURED_STEPS, MEASURED_SECONDS = 3, 4.0  # after one to warm up; stops at whichever comes first
MAX_FLOPS = 2e12  # of one measured step on the CPU; larger batches are measured in part
# torch.compile by kind of device: how much faster a step was seen to become, and seconds to compile
# (docs/performance.md; the GPU's are not measured yet, but low guesses).
COMPILE_GAIN = {"cpu": 1.0, "cuda": 1.3}
COMPILE_SECONDS = {"cpu": 120.0, "cuda": 120.0}
COMPILE_PATIENCE = 2.0  # the time saved must be this many times the time spent


class CompileError(InputError):
    """torch.compile is lacking something, or failed."""


@dataclass(frozen=True)
class StepCost:
    """Of one training step without compilation. peak_bytes: of a GPU, None on the CPU."""

    device: str  # its kind
    seconds: float
    peak_bytes: int | None


def settle(
    config: Config, device: torch.device, step: int = 0, earlier: Config | None = None
) -> tuple[Config, StepCost, list[str]]:
    """Replace every "auto" by a decision. Returns the configuration, the cost of a step, and why.

    step: updates done already. earlier: the configuration of the run that is resumed, whose decisions hold, so
    that it goes on bit for bit. All ranks call it, and follow rank 0.
    """
    train, reasons = config.train, []
    precision, compile_ = train.precision, train.compile
    if earlier:
        precision = earlier.train.precision if precision == "auto" else precision
        compile_ = earlier.train.compile if compile_ == "auto" else compile_
    if precision == "auto":
        costs = {"bf16": measure_step(config, device, "bf16")}
        try:
            costs["fp32"] = measure_step(config, device, "fp32")
            gain = costs["fp32"].seconds / costs["bf16"].seconds
            reason = f"a step in bf16 is {gain:.2f} times as fast as in fp32 here"
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            gain, reason = math.inf, "fp32 does not fit into memory"
        precision = "bf16" if gain > WORTH else "fp32"
        reasons.append(f"precision          {precision} ({reason})")
    else:
        costs = {precision: measure_step(config, device, precision)}
    if compile_ == "auto":
        pace = costs[precision].seconds
        compile_, reason = decide_compile(device, lambda: pace * (train.iterations - step))
        reasons.append(f"torch.compile      {compile_} ({reason})")
    precision, compile_, cost, reasons = dist_util.broadcast_from_zero((precision, compile_, costs[precision], reasons))
    train = dataclasses.replace(train, precision=precision, compile=compile_)
    return dataclasses.replace(config, train=train), cost, reasons


def measure_step(config: Config, device: torch.device, precision: str) -> StepCost:
    """Forward and backward pass of a fresh network on noise, at the configuration's batch."""
    train = config.train
    batch = rows = train.micro_batch or config.data.bs_per_gpu
    network = create_model(config).to(device, memory_format=torch.channels_last)
    network.activation_checkpointing = train.activation_checkpointing
    if device.type == "cpu":
        rows = max(1, min(batch, int(MAX_FLOPS / (3 * estimate(config).flops_per_image))))
    inputs = noise_batch(config, rows, config.data.resolution, device)
    if device.type == "cuda":
        free_memory()
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _median_seconds(lambda: forward_backward(network, inputs, precision))
    peak = None
    if device.type == "cuda":  # float32 moments and EMA join later
        parameters = sum(p.numel() for p in network.parameters())
        peak = torch.cuda.max_memory_allocated(device) + 3 * 4 * parameters
    return StepCost(device.type, seconds * config.data.bs_per_gpu / rows, peak)


def _median_seconds(call: Callable[[], object]) -> float:
    seconds: list[float] = []
    while not seconds or (len(seconds) <= MEASURED_STEPS and sum(seconds) < MEASURED_SECONDS):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    timed = sorted(seconds[1:] or seconds)  # the first one warms up
    return timed[len(timed) // 2]


@torch.no_grad()
def faster_precision(network: nn.Module, config: Config, device: torch.device) -> str:
    """ "fp32" or "bf16", in which two images pass faster through a network that generates. Ranks follow rank 0."""
    inputs = noise_batch(config, 2, config.data.resolution, device)

    def forward(precision: str) -> None:
        with autocast(device, precision):
            network(*inputs).sum().item()  # waits for the device

    fp32, bf16 = (_median_seconds(partial(forward, precision)) for precision in PRECISIONS)
    return dist_util.broadcast_from_zero("bf16" if fp32 / bf16 > WORTH else "fp32")


def forward_backward(network: nn.Module, inputs: tuple[torch.Tensor, ...], precision: str) -> None:
    """One pass each way, gradients thrown away, waiting for the device."""
    device = inputs[0].device
    with autocast(device, precision):
        loss = network(*inputs).square().mean()
    loss.backward()
    network.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def decide_compile(device: torch.device, work: Callable[[], float]) -> tuple[str, str]:
    """ "on" or "off" for work that takes work() seconds without compilation, and why."""
    if COMPILE_GAIN[device.type] <= 1:
        return "off", "it makes nothing faster on the CPU"
    lacking = compiler_lacking(device)
    if lacking:
        return "off", lacking
    seconds = work()
    cost = COMPILE_SECONDS[device.type]
    saved = seconds * (1 - 1 / COMPILE_GAIN[device.type])
    if saved > COMPILE_PATIENCE * cost:
        return "on", f"expected to save {duration(saved)} for about {duration(cost)} of compiling"
    return "off", f"{duration(seconds)} of work would not earn back about {duration(cost)} of compiling"


def compiler_lacking(device: torch.device) -> str:
    """What torch.compile lacks on this machine; "" if nothing."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "Triton is not installed or does not know this GPU"
    return "" if any(map(shutil.which, ("g++", "clang++"))) else "no C++ compiler (g++ or clang++) is installed"


def try_compile(network: nn.Module, run: Callable[[nn.Module], object], device: torch.device) -> nn.Module:
    """The network under torch.compile, once run(it) has made it compile.

    Raises CompileError if something is lacking or fails; running out of memory is passed on.
    """
    lacking = compiler_lacking(device)
    if lacking:
        raise CompileError(f"torch.compile: {lacking}; install it, or turn it off (train.compile off, --compile off)")
    fast = torch.compile(network)
    try:
        run(fast)
    except Exception as error:  # what a compiler raises has no common type
        if is_out_of_memory(error):
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CompileError(
            f"torch.compile: failed ({reason}); turn it off (train.compile off, --compile off)"
        ) from error
    return fast


def compiled(network: nn.Module, config: Config, device: torch.device) -> nn.Module:
    """The network compiled for training at this configuration's batch. Raises as try_compile does."""
    batch = config.train.micro_batch or config.data.bs_per_gpu
    inputs = noise_batch(config, batch, config.data.resolution, device)
    return try_compile(network, lambda fast: forward_backward(fast, inputs, config.train.precision), device)


def noise_batch(config: Config, batch: int, size: Sequence[int], device: torch.device) -> tuple[torch.Tensor, ...]:
    """What a network gets, to measure or compile it with: x float32 [batch, C, height, width], t int64 [batch] and,
    with class_cond, the types."""
    x = torch.randn(batch, config.model.in_channels, *size, device=device).to(memory_format=torch.channels_last)
    t = torch.zeros(batch, dtype=torch.int64, device=device)
    if not config.model.class_cond:
        return x, t
    return x, t, torch.zeros(batch, 1 + config.model.num_defect, device=device)


def expected(config: Config, cost: StepCost, step: int) -> str:
    """The time that is left after so many steps, and the memory where it could be measured, as a line."""
    train = config.train
    seconds = cost.seconds * (train.iterations - step)
    if train.compile == "on":
        seconds /= COMPILE_GAIN[cost.device]
    line = f"time               about {duration(seconds)} for {train.iterations - step:,} steps"
    return line if cost.peak_bytes is None else f"{line}, {cost.peak_bytes / 2**30:.1f} GiB"


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "12 min", "1 h 50 min", "2 d 3 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
