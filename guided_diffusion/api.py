"""DefectGen: load two checkpoints, generate labelled images. The command line calls it too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from .batches import choose_batch_size, free_memory, is_out_of_memory, parse_batch_size
from .checkpoint import Checkpoint, check_agreement, find_checkpoint, load_checkpoint, load_weights
from .conditioning import DEFAULT_MARGIN, Held, check_held
from .config import Config
from .config_file import load_config
from .errors import InputError, unknown_name
from .gaussian_diffusion import create_diffusion
from .keyed_random import sample_noise
from .precision import autocast, cast_weights, exact_float32
from .respace import SPACINGS, NumSteps, Pair, check_step_inference, format_num_steps, total_steps
from .samplers import SAMPLERS, PredictX0, make_predict_x0
from .tuning import PRECISIONS, faster_precision, noise_batch, try_compile
from .two_stage import HANDOFFS, two_stage_plans, two_stage_sample
from .unet import UNet, check_size

# As good as 1,000 steps, by KID: docs/performance.md
DEFAULT_STEPS = 20  # over both networks
DEFAULT_SAMPLER = "dpmpp_2m"
DEFAULT_SPACING = "logsnr"

Progress = Callable[[list[Pair]], Iterable[Pair]]


@dataclass(frozen=True)
class GeneratedBatch:
    """images: uint8 [N, H, W, 3]; masks: uint8 [N, H, W], 0 background, k the type class_names[k - 1]."""

    images: np.ndarray
    masks: np.ndarray
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """One trained network, ready to sample."""

    config: Config
    model: UNet
    path: str
    sha256: str
    forward: Callable[[Tensor, Tensor], Tensor]  # the model, compiled or not


class DefectGen:
    """The two-stage generator. Either network may be None where step_inference leaves it no step."""

    def __init__(self, large: Network | None, small: Network | None, device: torch.device, precision: str = "fp32"):
        if large is None and small is None:
            raise InputError("--large_recep and --small_recep are both missing; name at least one checkpoint")
        if large and small:
            check_agreement(large.config, large.path, small.config, small.path)
        exact_float32()
        self.large, self.small, self.device, self.precision = large, small, device, precision
        self.config = (large or small).config
        self.layout = self.config.layout
        self.diffusion = create_diffusion(self.config)

    @classmethod
    def load(
        cls,
        large: str | None,
        small: str | None,
        *,
        large_config: str | None = None,
        small_config: str | None = None,
        num_defect: int | None = None,
        separate_channel_loss: bool | None = None,
        weights: str = "ema",
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> DefectGen:
        """Load two checkpoint files (or work_dirs: their latest checkpoint).

        Configurations and num_defect are needed for released checkpoints, which carry none; so is
        separate_channel_loss where such a network was trained with it. weights: "ema" or "model". precision:
        "fp32", "bf16", or "auto": the faster one here, measured. Raises InputError.
        """
        if weights not in ("ema", "model"):
            raise InputError(unknown_name("--weights", weights, ("ema", "model")))
        if precision not in (*PRECISIONS, "auto"):
            raise InputError(unknown_name("--precision", precision, (*PRECISIONS, "auto")))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)

        def network(path: str | None, config: str | None, flag: str, patch: bool) -> Network | None:
            if path is None:
                return None
            return _load_network(path, config, flag, patch, num_defect, separate_channel_loss, weights, device)

        networks = [
            network(large, large_config, "--large_recep", False),
            network(small, small_config, "--small_recep", True),
        ]
        there = [network for network in networks if network]
        if precision == "auto" and there:
            precision = faster_precision(there[0].model, there[0].config, device)
        if precision == "bf16":
            for network in there:
                cast_weights(network.model)
        return cls(*networks, device, precision)

    @torch.no_grad()
    def generate(
        self,
        num_samples: int | Sequence[int],
        step_inference: int = 400,
        seed: int = 0,
        *,
        num_steps: NumSteps | None = None,
        sampler: str = DEFAULT_SAMPLER,
        spacing: str = DEFAULT_SPACING,
        handoff: str = "paper",
        image_size: tuple[int, int] | None = None,
        masks: np.ndarray | None = None,
        backgrounds: np.ndarray | None = None,
        margin: int = DEFAULT_MARGIN,
        batch_size: int | str = "auto",
        progress: Progress = lambda pairs: pairs,
        on_out_of_memory: Callable[[int, int], None] = lambda batch_size, left: None,
    ) -> GeneratedBatch:
        """Generate samples 0..num_samples-1, or the given sample indices.

        A sample is a function of (seed, its index) and the settings: not of batch size or order. step_inference
        S: the large network denoises t >= S, the small one t < S. num_steps: over both networks, or (large, small);
        default 20, all of them with handoff "released". image_size: (height, width), default that of the training.
        masks: index masks uint8 [M, H, W] that samples must have, sample i the mask i modulo M. backgrounds:
        photographs uint8 [M, H, W, 3] that these masks' defects are drawn into; what is further than `margin` pixels
        from a defect comes out as it was.
        batch_size: how many at a time; "auto": see choose_batch_size. A batch that does not fit into memory is halved
        and made again, after on_out_of_memory(new batch size, samples left to make). progress wraps the list of
        steps of each network and batch, such as tqdm. Raises InputError.
        """
        settings = self.check_settings(step_inference, num_steps, sampler, spacing, handoff, image_size)
        held = check_held(masks, backgrounds, margin, settings["image_size"], self.layout.num_defect)
        indices = range(num_samples) if isinstance(num_samples, int) else num_samples
        batch_size = parse_batch_size(batch_size) or self.choose_batch_size(len(indices), settings)
        results, done = [], 0
        while done < len(indices):
            part = indices[done : done + batch_size]
            try:
                results.append(self._generate_batch(part, seed, settings, progress, held))
                done += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if len(part) == 1:
                raise InputError(self._too_large(settings["image_size"]))
            free_memory()
            batch_size = len(part) // 2
            on_out_of_memory(batch_size, len(indices) - done)
        height, width = settings["image_size"]
        images = [images for images, _ in results] or [np.zeros((0, height, width, 3), np.uint8)]
        masks = [masks for _, masks in results] or [np.zeros((0, height, width), np.uint8)]
        return GeneratedBatch(np.concatenate(images), np.concatenate(masks), self.layout.class_names)

    @torch.no_grad()
    def choose_batch_size(self, num_samples: int, settings: dict) -> int:
        """What batch_size "auto" comes to for so many samples, with the settings that check_settings returned."""

        def run(count: int) -> None:
            self._generate_batch(range(count), 0, self._short(settings))

        return choose_batch_size(run, num_samples, self.device, settings["image_size"])

    def expected_seconds(self, num_samples: int, batch_size: int, settings: dict) -> float:
        """About how long so many samples take, from a few steps of one batch (of smaller ones if it does not fit)."""
        short, count = self._short(settings), min(batch_size, num_samples)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            self.generate(count, batch_size=batch_size, **short)
            seconds = time.perf_counter() - start
        return seconds / (count * short["num_steps"]) * num_samples * total_steps(settings["num_steps"])

    def _short(self, settings: dict) -> dict:
        """The settings with as few steps as let each network run."""
        return settings | {"handoff": "paper", "spacing": "uniform", "num_steps": min(3, self.diffusion.num_timestep)}

    @torch.no_grad()
    def compile(self, batch_size: int, image_size: Sequence[int] | None = None) -> None:
        """From now on let batches of this size run under torch.compile; each size would cost a compilation of its own.

        Where such a batch does not fit into memory nothing changes. Raises CompileError.
        """
        size = image_size or self.config.data.resolution

        def fast(network: Network) -> Network:
            x, t = noise_batch(network.config, batch_size, size, self.device)
            with autocast(self.device, self.precision):
                compiled = try_compile(network.model, lambda model: model(x, t), self.device)

            def forward(x: Tensor, t: Tensor) -> Tensor:
                return (compiled if len(x) == batch_size else network.model)(x, t)

            return replace(network, forward=forward)

        try:
            self.large, self.small = (network and fast(network) for network in (self.large, self.small))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise

    def check_settings(
        self,
        step_inference: int,
        num_steps: NumSteps | None = None,
        sampler: str = DEFAULT_SAMPLER,
        spacing: str = DEFAULT_SPACING,
        handoff: str = "paper",
        image_size: tuple[int, int] | None = None,
    ) -> dict:
        """Check and complete what decides the samples besides the seed. Raises InputError."""
        T = self.diffusion.num_timestep
        check_step_inference(step_inference, T)
        if sampler not in SAMPLERS:
            raise InputError(unknown_name("--sampler", sampler, SAMPLERS))
        if spacing not in SPACINGS:
            raise InputError(unknown_name("--spacing", spacing, SPACINGS))
        if handoff not in HANDOFFS:
            raise InputError(unknown_name("--handoff", handoff, HANDOFFS))
        if handoff == "released":
            if num_steps not in (None, T):
                raise InputError(
                    f"--num_steps {format_num_steps(num_steps)}: --handoff released walks all {T} steps; leave it out"
                )
            num_steps, spacing = T, "uniform"  # all steps leave nothing to space
        elif num_steps is None:
            num_steps = min(DEFAULT_STEPS, T)
        elif not isinstance(num_steps, int):
            num_steps = list(num_steps)
        plans = two_stage_plans(self.diffusion, step_inference, num_steps, spacing, handoff)
        for network, plan, flag in zip(
            (self.large, self.small), plans, ("--large_recep", "--small_recep"), strict=True
        ):
            if plan and network is None:
                raise InputError(f"{flag}: missing, but --step_inference {step_inference} gives it {len(plan)} steps")
        size = tuple(image_size or self.config.data.resolution)
        for network in filter(None, (self.large, self.small)):
            check_size(network.config.model, size)
        return {
            "step_inference": step_inference,
            "sampler": sampler,
            "num_steps": num_steps,
            "spacing": spacing,
            "handoff": handoff,
            "image_size": list(size),
        }

    def _generate_batch(
        self,
        indices: Sequence[int],
        seed: int,
        settings: dict,
        progress: Progress = lambda pairs: pairs,
        held: Held | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [N, H, W, 3] and index masks [N, H, W] of N sample indices, all at once."""
        shape = (self.layout.num_channels, *settings["image_size"])
        noise = partial(sample_noise, seed, indices, shape=shape, device=self.device)
        # Keyed by T, so that the first noise is not the one which a stochastic sampler adds at step T - 1.
        x = noise(self.diffusion.num_timestep).to(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            x = two_stage_sample(
                x,
                self.diffusion,
                self._predict_x0(self.large),
                self._predict_x0(self.small),
                step_inference=settings["step_inference"],
                num_steps=settings["num_steps"],
                spacing=settings["spacing"],
                sampler=settings["sampler"],
                handoff=settings["handoff"],
                noise=noise,
                known=held and held.of(indices, self.layout, self.device),
                progress=progress,
            )
        return self.layout.decode(x)

    def _too_large(self, image_size: Sequence[int]) -> str:
        height, width = image_size
        remedy = "--precision bf16" if self.device.type == "cpu" else "--precision bf16 or --device cpu"
        return (
            f"--image_size {height} {width}: not even one image at a time fits into the memory of {self.device}; "
            f"give a smaller size, or try {remedy}"
        )

    def _predict_x0(self, network: Network | None) -> PredictX0 | None:
        return network and make_predict_x0(network.forward, network.config, self.diffusion)


def _load_network(
    path: str,
    config_path: str | None,
    flag: str,
    patch: bool,
    num_defect: int | None,
    separate_channel_loss: bool | None,
    weights: str,
    device: torch.device,
) -> Network:
    file = find_checkpoint(path, flag)
    checkpoint: Checkpoint = load_checkpoint(file, flag)
    config = checkpoint.config
    separate = separate_channel_loss  # released files have no key for it, so it is an argument for them
    if config is not None:
        trained = config.train.separate_channel_loss
        if separate not in (None, trained):
            raise InputError(
                f"--seperate_channel_loss {int(separate)}: {file} was trained with {int(trained)}; leave the flag out"
            )
        separate = trained
    if config_path is not None:
        overrides = {} if separate is None else {"train.separate_channel_loss": separate}
        if config is not None:
            overrides["data.label_map"] = dict(config.data.label_map)
        config = load_config(config_path, num_defect, overrides)
        if checkpoint.config is not None:
            check_agreement(checkpoint.config, file, config, config_path)
    elif config is None:
        raise InputError(
            f"{flag} {path}: this checkpoint carries no configuration; name its YAML file with {flag}_config"
        )
    elif num_defect not in (None, config.layout.num_defect):
        raise InputError(
            f"--num_defect {num_defect}: {file} was trained with {config.layout.num_defect} types "
            f"({', '.join(config.layout.class_names)}); leave the flag out"
        )
    if config.model.patch != patch:
        other = "--small_recep" if config.model.patch else "--large_recep"
        kind = "patch-level" if config.model.patch else "global"
        raise InputError(f"{flag} {path}: this is a {kind} network, which belongs to {other}")
    with torch.device("meta"):
        model = UNet(config.model)
    model.to_empty(device="cpu")
    load_weights(model, getattr(checkpoint, weights), file)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Network(config, model, file, checkpoint.sha256, forward=model)
