"""DefectGen: load two checkpoints, generate labelled images. The command line calls it too."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from ..batches import choose_batch_size, free_memory, is_out_of_memory, parse_batch_size
from ..diffusion.conditioning import DEFAULT_MARGIN, Held, check_guided, check_held, check_told, parse_defects
from ..diffusion.gaussian_diffusion import create_diffusion
from ..diffusion.respace import SPACINGS, NumSteps, Pair, check_step_inference, format_num_steps, total_steps
from ..diffusion.samplers import SAMPLERS, PredictX0, make_predict_x0
from ..diffusion.two_stage import HANDOFFS, two_stage_plans, two_stage_sample
from ..errors import InputError, unknown_name
from ..keyed_random import sample_noise
from ..networks.estimate import receptive_field
from ..networks.unet import check_size
from ..precision import autocast, cast_weights, exact_float32
from ..training.checkpoint import check_agreement
from ..tuning import PRECISIONS, faster_precision, noise_batch, try_compile
from .network import Network, load_network
from .upscale import Canvas, check_upscale
from .windows import resolve_windows, windowed

# As good as 1,000 steps, by KID: docs/performance.md
DEFAULT_STEPS = 20  # over both networks
DEFAULT_SAMPLER = "dpmpp_2m"
DEFAULT_SPACING = "logsnr"
DRAWS_AT_A_TIME = 8  # of masks for one photograph

Progress = Callable[[list[Pair]], Iterable[Pair]]


@dataclass(frozen=True)
class GeneratedBatch:
    """images: uint8 [N, H, W, 3]; masks: uint8 [N, H, W], 0 background, k the type class_names[k - 1]."""

    images: np.ndarray
    masks: np.ndarray
    class_names: tuple[str, ...]


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
            return load_network(path, config, flag, patch, num_defect, separate_channel_loss, weights, device)

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
        windows: str = "auto",
        upscale: int = 1,
        defects: str | Sequence[str] | None = None,
        guidance_scale: float = 1.0,
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
        windows: "on": the networks see overlapping windows of the size of their training; "off": all at once; "auto":
        on where the image is larger than four of the training. upscale: the large network works at 1 / upscale of the
        size, the small one at full size.
        defects: the types that samples are to show, for networks with class_cond: "crack", "crack,hole" (both), "none",
        "balanced" (one type after the other), or several of these, sample i the i-th, modulo their number.
        guidance_scale: how strongly networks with class_cond follow the types, see make_predict_x0.
        masks: index masks uint8 [M, H, W] that samples must have, sample i the mask i modulo M. backgrounds:
        photographs uint8 [M, H, W, 3] that these masks' defects are drawn into; what is further than `margin` pixels
        from a defect comes out as it was. Networks with class_cond are told the types of the masks.
        batch_size: how many at a time; "auto": see choose_batch_size. A batch that does not fit into memory is halved
        and made again, after on_out_of_memory(new batch size, samples left to make). progress wraps the list of
        steps of each network and batch, such as tqdm. Raises InputError.
        """
        settings = self.check_settings(
            step_inference,
            num_steps,
            sampler,
            spacing,
            handoff,
            image_size,
            windows,
            upscale,
            defects,
            guidance_scale,
        )
        names = self.layout.class_names
        held = check_held(masks, backgrounds, margin, settings.get("defects"), settings["image_size"], names)
        check_guided(settings, held is not None)
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
                raise InputError(self._too_large(settings))
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
        if "defects" not in short:  # then masks tell the types, and there are none here to guide to
            short.pop("guidance_scale", None)
        for _ in range(2):  # the first one warms up
            start = time.perf_counter()
            self.generate(count, batch_size=batch_size, **short)
            seconds = time.perf_counter() - start
        return seconds / (count * short["num_steps"]) * num_samples * total_steps(settings["num_steps"])

    def _short(self, settings: dict) -> dict:
        """The settings with as few steps as let each network run."""
        return settings | {"handoff": "paper", "spacing": "uniform", "num_steps": min(3, self.diffusion.num_timestep)}

    @torch.no_grad()
    def compile(self, batch_size: int, settings: dict | None = None) -> None:
        """From now on let batches of this size run under torch.compile; each size would cost a compilation of its own.

        settings: as check_settings returned them; default: images of the training's size. Where such a batch does not
        fit into memory nothing changes. Raises CompileError.
        """

        def fast(network: Network) -> Network:
            size, rows = network.config.data.resolution, batch_size
            if settings:
                size = self._canvas(network, settings)[1]
                guided = "guidance_scale" in settings and network.config.model.class_cond
                rows = 2 * batch_size if guided else batch_size  # see make_predict_x0
            inputs = noise_batch(network.config, rows, size, self.device)
            with autocast(self.device, self.precision):
                compiled = try_compile(network.model, lambda model: model(*inputs), self.device)

            def forward(x: Tensor, *others: Tensor) -> Tensor:
                return (compiled if len(x) == rows else network.model)(x, *others)

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
        windows: str = "auto",
        upscale: int = 1,
        defects: str | Sequence[str] | None = None,
        guidance_scale: float = 1.0,
    ) -> dict:
        """Check and complete what decides the samples besides the seed, masks and backgrounds. Raises InputError."""
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
        check_upscale(upscale, size, step_inference, T, handoff)
        networks = [network for network in (self.large, self.small) if network]
        taking_part = [network for network, plan in zip((self.large, self.small), plans, strict=True) if plan]
        settings = {
            "step_inference": step_inference,
            "sampler": sampler,
            "num_steps": num_steps,
            "spacing": spacing,
            "handoff": handoff,
            "image_size": list(size),
            "windows": resolve_windows(windows, size, [network.config.data.resolution for network in networks]),
            "upscale": upscale,
            **check_told(taking_part, defects, guidance_scale, self.layout.class_names),
        }
        for network in networks:
            check_size(network.config.model, self._canvas(network, settings)[1])
        return settings

    def _generate_batch(
        self,
        indices: Sequence[int],
        seed: int,
        settings: dict,
        progress: Progress = lambda pairs: pairs,
        held: Held | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [N, H, W, 3] and index masks [N, H, W] of N sample indices, all at once."""
        return self.layout.decode(self._sample(indices, seed, settings, held or Held(), progress))

    @torch.no_grad()
    def mask_shares(self, photograph: np.ndarray, draws: int, seed: int, settings: dict) -> np.ndarray:
        """float32 [num_defect + 1, H, W] in [0, 1]: share of background and of each type at a pixel, over `draws` masks
        drawn for a photograph uint8 [H, W, 3].

        settings: as check_settings returns them, with the photograph's size; its defects, if any, are told to networks
        with class_cond.
        """
        defects = settings.get("defects")
        types = defects and parse_defects(defects, self.layout.class_names)
        held, total = Held(backgrounds=photograph[None], types=types), 0
        for part in torch.arange(draws).split(DRAWS_AT_A_TIME):
            x_start = self._sample(part.tolist(), seed, settings, held)
            total = total + self.layout.mask_probabilities(x_start).sum(dim=0)
        return (total / draws).cpu().numpy()

    def _sample(
        self,
        indices: Sequence[int],
        seed: int,
        settings: dict,
        held: Held,
        progress: Progress = lambda pairs: pairs,
    ) -> Tensor:
        """x_start float32 [N, C, H, W] of N sample indices, all at once."""

        def canvas(factor: int) -> Canvas:
            shape = (self.layout.num_channels, *(side // factor for side in settings["image_size"]))
            noise = partial(sample_noise, seed, indices, shape=shape, device=self.device)
            return Canvas(noise, held.shrunk(factor).known(indices, self.layout, self.device))

        full = canvas(1)
        coarse = canvas(settings["upscale"]) if settings["upscale"] > 1 else None
        first = coarse or full
        # Keyed by T, so that the first noise is not the one which a stochastic sampler adds at step T - 1.
        x = first.noise(self.diffusion.num_timestep).to(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            return two_stage_sample(
                x,
                self.diffusion,
                self.large and self._predict_x0(self.large, first, held.shrunk(settings["upscale"]), indices, settings),
                self.small and self._predict_x0(self.small, full, held, indices, settings),
                step_inference=settings["step_inference"],
                num_steps=settings["num_steps"],
                spacing=settings["spacing"],
                sampler=settings["sampler"],
                handoff=settings["handoff"],
                noise=full.noise,
                known=full.known,
                coarse=coarse,
                progress=progress,
            )

    def _too_large(self, settings: dict) -> str:
        height, width = settings["image_size"]
        remedy = "--precision bf16" if self.device.type == "cpu" else "--precision bf16 or --device cpu"
        if settings["windows"] == "off" and height * width > math.prod(self.config.data.resolution):
            remedy = f"--windows on, {remedy}"
        return (
            f"--image_size {height} {width}: not even one image at a time fits into the memory of {self.device}; "
            f"give a smaller size, or try {remedy}"
        )

    def _canvas(self, network: Network, settings: dict) -> tuple[list[int], list[int]]:
        """(height, width) of what a network draws on, and of how much of that it sees at once."""
        factor = settings["upscale"] if network is self.large else 1
        size = [side // factor for side in settings["image_size"]]
        if settings["windows"] == "off":
            return size, size
        return size, list(map(min, size, network.config.data.resolution))

    def _predict_x0(
        self, network: Network, canvas: Canvas, held: Held, indices: Sequence[int], settings: dict
    ) -> PredictX0:
        """A network as samplers call it: told the types, those of a window in a window, and kept to what is known."""
        config = network.config
        size, window = self._canvas(network, settings)

        @cache
        def at(top: int, left: int) -> PredictX0:
            types = None
            if config.model.class_cond:
                types = held.window(top, left, window).told(indices, self.layout, self.device)
            scale = settings.get("guidance_scale", 1.0)
            return make_predict_x0(network.forward, config, self.diffusion, types, scale)

        predict_x0 = at(0, 0)
        if window != size:
            sees = receptive_field(config.model)
            predict_x0 = windowed(lambda x_t, t, place: at(*place)(x_t, t), size, window, sees, self.device)
        return canvas.known.wrap(predict_x0, bool(config.train.known_share)) if canvas.known else predict_x0
