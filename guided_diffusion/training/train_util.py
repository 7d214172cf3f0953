"""The training loop, readable from top to bottom."""

import copy
import math
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import blobfile as bf
import numpy as np
import torch
import yaml
from torch import Tensor, nn

from .. import dist_util
from ..config import ADAMW, MUON, Config
from ..data.augment import AUGMENTATIONS, augment
from ..data.image_datasets import DefectDataset, epoch_indices
from ..diffusion.conditioning import draw_conditions
from ..diffusion.gaussian_diffusion import GaussianDiffusion
from ..diffusion.samplers import ddim, make_predict_x0
from ..errors import InputError
from ..file_io import encode_png, write_atomic, write_or_warn
from ..joint_tensor import clip
from ..keyed_random import key_to_seed, numpy_generator, sample_noise, torch_generator
from ..networks.unet import create_model, noise_batch
from ..pictures import outline
from ..precision import autocast, exact_float32, free_memory, resolve_precision, to_device, try_compile
from .checkpoint import Checkpoint, load_weights, save_checkpoint
from .logger import QUARTILES, LossWindow, TrainLogger
from .muon import Muon

OPTIMIZERS = {ADAMW: torch.optim.AdamW, MUON: Muon}
Batch = tuple[Tensor | None, ...]  # x_start, t, noise, types, known, augmented
PREVIEW_STEPS = 50  # of ddim: enough to judge, cheap enough to repeat
FIRST_PREVIEW = 60, 100  # seconds and steps of a new training: where a step is slow, so is a preview
MAX_VAL_IMAGES = 64  # evenly spread over a larger held-out set, so that a log line stays cheap


class TrainLoop:
    """Trains one network; all state is in `model`, `ema`, `optimizer` and `step`.

    Every random number is keyed by (seed, step, rank), so a resumed run repeats an uninterrupted one bit for
    bit without generator state. A resumed run keeps the precision that "auto" once gave."""

    def __init__(
        self,
        config: Config,
        work_dir: str,
        data: DefectDataset,
        val_data: DefectDataset | None,
        device: torch.device,
        resume: Checkpoint | None = None,
        warm_start: Checkpoint | None = None,
    ):
        precision = config.train.precision
        if precision == "auto" and resume and resume.config:
            precision = resume.config.train.precision
        train = replace(config.train, precision=resolve_precision(precision, device))
        exact_float32(train.precision)
        self.config, self.work_dir, self.device = replace(config, train=train), work_dir, device
        self.data, self.val_data = _hold(data, device), val_data and _hold(val_data, device)
        self.diffusion = GaussianDiffusion(config)

        torch.manual_seed(key_to_seed("init", train.seed))
        self.model = create_model(config).to(device, memory_format=torch.channels_last)
        self.model.activation_checkpointing = train.activation_checkpointing
        options = {"lr": config.optimizer.lr, "weight_decay": config.optimizer.weight_decay, "fused": True}
        self.optimizer = OPTIMIZERS[config.optimizer.target](self.model.parameters(), **options)
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.window = LossWindow(self.diffusion.num_timestep, device)
        self.failed_step = torch.zeros((), device=device)  # number of the first step with a non-finite gradient
        self.step = 0  # updates done so far
        self._clock = time.process_time()  # where it stood, in seconds, before the first of them
        for start in filter(None, (warm_start, resume)):
            load_weights(self.model, start.model, start.path)
            load_weights(self.ema, start.ema, start.path)
        if resume:
            self.step = resume.step
            self._clock -= 60 * resume.cpu_minutes
            if resume.log_window is not None:
                if resume.log_window.shape != self.window.sums.shape:
                    raise InputError(f"{resume.path}: its log_window is none; take another checkpoint")
                self.window.sums.copy_(resume.log_window)
            if resume.optimizer is not None:
                self._load_optimizer(resume.optimizer, resume.path)

    def _load_optimizer(self, state: Mapping[str, Any], path: str) -> None:
        """Take a state under this run's options, tensors in their parameters' memory format, as fused kernels want."""
        options = self.optimizer.state_dict()["param_groups"]
        try:
            # interned, the names are pickled as those of a run that was never interrupted: the same bytes
            named = {i: {sys.intern(key): v for key, v in entry.items()} for i, entry in state["state"].items()}
            self.optimizer.load_state_dict({"state": named, "param_groups": options})
            for parameter, entry in self.optimizer.state.items():
                shapes = {"step": (), "exp_avg": parameter.shape, "exp_avg_sq": parameter.shape}
                if isinstance(self.optimizer, Muon) and Muon.takes(parameter):
                    shapes = {"step": (), "momentum_buffer": parameter.shape}
                if {key: value.shape for key, value in entry.items()} != shapes:
                    raise ValueError(f"it is not that of {self.config.optimizer.target} for these parameters")
                if not all(value.isfinite().all() for value in entry.values()):
                    raise ValueError("it is not finite")
                entry |= {key: torch.empty_like(parameter).copy_(value) for key, value in entry.items() if value.ndim}
        except (ValueError, KeyError, IndexError, RuntimeError, AttributeError, TypeError) as error:
            remedy = "keep its optimizer.target, or take another checkpoint"
            raise InputError(f"{path}: its optimizer state does not fit ({error}); {remedy}") from None

    @cached_property
    def network(self) -> nn.Module:
        """The model as it is trained: compiled, and averaging its gradients over the processes, if that is wanted.
        Raises InputError where it cannot be compiled."""
        train, network = self.config.train, self.model
        if train.compile == "on":
            batch = train.micro_batch or self.config.data.bs_per_gpu
            inputs = noise_batch(self.config, batch, self.config.data.resolution, self.device)
            told = {"augmented": torch.zeros(batch, AUGMENTATIONS, device=self.device)}
            told = told if self.config.model.augment else {}

            def run(network: nn.Module) -> None:
                network(*inputs, **told).square().mean().backward()
                self.model.zero_grad(set_to_none=True)

            graphs = self.device.type == "cuda" and dist_util.world_size() == 1 and not train.micro_batch
            with autocast(self.device, train.precision):
                network = try_compile(network, run, graphs)
        if dist_util.world_size() == 1:
            return network
        static = not train.micro_batch  # no_sync would break it
        return nn.parallel.DistributedDataParallel(network, gradient_as_bucket_view=True, static_graph=static)

    @property
    def cpu_minutes(self) -> float:
        """What the training has cost so far: minutes of all cores together, of this process (rank 0's is saved)."""
        return (time.process_time() - self._clock) / 60

    def run(self) -> int:
        """Train to the end or to a signal. Returns the exit status: 0, or 128 + the signal's number.

        Raises InputError if the loss stops being finite; the last good checkpoint is then what it was."""
        cfg, logger, first_preview = self.config.train, None, math.inf
        self.reported, start = (self.step, time.perf_counter()), self.step
        with ExitStack() as ending:
            stop = ending.enter_context(dist_util.Stop("SIGINT", "SIGTERM", "SIGHUP"))
            while self.step < cfg.iterations and not dist_util.any_rank(bool(stop.number)):
                self.train_step()
                if self.step == start + 1:  # only now: where memory does not suffice, the first step shows it
                    dist_util.on_zero(self._write_config)
                    logger = dist_util.on_zero(lambda: TrainLogger(self.work_dir, self.config, start))
                    ending.callback(logger.close) if logger else None
                    first_preview = math.inf if start else time.perf_counter() + FIRST_PREVIEW[0]
                last = self.step == cfg.iterations
                values = self.report() if self.step % cfg.eval_interval == 0 or last else None
                if logger:
                    logger.log(self.step, values)
                first = self.step >= FIRST_PREVIEW[1] and time.perf_counter() >= first_preview
                show = cfg.log_image_interval and (first or last or self.step % cfg.log_image_interval == 0)
                save = last or self.step % cfg.save_ckpt_interval == 0
                if logger and (show or save):
                    logger.save_loss_plot()
                if show:
                    self.preview()
                    first_preview = math.inf
                if save:  # last, so that resuming repeats the rest
                    self.save()
            if start < self.step < cfg.iterations:  # a signal; launchers send another, which must not break the save
                self.save()
                dist_util.barrier()  # nor may they end the rank that saves because the others have ended
        if self.step == cfg.iterations:
            return 0
        if dist_util.rank() == 0 and self.step > start:
            print(f"stopped after step {self.step}, saved; the same command goes on (--resume auto, the default)")
        elif dist_util.rank() == 0:
            print("stopped before a step was made, nothing saved; the same command starts again")
        return 128 + (stop.number or signal.SIGTERM)

    def _write_config(self) -> None:
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False).encode()
        write_atomic(bf.join(self.work_dir, "config.yml"), text)

    def train_step(self) -> None:
        """One update: draw, diffuse, predict, descend, average. The host waits for nothing of it."""
        cfg, network = self.config.train, self.network  # first, as compiling it draws random numbers
        key = (cfg.seed, self.step, dist_util.rank())
        torch.manual_seed(key_to_seed("dropout", *key))
        x_start, masks, augmented = self.draw_batch()  # [N, C, H, W], [N, H, W]
        types, known = draw_conditions(self.config, x_start, masks, key)
        generator = torch_generator(self.device, "train", *key)
        t = torch.randint(*cfg.t_range, (len(x_start),), generator=generator, device=self.device)
        noise = torch.randn(x_start.shape, generator=generator, device=self.device)
        noise = noise.to(memory_format=torch.channels_last)  # like x_start, or x_t takes neither's format

        losses = self._backward(network, (x_start, t, noise, types, known, augmented))
        losses["grad_norm"] = self._bound_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.step += 1
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_ema()
        self.window.add(losses, t)

    def draw_batch(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """x_start float32 [N, C, H, W] and index masks uint8 [N, H, W] of this step and rank, and how augmented.

        Images drawn by type are independent draws; else ranks share no image within an epoch."""
        cfg, rank = self.config, dist_util.rank()
        size, kinds = cfg.data.bs_per_gpu, None
        if cfg.rates is None:
            indices = epoch_indices(len(self.data), size, self.step, rank, dist_util.world_size(), cfg.train.seed)
        else:
            rng = numpy_generator("types", cfg.train.seed, self.step, rank)
            indices, kinds = self.data.draw_by_type(cfg.rates, size, rng)
        rng = numpy_generator("augment", cfg.train.seed, self.step, rank)
        images, masks = (to_device(part, self.device) for part in self.data.batch(indices, rng, cfg.data.flip, kinds))
        augmented = None
        if share := cfg.model.augment:
            images, masks, augmented = augment(images, masks, share, rng)
        return cfg.layout.encode(images, masks).to(memory_format=torch.channels_last), masks, augmented

    def _backward(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Gradients of the batch's mean loss, `micro_batch` images at a time. Returns the losses."""
        count, parts = len(batch[0]), []
        size = self.config.train.micro_batch or count
        for start in range(0, count, size):
            last = start + size == count  # ranks exchange their gradients once
            with nullcontext() if last or dist_util.world_size() == 1 else network.no_sync():
                losses = self._losses(network, batch, slice(start, start + size))
                (losses["loss"] * (size / count)).backward()
            parts.append({name: value.detach() for name, value in losses.items()})
        per_sample = torch.cat([part.pop("per_sample") for part in parts])
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        return means | {"per_sample": per_sample}

    def _losses(self, network: nn.Module, batch: Batch, rows: slice | Tensor) -> dict[str, Tensor]:
        """GaussianDiffusion.training_losses of these rows of a batch."""
        x_start, t, noise, types, known, augmented = (part if part is None else part[rows] for part in batch)
        told = {"types": types} | ({} if augmented is None else {"augmented": augmented})
        network, separate = partial(network, **told), self.config.train.separate_channel_loss
        with autocast(self.device, self.config.train.precision):
            return self.diffusion.training_losses(network, x_start, t, noise, separate, known)

    def _bound_gradients(self) -> Tensor:
        """Clip the gradients and return their norm. From the first that is not finite on, no update follows.

        Log lines look at failed_step. Gradients are averaged, so every rank sees the same."""
        parameters, limit = list(self.model.parameters()), self.config.optimizer.grad_clip
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if limit is not None:
            nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        first = (self.failed_step == 0) & ~torch.isfinite(norm)
        self.failed_step += first * (self.step + 1)
        self.optimizer.found_inf = (self.failed_step > 0).float()  # as GradScaler tells fused optimizers
        return norm

    def check_finite(self) -> None:
        """Raise InputError if a gradient was not finite at some step so far. Waits for the device."""
        if self.failed_step > 0:
            told = f"stopped before the update, what {self.work_dir} holds is untouched"
            remedy = "lower optimizer.lr, set optimizer.grad_clip or train.precision fp32"
            raise InputError(f"the loss is not finite at step {int(self.failed_step)}; {told}; {remedy}")

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.train.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def report(self) -> dict[str, float]:
        """The numbers of one log line. Raises InputError if the loss stopped being finite."""
        self.check_finite()
        values, now = self.window.report(), time.perf_counter()
        values["steps_per_s"] = (self.step - self.reported[0]) / (now - self.reported[1])
        values["lr"] = learning_rate(self.config, self.step - 1)
        values["cpu_minutes"] = self.cpu_minutes
        self.reported = (self.step, now)
        return values | (self.validation_loss() if self.val_data and dist_util.rank() == 0 else {})

    @torch.no_grad()
    def validation_loss(self) -> dict[str, float]:
        """EMA loss on held-out images, the same images, crops, timesteps and noise each time.

        "val": mean; "val_q1".."val_q4": by quartile of T, of the timesteps in it that are trained. Unweighted."""
        cfg, T, quarters = self.config, self.diffusion.num_timestep, len(QUARTILES)
        edges = [-(-T * i // quarters) for i in range(quarters + 1)]  # rounded up, as LossWindow counts 4 t // T
        count = min(len(self.val_data), MAX_VAL_IMAGES)
        chosen = np.linspace(0, len(self.val_data) - 1, count).round().astype(np.int64)
        batch = self.val_data.batch(chosen, numpy_generator("val", cfg.train.seed))
        images, masks = (to_device(part, self.device) for part in batch)
        x_start = cfg.layout.encode(images, masks).to(memory_format=torch.channels_last)
        types = cfg.layout.types_in(masks) if cfg.model.class_cond else None
        values, shares = {}, {}
        for i, quartile in enumerate(QUARTILES):
            first, end = max(edges[i], cfg.train.t_range[0]), min(edges[i + 1], cfg.train.t_range[1])
            if first >= end:
                continue
            generator = torch_generator(self.device, "val", cfg.train.seed, i)
            t = torch.linspace(first, end - 1, count, device=self.device).long()
            t = t[torch.randperm(count, generator=generator, device=self.device)]
            noise = torch.randn(x_start.shape, generator=generator, device=self.device)
            parts = torch.arange(count, device=self.device).split(max(8, cfg.data.bs_per_gpu))
            batch = (x_start, t, noise, types, None, None)
            losses = [self._losses(self.ema, batch, rows)["per_sample"] for rows in parts]
            values[f"val_{quartile}"] = torch.cat(losses).mean().item()
            shares[f"val_{quartile}"] = end - first
        return {"val": sum(values[key] * share for key, share in shares.items()) / sum(shares.values())} | values

    @torch.no_grad()
    def preview(self) -> None:
        """Write <work_dir>/images/NNNNNN.png: EMA samples from fixed noise, over these with outlines.

        Of the timesteps that are trained: down to the first the last prediction of x_start stands for the rest, and
        below T they start from training images under noise."""
        if dist_util.rank() != 0:
            return
        config, layout, (first, end) = self.config, self.config.layout, self.config.train.t_range
        indices, shape = range(config.train.max_images), (layout.num_channels, *config.data.resolution)
        noise = partial(sample_noise, config.train.seed, indices, shape=shape, device=self.device)
        x = noise(end - 1)
        types = torch.eye(1 + layout.num_defect)[[1 + index % layout.num_defect for index in indices]]
        if end < self.diffusion.num_timestep:
            given = np.array(indices) % len(self.data)
            images, masks = self.data.batch(given, numpy_generator("preview", config.train.seed))
            types = layout.types_in(masks)
            t = torch.full((len(given),), end - 1, device=self.device)
            x = self.diffusion.q_sample(layout.encode(images, masks).to(self.device), t, x)
        types = types.to(self.device) if config.model.class_cond else None
        predict_x0 = make_predict_x0(self.ema, config, self.diffusion, types)
        nodes = np.linspace(end - 1, first, min(PREVIEW_STEPS, end - first)).round().astype(int).tolist()
        with autocast(self.device, config.train.precision):
            plan = list(zip(nodes, [*nodes[1:], -1], strict=True))
            x = ddim(x, plan, predict_x0, clip, self.diffusion.alpha_bar, noise)
        images, masks = layout.decode(x)
        zoom = max(1, 128 // min(config.data.resolution))
        images, masks = (arrays.repeat(zoom, axis=1).repeat(zoom, axis=2) for arrays in (images, masks))
        png = encode_png(np.vstack([np.hstack(list(row)) for row in (images, map(outline, images, masks))]))
        write_or_warn(bf.join(self.work_dir, "images", f"{self.step:06d}.png"), png)

    def save(self) -> None:
        """Write a checkpoint and point `latest` at it (rank 0). All ranks call it. Raises as report() does."""
        self.check_finite()
        dist_util.average_(self.window.sums)  # so that rank 0's speak for all when all resume from them
        dist_util.on_zero(self._save)

    def _save(self) -> None:
        networks = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        payload = {key: {k: v.contiguous() for k, v in state.items()} for key, state in networks.items()}
        payload |= {
            "optimizer": self.optimizer.state_dict(),
            "config": self.config.to_dict(),
            "label_map": dict(self.config.data.label_map),
            "log_window": self.window.sums,
            "cpu_minutes": self.cpu_minutes,
        }
        if not bf.exists(bf.join(self.work_dir, "config.yml")):  # somebody has removed the folder meanwhile
            self._write_config()
        save_checkpoint(self.work_dir, self.step, payload, self.config.train.keep_last)


def learning_rate(config: Config, step: int) -> float:
    """Learning rate of the update that follows `step` updates: linear warm-up, then flat or a cosine to 0."""
    cfg, total = config.optimizer, config.train.iterations
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    done = (step - cfg.warmup) / max(1, total - cfg.warmup)
    return cfg.lr * (0.5 * (1 + math.cos(math.pi * min(1.0, done))) if cfg.cosine_decay else 1)


def _hold(data: DefectDataset, device: torch.device) -> DefectDataset:
    """Keep the set on the GPU when it takes at most a quarter of the free memory, else on the CPU."""
    if device.type == "cuda":
        free_memory()  # what the allocator keeps from before is free too
        size = sum(t.nbytes for t in [*data.images, *data.masks])
        device = device if size <= torch.cuda.mem_get_info(device)[0] / 4 else torch.device("cpu")
    data.images = [image.to(device) for image in data.images]
    data.masks = [mask.to(device) for mask in data.masks]
    return data
