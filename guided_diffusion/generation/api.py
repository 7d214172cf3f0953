"""DefectGen: load two checkpoints, generate labelled images. The command line calls it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config
from ..config_file import load_config
from ..diffusion.conditioning import Known
from ..diffusion.gaussian_diffusion import create_diffusion
from ..diffusion.respace import Pair, format_num_steps
from ..diffusion.samplers import PredictX0, make_predict_x0
from ..diffusion.two_stage import two_stage_plans, two_stage_sample
from ..errors import InputError, unknown_name
from ..keyed_random import sample_noise
from ..networks.estimate import receptive_field
from ..networks.unet import UNet, check_size, noise_batch
from ..precision import (
    PRECISIONS,
    autocast,
    cast_weights,
    exact_float32,
    free_memory,
    is_out_of_memory,
    resolve_precision,
    try_compile,
)
from ..training.checkpoint import check_agreement, find_checkpoint, load_checkpoint, load_weights
from .conditions import Held, parse_defects
from .settings import DEFAULT_STEPS, Settings
from .windows import AUTO_AREAS, windowed

WEIGHTS = ("ema", "model")
Progress = Callable[[list[Pair]], Iterable[Pair]]
# Images at a time, and their pixels in all. On the CPU more gain nothing, and the memory is everybody's; a GPU is busy
# with these, and where they do not fit they are halved.
LARGEST = {"cpu": (16, 16 * 128 * 128), "cuda": (64, 64 * 256 * 256)}


@dataclass(frozen=True)
class Network:
    """One trained network, ready to sample. forward: the model, compiled or not."""

    config: Config
    model: UNet
    path: str
    sha256: str
    forward: Callable[..., Tensor]


@dataclass(frozen=True)
class GeneratedBatch:
    """images: uint8 [N, H, W, 3]; masks: uint8 [N, H, W], 0 background, k the type class_names[k - 1]."""

    images: np.ndarray
    masks: np.ndarray
    class_names: tuple[str, ...]


def load_network(
    path: str,
    config_path: str | None,
    name: str,
    num_defect: int | None,
    separate_channel_loss: bool | None,
    weights: str,
    device: torch.device,
) -> Network:
    """Load a checkpoint; arguments as for DefectGen.load, where it is `name`, large or small. Raises InputError."""
    file = find_checkpoint(path, f"`{name}`")
    checkpoint = load_checkpoint(file, f"`{name}`")
    config = own = checkpoint.config
    overrides: dict[str, Any] = {}
    if separate_channel_loss is not None:  # released files have no key for it
        overrides["train.separate_channel_loss"] = separate_channel_loss
    if own is not None:
        types, separate = own.layout.class_names, own.train.separate_channel_loss
        for key, given, trained, said in (
            ("num_defect", num_defect, len(types), f"{len(types)} types ({', '.join(types)})"),
            ("separate_channel_loss", separate_channel_loss, separate, int(separate)),
        ):
            if given not in (None, trained):
                raise InputError(f"`{key}` {int(given)}: {file} was trained with {said}; leave it out")
        overrides = {"train.separate_channel_loss": separate, "data.label_map": dict(own.data.label_map)}
    elif config_path is None:
        raise InputError(
            f"`{name}` {path}: this checkpoint carries no configuration; name its YAML file with `{name}_config`"
        )
    if config_path is not None:
        config = load_config(config_path, num_defect, overrides)
        if own is not None:
            check_agreement(own, file, config, config_path)
    if config.model.patch != (name == "small"):
        kind, other = ("patch-level", "small") if config.model.patch else ("global", "large")
        raise InputError(f"`{name}` {path}: this is a {kind} network, which belongs to `{other}`")
    with torch.device("meta"):
        model = UNet(config.model)
    model.to_empty(device="cpu")
    load_weights(model, getattr(checkpoint, weights), file)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return Network(config, model, file, checkpoint.sha256, forward=model)


def parse_batch_size(value: int | str) -> int | None:
    """A number of images from 1; None for "auto". Raises InputError."""
    if value == "auto":
        return None
    if not str(value).isdecimal() or int(value) < 1:
        raise InputError(f"`batch_size` {value}: must be auto, or a number of images, at least 1")
    return int(value)


def auto_batch_size(count: int, image_size: Sequence[int], device: torch.device) -> int:
    """Batch size for `count` images of (height, width): the fewest batches, all of about one size. All ranks agree."""
    images, pixels = LARGEST["cuda" if device.type == "cuda" else "cpu"]
    largest = max(1, min(images, pixels // prod(image_size)))
    return max(1, ceil(count / max(1, ceil(count / largest))))


class DefectGen:
    """The two-stage generator. Either network may be None where step_inference leaves it no step."""

    def __init__(self, large: Network | None, small: Network | None, device: torch.device, precision: str = "fp32"):
        if large is None and small is None:
            raise InputError("`large` and `small` are both missing; name at least one checkpoint")
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
        separate_channel_loss where such a network was trained with it. weights: "ema" or "model". precision: "fp32",
        "bf16", or "auto": bf16 where the hardware multiplies in it. Raises InputError.
        """
        for name, value, known in (("weights", weights, WEIGHTS), ("precision", precision, (*PRECISIONS, "auto"))):
            if value not in known:
                raise InputError(unknown_name(f"`{name}`", value, known))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(device)
        networks = [
            load_network(path, config, name, num_defect, separate_channel_loss, weights, device) if path else None
            for name, path, config in (("large", large, large_config), ("small", small, small_config))
        ]
        precision = resolve_precision(precision, device)
        if precision == "bf16":
            for network in filter(None, networks):
                cast_weights(network.model)
        return cls(*networks, device, precision)

    def settings(self, settings: Settings | None = None, **options: Any) -> Settings:
        """Settings, by default Settings(), with these options put in: checked against the networks, and complete.

        num_steps and image_size are filled in, windows is "on" or "off". Raises InputError.
        """
        settings = replace(settings or Settings(), **options)
        T, S, steps = self.diffusion.num_timestep, settings.step_inference, settings.num_steps
        if settings.handoff == "released" and steps not in (None, T):
            raise InputError(
                f"`num_steps` {format_num_steps(steps)}: `handoff` released walks all {T} steps; leave it out"
            )
        if steps is None:
            steps = T if settings.handoff == "released" else min(DEFAULT_STEPS, T)
        size, windows = tuple(settings.image_size or self.config.data.resolution), settings.windows
        networks = {"large": self.large, "small": self.small}
        if windows == "auto":
            area = min(prod(network.config.data.resolution) for network in networks.values() if network)
            windows = "on" if prod(size) > AUTO_AREAS * area else "off"
        settings = replace(settings, num_steps=steps, image_size=size, windows=windows)
        plans = two_stage_plans(self.diffusion, S, steps, settings.spacing, settings.handoff)
        taking_part = []
        for (name, network), plan in zip(networks.items(), plans, strict=True):
            if plan and network is None:
                raise InputError(f"`{name}`: missing, but `step_inference` {S} gives it {len(plan)} steps")
            taking_part += [network] if plan else []
        if settings.defects is not None:
            parse_defects(settings.defects, self.layout.class_names)
        told = [network.config.model.class_cond for network in taking_part]
        for name, asked, can in (
            ("defects", settings.defects is not None, told[0]),
            ("guidance_scale", settings.guidance_scale != 1, any(told)),
        ):
            if asked and not can:
                raise InputError(
                    f"`{name}`: {taking_part[0].path} was trained without model.class_cond, so it cannot be told "
                    "types; train with it, or leave that out"
                )
        for network in filter(None, networks.values()):
            check_size(network.config.model, self._window(network, settings))
        return settings

    @torch.no_grad()
    def generate(
        self,
        num_samples: int | Sequence[int],
        settings: Settings | None = None,
        *,
        seed: int = 0,
        masks: np.ndarray | None = None,
        backgrounds: np.ndarray | None = None,
        batch_size: int | str = "auto",
        progress: Progress = lambda pairs: pairs,
        on_out_of_memory: Callable[[int, int], None] = lambda batch_size, left: None,
        **options: Any,
    ) -> GeneratedBatch:
        """Generate samples 0..num_samples-1, or the given sample indices; batch size and order do not change them.

        settings: by default Settings(); options are put into them: generate(16, step_inference=300). masks: index masks
        uint8 [M, H, W], of which sample i gets the mask i modulo M. backgrounds: photographs uint8 [M, H, W, 3] that
        stay as they are further than settings.margin pixels from a defect. A batch that does not fit into memory is
        halved and made again, after on_out_of_memory(new batch size, samples left to make). progress wraps the list of
        steps of each network and batch, such as tqdm. Raises InputError.
        """
        settings = self.settings(settings, **options)
        held = Held(self.layout, self.device, settings, masks, backgrounds)
        indices = range(num_samples) if isinstance(num_samples, int) else num_samples
        height, width = size = settings.image_size
        batch_size = parse_batch_size(batch_size) or auto_batch_size(len(indices), size, self.device)
        batches, done = [(np.zeros((0, *size, 3), np.uint8), np.zeros((0, *size), np.uint8))], 0
        while done < len(indices):
            part = indices[done : done + batch_size]
            try:
                batches.append(self._generate_batch(part, seed, settings, held, progress))
                done += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if len(part) == 1:
                raise InputError(
                    f"`image_size` {height} {width}: not even one image at a time fits into the memory of "
                    f"{self.device}; give a smaller size, or try `windows` on, `precision` bf16 or `device` cpu"
                )
            free_memory()  # not in the except block, whose error still holds the tensors
            batch_size = len(part) // 2
            on_out_of_memory(batch_size, len(indices) - done)
        return GeneratedBatch(*map(np.concatenate, zip(*batches, strict=True)), self.layout.class_names)

    def _generate_batch(
        self, indices: Sequence[int], seed: int, settings: Settings, held: Held, progress: Progress
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [N, H, W, 3] and index masks [N, H, W] of N sample indices, all at once."""
        shape = (self.layout.num_channels, *settings.image_size)
        noise = partial(sample_noise, seed, indices, shape=shape, device=self.device)
        known = held.known(indices)
        networks = (
            network and self._predict_x0(network, indices, settings, held, known)
            for network in (self.large, self.small)
        )
        # Keyed by T, so that the first noise is not the one which a stochastic sampler adds at step T - 1.
        x = noise(self.diffusion.num_timestep).to(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            x_start = two_stage_sample(
                x,
                self.diffusion,
                *networks,
                step_inference=settings.step_inference,
                num_steps=settings.num_steps,
                spacing=settings.spacing,
                sampler=settings.sampler,
                handoff=settings.handoff,
                noise=noise,
                known=known,
                progress=progress,
            )
        return self.layout.decode(x_start)

    def _predict_x0(
        self, network: Network, indices: Sequence[int], settings: Settings, held: Held, known: Known | None
    ) -> PredictX0:
        """A network as samplers call it: told the types, those of a window in a window, and kept to what is known."""
        config, size, window = network.config, settings.image_size, self._window(network, settings)

        @cache
        def at(place: tuple[int, int]) -> PredictX0:
            types = held.told(indices, place, window) if config.model.class_cond else None
            return make_predict_x0(network.forward, config, self.diffusion, types, settings.guidance_scale)

        predict_x0 = at((0, 0))
        if window != size:
            sees = receptive_field(config.model)
            predict_x0 = windowed(lambda x_t, t, place: at(place)(x_t, t), size, window, sees, self.device)
        return known.wrap(predict_x0, bool(config.train.known_share)) if known else predict_x0

    @torch.no_grad()
    def compile(self, batch_size: int, settings: Settings) -> None:
        """From now on let batches of this size run under torch.compile; each size would cost a compilation of its own.

        settings: complete ones. Where such a batch does not fit into memory nothing changes. Raises CompileError.
        """

        def fast(network: Network) -> Network:
            guided = settings.guidance_scale != 1 and network.config.model.class_cond
            rows = 2 * batch_size if guided else batch_size  # see make_predict_x0
            inputs = noise_batch(network.config, rows, self._window(network, settings), self.device)
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

    def _window(self, network: Network, settings: Settings) -> tuple[int, ...]:
        """(height, width) of what a network sees at once."""
        size = settings.image_size
        return size if settings.windows == "off" else tuple(map(min, size, network.config.data.resolution))
