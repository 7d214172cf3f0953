"""DefectGen: load two checkpoints, generate labelled images. The command line calls it too."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache, partial
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import dist_util
from ..data.image_files import View
from ..diffusion.conditioning import Known
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.respace import Pair, format_num_steps
from ..diffusion.samplers import PredictX0, make_predict_x0
from ..diffusion.two_stage import two_stage_plans, two_stage_sample
from ..errors import InputError, unknown_name, whole
from ..file_io import as_path
from ..keyed_random import sample_noise
from ..networks.estimate import forward_bytes, receptive_field
from ..networks.unet import check_size, noise_batch
from ..parallel import check_memory
from ..precision import (
    PRECISIONS,
    Graphs,
    autocast,
    cast_weights,
    exact_float32,
    free_memory,
    is_out_of_memory,
    resolve_precision,
    to_device,
    try_compile,
)
from ..training.checkpoint import check_agreement
from . import packing
from .batch import GeneratedBatch
from .conditions import Conditions, as_index_masks, read_conditions
from .insertion import Insertions, find_scale, insert
from .network import WEIGHTS, Network, check_trained, choose_batch_size, load_networks, most_at_once, possible_hand_offs
from .rounds import fill_folder
from .settings import DEFAULT_STEPS, MOST_SEED, Settings, as_indices, as_settings
from .windows import AUTO_AREAS, Place, place_windows, windowed

Progress = Callable[[list[Pair]], Iterable[Pair]]
SMALLER = "give a smaller size, or try `windows` on, `precision` bf16 or `device` cpu"


class DefectGen:
    """The two-stage generator. Either network may be None where step_inference leaves it no step."""

    def __init__(self, networks: Sequence[Network], device: torch.device, precision: str, weights: str) -> None:
        if not networks:
            raise InputError("`large` and `small` are both missing; name at least one checkpoint")
        first, last = networks[0], networks[-1]
        check_agreement(first.config, first.path, last.config, last.path)
        exact_float32(precision)
        self.networks: dict[str, Network | None] = {"large": None, "small": None} | {one.kind: one for one in networks}
        self.device, self.precision, self.weights, self._graphs = device, precision, weights, Graphs(device)
        self.config = first.config
        self.layout = self.config.layout
        self.diffusion = GaussianDiffusion(self.config)
        self.hand_offs = possible_hand_offs(self._loaded, self.diffusion.num_timestep)

    @classmethod
    def load(
        cls,
        large: str | None,
        small: str | None = None,
        *,
        large_config: str | None = None,
        small_config: str | None = None,
        num_defect: int | None = None,
        separate_channel_loss: bool | None = None,
        weights: str = "ema",
        device: str | torch.device = "auto",
        precision: str = "auto",
    ) -> "DefectGen":
        """Load two checkpoint files (or work_dirs: their latest checkpoint), or the folder of a packed pair.

        Configurations and num_defect are needed for released checkpoints, which carry none; so is
        separate_channel_loss where such a network was trained with it. weights: "ema" or "model". precision: "fp32";
        "bf16"; "tf32", float32 that GPUs round to 10 bits where they multiply; or "auto": bf16 where the hardware
        multiplies in it, else fp32. Raises InputError."""
        for name, value, known in (("weights", weights, WEIGHTS), ("precision", precision, (*PRECISIONS, "auto"))):
            if value not in known:
                raise InputError(unknown_name(f"`{name}`", str(value), known))
        gpus = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        if device not in gpus:  # where there are several processes, one that setup chose is not chosen anew
            device = dist_util.choose_device(str(device or "auto"))
        configs = {"large": large_config, "small": small_config}
        networks = load_networks(large, small, configs, num_defect, separate_channel_loss, weights)
        generator = cls(networks, device, resolve_precision(precision, device), weights)
        for network in generator._loaded:
            network.model.to(device, memory_format=torch.channels_last)
            if generator.precision == "bf16":
                cast_weights(network.model)
        return generator

    @classmethod
    def from_pretrained(cls, name: str, **options: Any) -> "DefectGen":
        """load a packed pair of a folder or, by its name, of the Hugging Face hub. options: of load."""
        return cls.load(packing.download(name), **options)

    def pack(self, folder: str, figures: Sequence[str] = ()) -> None:
        """packing.pack the networks into a folder that load takes. Raises InputError."""
        packing.pack(as_path(folder, "folder"), self._loaded, self.hand_offs, [*map(str, figures)])

    def push_to_hub(self, repo: str, *, private: bool = True) -> str:
        """packing.upload the networks to the Hugging Face hub, and return their address. Raises InputError."""
        return packing.upload(repo, self._loaded, self.hand_offs, private)

    @property
    def _loaded(self) -> list[Network]:
        return [*filter(None, self.networks.values())]

    def settings(self, settings: Settings | None = None, **options: Any) -> Settings:
        """Settings, by default Settings(), with these options put in: checked against the networks, and complete.

        num_steps and image_size are filled in, windows is "on" or "off". Raises InputError."""
        settings = as_settings(settings, **options)
        T, S, steps = self.diffusion.num_timestep, settings.step_inference, settings.num_steps
        released = settings.handoff == "released"
        if released and steps not in (None, T):
            given = format_num_steps(steps)
            raise InputError(f"`num_steps` {given}: `handoff` released walks all {T} steps; leave it out")
        if steps is None:
            steps = T if released else min(DEFAULT_STEPS, T)
        size, windows = tuple(settings.image_size or self.config.data.resolution), settings.windows
        if windows == "auto":
            area = min(prod(network.config.data.resolution) for network in self._loaded)
            windows = "on" if prod(size) > AUTO_AREAS * area else "off"
        other = "" if windows == "on" else ", or `windows` on"
        settings = replace(settings, num_steps=steps, image_size=size, windows=windows)
        plans = two_stage_plans(self.diffusion, S, steps, settings.spacing, settings.handoff)
        taking_part = []
        for (name, network), plan in zip(self.networks.items(), plans, strict=True):
            if plan and network is None:
                raise InputError(f"`{name}`: missing, but `step_inference` {S} gives it {len(plan)} steps")
            if plan:
                taking_part.append(network)
                check_trained(network, plan, settings, self.hand_offs)
        told = [network.config.model.class_cond for network in taking_part]
        without = f"{taking_part[0].path} was trained without model.class_cond, so it cannot be told types"
        if settings.defects is not None and not told[0]:
            raise InputError(f"`defects`: {without}; train with it, or leave that out")
        if settings.guidance_scale != 1 and not any(told):
            raise InputError(f"`guidance_scale`: {without}; train with it, or leave that out")
        for network in self._loaded:
            check_size(network.config.model, self._window(network, settings), f"give another `image_size`{other}")
        return settings

    def choose_batch_size(self, asked: int | str, count: int, settings: Settings) -> int:
        """choose_batch_size. Raises InputError, too, where an image takes more memory than there is or, on the CPU, a
        batch: a GPU says so and is asked for less, a system that lacks memory kills."""
        size = settings.image_size
        # with x_t, x_start, that of the step before, the noise of the next batch, and what is known (in bytes, one-hot)
        each = self._pass_bytes(settings) + (5 * 4 + 1 + 8) * self.layout.num_channels * prod(size)
        check_memory(each, f"`image_size` {size[0]} {size[1]}: one image", SMALLER, self.device)
        batch_size = choose_batch_size(asked, count, most_at_once(size, each, self.device))
        if self.device.type == "cpu":
            check_memory(each * min(batch_size, count), f"`batch_size` {asked}: a batch", "lower it")
        return batch_size

    def _pass_bytes(self, settings: Settings) -> int:
        """About what one image, or window, takes at most in a pass of a network."""
        most = max(forward_bytes(one.config.model, self._window(one, settings)) for one in self._loaded)
        return most * (1 + (settings.guidance_scale != 1)) // (1 + (self.precision == "bf16"))

    def generate(
        self,
        num_samples: int | Sequence[int],
        settings: Settings | None = None,
        *,
        seed: int = 0,
        masks: Any = None,
        backgrounds: np.ndarray | None = None,
        batch_size: int | str = "auto",
        progress: Progress = lambda pairs: pairs,
        **options: Any,
    ) -> GeneratedBatch:
        """Generate samples 0..num_samples-1, or the given sample indices; batch size and order do not change them.

        settings: by default Settings(); options are put into them: generate(16, step_inference=300). masks: what
        as_index_masks takes, sample i gets the mask i modulo M; or "bank": new ones like the training set's, of the
        types `defects`. backgrounds: photographs uint8 [M, H, W, 3] that stay as they are further than settings.margin
        pixels from a defect. progress wraps the list of steps of each network and batch, such as tqdm. Raises
        InputError."""
        settings, about = as_settings(settings, **options), None
        defects, bank = settings.defects, isinstance(masks, str) and masks == "bank"
        settings = self.settings(settings, defects=None if bank else defects)  # a bank's masks show them
        indices, seed = as_indices(num_samples, "num_samples"), whole("seed", seed, MOST_SEED)
        if bank:
            told = {"defects": defects, "seed": seed, "num_samples": 1 + max(indices, default=0)}
            held = read_conditions(self.config, settings, masks="bank", **told)
            masks, about = held.masks, held.about if backgrounds is None else None
        conditions = Conditions(self.config, settings, masks, backgrounds, about=about)
        batch_size = self.choose_batch_size(batch_size, len(indices), settings)
        how = {"seed": seed, "settings": settings, "conditions": conditions, "progress": progress}
        batch = self.draw(indices, batch_size, **how)
        about, held = self.about(settings, conditions, seed), conditions.names_of(indices)
        return replace(batch, indices=indices, about=about, conditions=held)

    @torch.no_grad()
    def draw(
        self,
        indices: Sequence[int],
        batch_size: int,
        x: Tensor | None = None,
        on_out_of_memory: Callable[[int, int], None] = lambda batch_size, left: None,
        **how: Any,
    ) -> GeneratedBatch:
        """generate. x: the first noise, if it is drawn already. how: for _generate_batch. A batch that does not fit
        into memory is halved and made again, after on_out_of_memory(new batch size, samples left to make)."""
        size = how["settings"].image_size
        batches, done = [(np.zeros((0, *size, 3), np.uint8), np.zeros((0, *size), np.uint8))], 0
        while done < len(indices):
            part = indices[done : done + batch_size]
            try:
                batches.append(self._generate_batch(part, x if len(part) == len(indices) else None, **how))
                done += len(part)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            if len(part) == 1:
                fault = f"not even one image at a time fits into the memory of {self.device}"
                raise InputError(f"`image_size` {size[0]} {size[1]}: {fault}; {SMALLER}")
            self._graphs.clear()
            free_memory()  # not in the except block, whose error still holds the tensors
            batch_size = len(part) // 2
            on_out_of_memory(batch_size, len(indices) - done)
        return GeneratedBatch(*map(np.concatenate, zip(*batches, strict=True)), self.layout.class_names)

    generate_into = fill_folder  # a method, in a module of its own

    def insert(
        self,
        photograph: np.ndarray,
        mask: np.ndarray,
        *,
        seeds: Sequence[int] = (0,),
        scale: Sequence[float] | float | None = None,
        settings: Settings | None = None,
        batch_size: int | str = "auto",
        **options: Any,
    ) -> GeneratedBatch:
        """Draw the defects of an index mask [H, W] into a photograph uint8 [H, W, 3], once for each seed.

        Pixels further than settings.margin, in pixels of the training, from a defect stay as they are. scale: pixels of
        the photograph to one of the training, or (down, across); by default what the training recorded. The settings'
        image_size is that of the windows in which the networks see the photograph. Raises InputError."""
        settings, scale = self.settings(settings, **options), find_scale(scale, self.config.data.scale)
        mask = as_index_masks([mask], self.layout.num_defect, "mask")[0]
        photograph, seeds = np.asarray(photograph), as_indices(seeds, "seeds")
        if photograph.dtype != np.uint8 or photograph.shape != (*mask.shape, 3):
            given, wanted = f"{photograph.dtype} {list(photograph.shape)}", [*mask.shape, 3]
            raise InputError(f"`photograph`: {given}, expected uint8 {wanted}, the size of `mask`")
        given = [photograph], [mask], [0], scale, batch_size, settings
        images = [insert(self, *given, seed=seed)[0] for seed in seeds]
        arrays = np.array(images, np.uint8).reshape(-1, *photograph.shape), np.repeat(mask[None], len(images), axis=0)
        held = Insertions((), lambda *_: mask, scale, (), {"scale": scale, "margin": settings.margin})
        told = {"about": self.about(settings, held, None), "conditions": [{"seed": seed} for seed in seeds]}
        return GeneratedBatch(*arrays, self.layout.class_names, **told)

    def about(self, settings: Settings, conditions: Conditions | Insertions, seed: int | None) -> dict[str, Any]:
        """Everything that decides the samples, for the manifest. settings: complete ones."""
        data, about = self.config.data, {"seed": seed, **settings.row()}
        about |= {"weights": self.weights, "precision": self.precision}
        about["checkpoints"] = {name: network and network.sha256 for name, network in self.networks.items()}
        if isinstance(conditions, Insertions):  # evaluate.py brings photographs to the size that training saw
            about["whole_size"] = list(View.of(data).whole_size)
        elif data.fit == "random_crop":  # samples show windows of images: evaluate.py cuts the same
            about["crops"] = {"crop_from": list(data.crop_from), "crop_defect": data.crop_defect}
        return {**about, "conditions": conditions.about} if conditions.about else about

    def _generate_batch(
        self,
        indices: Sequence[int],
        x: Tensor | None,
        *,
        seed: int,
        settings: Settings,
        conditions: Conditions,
        progress: Progress = lambda pairs: pairs,
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8 images [N, H, W, 3] and index masks [N, H, W] of N sample indices, all at once. x: as for draw."""
        shape = (self.layout.num_channels, *settings.image_size)
        noise = partial(sample_noise, seed, indices, shape=shape, device=self.device)
        known = conditions.known(indices, self.device)
        predict_x0 = partial(self._predict_x0, indices=indices, settings=settings, conditions=conditions, known=known)
        pair = {name: network and predict_x0(network) for name, network in self.networks.items()}
        plan = {key: getattr(settings, key) for key in ("step_inference", "num_steps", "spacing", "sampler", "handoff")}
        # Keyed by T, so that the first noise is not the one which a stochastic sampler adds at step T - 1.
        x = noise(self.diffusion.num_timestep) if x is None else to_device(x, self.device)
        x = x.to(memory_format=torch.channels_last)
        with autocast(self.device, self.precision):
            x = two_stage_sample(x, self.diffusion, **pair, **plan, noise=noise, known=known, progress=progress)
        if x.isnan().any():
            remedy = "try fp32, a smaller `guidance_scale`, or earlier checkpoints"
            raise InputError(f"`precision` {self.precision}: the networks' values are no numbers (NaN); {remedy}")
        return self.layout.decode(x)

    def _predict_x0(
        self, network: Network, indices: Sequence[int], settings: Settings, conditions: Conditions, known: Known | None
    ) -> PredictX0:
        """A network as samplers call it: told the types, those of a window in a window, and kept to what is known."""
        config, size, window = network.config, settings.image_size, self._window(network, settings)

        @cache
        def at(*places: Place) -> PredictX0:
            told = config.model.class_cond and [conditions.told(indices, place, window) for place in places]
            types = to_device(torch.cat(told), self.device) if told else None
            forward = partial(self._graphs.run, network.forward)
            return make_predict_x0(forward, config, self.diffusion, types, settings.guidance_scale)

        predict_x0 = at((0, 0))
        if window != size:
            windows = self._windows(network, len(indices), settings)
            predict_x0 = windowed(lambda x_t, t, places: at(*places)(x_t, t), *windows)
        return known.wrap(predict_x0, bool(config.train.known_share)) if known else predict_x0

    @torch.no_grad()
    def compile(self, batch_size: int, settings: Settings) -> None:
        """From now on let batches of this size run under torch.compile; each size would cost a compilation of its own.

        settings: complete ones. Where such a batch does not fit into memory nothing changes. Raises InputError."""

        def fast(network: Network) -> Network:
            twice = settings.guidance_scale != 1 and network.config.model.class_cond  # see make_predict_x0
            model, rows = network.model, batch_size * (1 + twice) * self._windows(network, batch_size, settings)[1]
            inputs = noise_batch(network.config, rows, self._window(network, settings), self.device)
            with autocast(self.device, self.precision):
                compiled = try_compile(model, lambda model: model(*inputs))
            return replace(network, forward=lambda x, *types: (compiled if len(x) == rows else model)(x, *types))

        try:
            self.networks = {name: network and fast(network) for name, network in self.networks.items()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise

    def _window(self, network: Network, settings: Settings) -> tuple[int, ...]:
        """(height, width) of what a network sees at once."""
        size = settings.image_size
        return size if settings.windows == "off" else tuple(map(min, size, network.config.data.resolution))

    def _windows(self, network: Network, batch_size: int, settings: Settings) -> tuple[dict[Place, Tensor], int]:
        """Windows that cover the canvas, with their weights, and how many of them, each for a batch of samples, the
        network is given at a time; on the CPU more than one would gain nothing."""
        window, most = self._window(network, settings), 1
        weights = place_windows(settings.image_size, window, receptive_field(network.config.model), self.device)
        if self.device.type == "cuda":
            most = max(1, most_at_once(window, self._pass_bytes(settings), self.device) // batch_size)
        return weights, choose_batch_size("auto", len(weights), most)
