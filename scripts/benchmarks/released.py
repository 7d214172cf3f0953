"""The released recipe, kept as a baseline, and the clock that times it against ours. The product does not import this.

That recipe is float32, contiguous, eager, one plain operation after the other: our UNet with norm and attention of its
own, so that it stays what it is when ours get faster. Two things are kinder than in the released code: attention is not
recomputed in the backward pass, and images are in memory.
"""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import blobfile as bf
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import GroupNorm
from torch.profiler import ProfilerActivity, profile

from guided_diffusion.config import Config
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.respace import NumSteps
from guided_diffusion.diffusion.samplers import cold
from guided_diffusion.diffusion.two_stage import two_stage_plans
from guided_diffusion.errors import InputError
from guided_diffusion.generation.api import DefectGen
from guided_diffusion.generation.settings import Settings
from guided_diffusion.joint_tensor import clip_released
from guided_diffusion.keyed_random import sample_noise
from guided_diffusion.networks import nn, unet
from guided_diffusion.networks.estimate import estimate
from guided_diffusion.networks.unet import UNet, create_model
from guided_diffusion.precision import free_memory, resolve_precision
from guided_diffusion.training.checkpoint import save_checkpoint
from guided_diffusion.training.train_util import TrainLoop, learning_rate

READING = 0.25  # seconds that a reading takes at least; shorter calls are repeated within it
FEW_SHOT = 25  # images in the data set: five of each of five types
STEPS_TIMED = 4  # of each network in the released walk of all timesteps; the rest is scaled from them
COSTLIEST = 10  # operators that are named
Rows = list[dict[str, Any]]


def released_forward(model: UNet, x: Tensor, t: Tensor) -> Tensor:
    """The output of `model`, computed plainly. x: [N, C, H, W]; t: [N]. Returns float32 [N, C, H, W]."""
    plain = patch.object(nn, "group_norm", _norm), patch.object(unet, "group_norm", _norm)
    with plain[0], plain[1], patch.object(F, "scaled_dot_product_attention", _attention):
        return model(x, t)


def _norm(
    norm: GroupNorm, x: Tensor, emb: Tensor | None = None, added: Tensor | None = None, silu: bool = False
) -> Tensor:
    """networks.norm.group_norm, one operation after the other."""
    x = x if added is None else x + added[..., None, None].to(x.dtype)
    y = F.group_norm(x.float(), norm.num_groups, norm.weight, norm.bias).to(x.dtype)
    if emb is not None:
        scale, shift = emb[..., None, None].to(x.dtype).chunk(2, dim=1)
        y = y * (1 + scale) + shift
    return F.silu(y) if silu else y


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N, heads, HW, C/heads] each; the scale is on both, which is steadier in half precision than on their product."""
    scale = q.shape[-1] ** -0.25
    return ((q * scale) @ (k * scale).transpose(2, 3)).softmax(dim=-1) @ v


class ReleasedTraining:
    """A training of `model` by the released recipe; `step` is one update."""

    def __init__(self, config: Config, model: UNet, data: DefectDataset, device: torch.device):
        self.config, self.data, self.device = config, data, device
        self.diffusion = GaussianDiffusion(config)
        self.model = model.to(device).train()
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        lr, weight_decay = config.optimizer.lr, config.optimizer.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr, weight_decay=weight_decay, foreach=False)
        self.steps = 0

    def step(self) -> None:
        """One update on a batch that is stacked, mirrored and encoded on the host."""
        data, rng = self.config.data, np.random.default_rng(self.steps)
        images, masks = self.data.batch(rng.integers(len(self.data), size=data.bs_per_gpu), rng, data.flip)
        x_start = self.config.layout.encode(images, masks).to(self.device)
        t = torch.randint(self.diffusion.num_timestep, (len(x_start),), device=self.device)
        self.update(x_start, t, torch.randn_like(x_start))

    def update(self, x_start: Tensor, t: Tensor, noise: Tensor) -> float:
        """One update on a given batch: x_start and noise float32 [N, C, H, W], t int64 [N], on the device."""
        cfg = self.config
        network, separate = partial(released_forward, self.model), cfg.train.separate_channel_loss
        loss = self.diffusion.training_losses(network, x_start, t, noise, separate)["loss"]
        loss.backward()
        if cfg.optimizer.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), cfg.optimizer.grad_clip, foreach=False)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(cfg, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1
        decay = min(cfg.train.ema_decay, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for average, parameter in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                average.mul_(decay).add_(parameter, alpha=1 - decay)
        return loss.item()  # the host waits for it at every step


@dataclass(frozen=True)
class Variant:
    """build(batch) makes a call that does one step, or one generation, of `batch` images."""

    name: str
    build: Callable[[int], Callable[[], object]]
    flops: float  # of one image
    precision: str  # fp32 or bf16
    scale: float = 1.0  # seconds of the whole over those of a call, where the call walks a part
    compiled: bool = False  # building takes long


def seconds_of(call: Callable[[], object], device: torch.device, count: int = 1) -> float:
    """Seconds per call, over `count` calls in a row, waiting for the device before and after."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(count):
        call()
    wait()
    return (time.perf_counter() - start) / count


def compare(
    variants: Sequence[Variant],
    device: torch.device,
    rates: Mapping[str, float],
    tell: Callable[[str, Rows], None],
    *,
    batch: int,
    rounds: int = 5,
    until: float = float("inf"),
    profiled: bool = False,
) -> None:
    """Build the variants, time them in turns, and tell a table; before each compilation too, which may not end in time.

    Ratios are images per second over those of the first variant, round by round; after `until` no other round begins.
    Each variant runs under the flags that building it set: PyTorch's float32 convolutions are TF32 on GPUs unless that
    is forbidden, as ours does. profiled: tell what costs most in ours, too. Of what fails the title says why, and the
    table is empty.
    """
    cudnn, cuda = torch.backends.cudnn, device.type == "cuda"
    built, seen = [], set()

    def measure() -> None:
        readings: list[list[float]] = [[] for _ in built]
        for done in range(rounds):
            if not done or time.perf_counter() < until:
                for (variant, call, _, cudnn.allow_tf32, count), own in zip(built, readings, strict=True):
                    own.append(seconds_of(call, device, count) * variant.scale)
        rows, base = [], None  # images per second of the first variant, by round
        for (variant, _, row, tf32, _), own in zip(built, readings, strict=True):
            speed = batch / np.array(own)
            base = speed if base is None else base
            rate = float(np.median(speed)) * variant.flops
            kind = "tf32" if variant.precision == "fp32" and tf32 and "tf32" in rates else variant.precision
            ratio, low, high = np.quantile(speed / base, [0.5, 0.25, 0.75]).tolist()
            rows.append({**row, "seconds": float(np.median(own)), "images/s": float(np.median(speed)), "ratio": ratio})
            rows[-1] |= {"from": low, "to": high, "FLOP/s": rate, "of matrix rate": rate / rates[kind], "readings": own}
        tell("times", rows)
        for variant, call, *_ in built if profiled else ():
            if variant is not variants[0] and variant.name not in seen:
                seen.add(variant.name)
                tell(*costliest(variant, call, device))

    for variant in variants:
        if variant.compiled:
            measure()
        cudnn.allow_tf32 = True  # as PyTorch starts
        try:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            call = variant.build(batch)
            call()  # compiles, fills caches
            row = {"variant": variant.name, "batch": batch, "to build, s": time.perf_counter() - start}
            count = max(1, min(100, round(READING / seconds_of(call, device))))
            row["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30 if cuda else None
            built.append((variant, call, row, cudnn.allow_tf32, count))
        except Exception as error:  # the others may do
            tell(f"{variant.name} failed: {why(error)}", [])
        free_memory()
    measure()


def why(error: Exception) -> str:
    """What went wrong, in one line."""
    line = (str(error).strip().splitlines() or [""])[0]
    return line if isinstance(error, InputError) else f"{type(error).__name__}: {line}"


def costliest(variant: Variant, call: Callable[[], object], device: torch.device) -> tuple[str, Rows]:
    """What torch.profiler says of one call: a title with the seconds in which the device was busy, and the operators
    that it was busy with for longest."""
    cuda, own = device.type == "cuda", "self_cpu_time_total" if device.type == "cpu" else "self_device_time_total"
    with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * cuda]) as profiled:
        took = seconds_of(call, device)
    rows: dict[str, Rows] = {"CPU": [], "CUDA": []}
    for event in profiled.key_averages():
        if not event.is_user_annotation and getattr(event, own):
            row = {"operator": event.key[:70], "calls": event.count, "seconds": getattr(event, own) / 1e6}
            rows.setdefault(event.device_type.name, []).append(row)
    launched = rows["CUDA" if cuda else "CPU"]
    busy, named = (sum(row["seconds"] for row in of) for of in (launched, rows["CPU"]))
    # Kernels that are not put down to single operators stand for themselves.
    top = rows["CPU"] if named > busy / 2 and not variant.compiled else launched
    top = sorted(top, key=lambda row: -row["seconds"])[:COSTLIEST]
    title = (
        f"{variant.name}, profiled: {took:.4g} s, busy {busy:.4g} s, {sum(row['calls'] for row in launched):,} launches"
    )
    return title, [row | {"share": row["seconds"] / busy} for row in top]


def matrix_rates(device: torch.device, sizes: Sequence[int]) -> dict[str, float]:
    """FLOP/s of square matrix products, best of `sizes`, for "fp32", "bf16" and, on CUDA, "tf32"."""
    kinds = [("fp32", torch.float32, "highest"), ("bf16", torch.bfloat16, "highest"), ("tf32", torch.float32, "high")]
    rates: dict[str, float] = {}
    for kind, dtype, precision in kinds if device.type == "cuda" else kinds[:2]:
        torch.set_float32_matmul_precision(precision)
        for size in sizes:
            a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
            seconds = min(seconds_of(lambda a=a, b=b: a @ b, device, 3) for _ in range(4))
            rates[kind] = max(rates.get(kind, 0.0), 2 * size**3 / seconds)
    torch.set_float32_matmul_precision("highest")
    return rates


def training_variants(config: Config, device: torch.device, ways: Sequence[str]) -> list[Variant]:
    """One training step: released, and ours with train.compile as in `ways`."""
    flops, precision = 3 * estimate(config).flops_per_image, resolve_precision(config.train.precision, device)

    def with_batch(batch: int, **train: str) -> Config:
        data = replace(config.data, bs_per_gpu=batch)
        return replace(config, data=data, train=replace(config.train, **train))

    def released(batch: int) -> Callable[[], None]:
        return ReleasedTraining(with_batch(batch), random_model(config, device), random_data(config), device).step

    def ours(way: str, batch: int) -> Callable[[], None]:
        own = with_batch(batch, precision=precision, compile=way)
        loop = TrainLoop(own, "", random_data(own), None, device)  # writes nothing as long as one only steps
        randomise(loop.model)
        return loop.train_step

    own = [Variant(f"ours, compile {way}", partial(ours, way), flops, precision, compiled=way == "on") for way in ways]
    return [Variant("released", released, flops, "fp32"), *own]


def generation_variants(
    pair: Mapping[str, Config], device: torch.device, ways: Sequence[str], folder: str, num_steps: NumSteps
) -> list[Variant]:
    """Whole images of a pair: the released walk through all timesteps in float32, and DefectGen.generate.

    folder: for checkpoints of random weights, as ours are loaded from them.
    """
    config, diffusion, S = pair["large"], GaussianDiffusion(pair["large"]), Settings.step_inference
    T, precision = diffusion.num_timestep, resolve_precision(config.train.precision, device)
    walks = two_stage_plans(diffusion, S, T, "uniform", "paper")
    own_walks = two_stage_plans(diffusion, S, num_steps, Settings.spacing, "paper")

    def flops(walks: Sequence[Sequence]) -> float:
        steps = zip(pair.values(), map(len, walks), strict=True)
        return sum(estimate(config).flops_per_image * count for config, count in steps)

    def released(batch: int) -> Callable[[], None]:
        models = [random_model(config, device).eval().requires_grad_(False) for config in pair.values()]
        x = sample_noise(0, range(batch), T, (config.layout.num_channels, *config.data.resolution), device)

        def predict(model: UNet, x_t: Tensor, t: int) -> Tensor:
            return released_forward(model, x_t, torch.full((batch,), t, device=device))

        @torch.no_grad()
        def call() -> None:
            for model, walk in zip(models, walks, strict=True):
                cold(x, walk[:STEPS_TIMED], partial(predict, model), clip_released, diffusion.alpha_bar, lambda t: x)

        return call

    @cache
    def loaded() -> DefectGen:
        return DefectGen.load(*save_random(pair, folder).values(), device=device, precision=precision)

    def ours(way: str, batch: int) -> Callable[[], object]:
        generator = copy.copy(loaded())
        if way == "on":
            generator.compile(batch, generator.settings(num_steps=num_steps))
        return partial(generator.generate, batch, num_steps=num_steps, batch_size=batch)

    whole, cost = flops(walks), flops(own_walks)
    own = [Variant(f"ours, compile {way}", partial(ours, way), cost, precision, compiled=way == "on") for way in ways]
    scale = whole / flops([walk[:STEPS_TIMED] for walk in walks])
    return [Variant("released", released, whole, "fp32", scale), *own]


def random_data(config: Config) -> DefectDataset:
    """FEW_SHOT images of noise at the configuration's resolution, with masks of random indices."""
    generator, size = torch.Generator().manual_seed(0), config.data.resolution
    images = torch.randint(256, (FEW_SHOT, 3, *size), generator=generator, dtype=torch.uint8)
    masks = torch.randint(config.layout.num_defect + 1, (FEW_SHOT, *size), generator=generator, dtype=torch.uint8)
    return DefectDataset(list(images), list(masks), list(map(str, range(FEW_SHOT))), View(size))


def random_model(config: Config, device: torch.device) -> UNet:
    """A network with random weights in every layer."""
    with device:
        return randomise(create_model(config))


@torch.no_grad()
def randomise(model: UNet) -> UNet:
    """Add noise to every weight: layers that start at zero would pass no gradient on. Returns the model."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def save_random(pair: Mapping[str, Config], folder: str) -> dict[str, str]:
    """Checkpoints of random weights; their paths."""
    paths = {}
    for size, config in pair.items():
        weights = random_model(config, torch.device("cpu")).state_dict()
        paths[size] = save_checkpoint(bf.join(folder, size), 0, {"model": weights, "config": config.to_dict()})
    return paths
