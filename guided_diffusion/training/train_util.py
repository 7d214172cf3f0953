"""The training loop, readable from top to bottom."""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Mapping
from contextlib import nullcontext
from functools import cached_property, partial

import blobfile as bf
import numpy as np
import torch
import yaml
from torch import Tensor

from .. import dist_util, heap
from ..config import Config
from ..data.image_datasets import DefectDataset, epoch_indices
from ..diffusion.gaussian_diffusion import create_diffusion
from ..diffusion.training_conditions import draw_conditions
from ..errors import InputError
from ..file_io import write_atomic
from ..keyed_random import key_to_seed, numpy_generator, torch_generator
from ..networks.unet import create_model
from ..precision import autocast, exact_float32
from ..tuning import compiled, duration
from .checkpoint import Checkpoint, load_weights, save_checkpoint
from .logger import NullLogger, TrainLogger
from .loss_window import QUARTILES, LossWindow
from .preview import preview_grid

CORRECT_AFTER = 20  # steps
MAX_VAL_IMAGES = 64  # evenly spread over a larger held-out set, so that a log line stays cheap


class TrainLoop:
    """Trains one network; all state is in `model`, `ema`, `optimizer` and `step`.

    Every random number is keyed by (seed, step, rank), so a resumed run repeats an uninterrupted one bit for
    bit without generator state. The configuration is a settled one (tuning.settle): no "auto" in it.
    """

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
        if "auto" in (config.train.precision, config.train.compile):
            raise ValueError("settle the configuration first (tuning.settle)")
        exact_float32()
        if device.type == "cpu":
            heap.keep()
        self.config, self.work_dir, self.device = config, work_dir, device
        self.data, self.val_data = _hold(data, device), val_data and _hold(val_data, device)
        self.diffusion = create_diffusion(config)

        torch.manual_seed(key_to_seed("init", config.train.seed))
        self.model = create_model(config).to(device, memory_format=torch.channels_last)
        self.model.activation_checkpointing = config.train.activation_checkpointing
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=config.optimizer.lr,
            weight_decay=config.optimizer.weight_decay,
            fused=True,
        )
        self.ema = copy.deepcopy(self.model).requires_grad_(False).eval()
        self.window = LossWindow(self.diffusion.num_timestep, device)
        self.failed_step = torch.zeros((), device=device)  # number of the first step with a non-finite gradient
        self.step = 0  # updates done so far
        if warm_start:
            load_weights(self.model, warm_start.model, warm_start.path)
            load_weights(self.ema, warm_start.ema, warm_start.path)
        if resume:
            self.load(resume)

        self.stop_signal = 0

    @cached_property
    def network(self) -> torch.nn.Module:
        """The model as it is trained: compiled, and averaging its gradients over the processes, if that is wanted.

        Raises CompileError.
        """
        train = self.config.train
        network = compiled(self.model, self.config, self.device) if train.compile == "on" else self.model
        if dist_util.world_size() == 1:
            return network
        return torch.nn.parallel.DistributedDataParallel(
            network,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            static_graph=not train.micro_batch,  # which no_sync would break
        )

    def run(self) -> int:
        """Train to the end or to a signal. Returns the exit status: 0, or 128 + the signal's number.

        Raises InputError if the loss stops being finite; the last good checkpoint is then what it was.
        """
        cfg = self.config.train
        logger = self._start_logger()
        self.reported = (self.step, time.perf_counter())
        self.started: tuple[int, float] | None = self.reported
        with _catch_signals(self):
            try:
                while self.step < cfg.iterations and not self._stopping():
                    self.train_step()
                    logger.advance()
                    last = self.step == cfg.iterations
                    if self.step % cfg.eval_interval == 0 or last:
                        logger.log(self.step, self.report())
                        self._correct_estimate(logger)
                    if cfg.log_image_interval and (self.step % cfg.log_image_interval == 0 or last):
                        self.preview()
                    if self.step % cfg.save_ckpt_interval == 0 or last:  # last, so that resuming repeats the rest
                        logger.save_loss_plot()
                        self.save()
                if self.step < cfg.iterations:  # a signal; launchers send another, which must not break the save
                    self.save()
                    dist_util.barrier()  # nor may they end the rank that saves because the others have ended
            finally:
                logger.close()
        if self.step == cfg.iterations:
            return 0
        if dist_util.rank() == 0:
            print(
                f"stopped after step {self.step}, saved; the same command goes on (--resume auto, the default)",
                flush=True,
            )
        return 128 + self.stop_signal

    def train_step(self) -> None:
        """One update: draw, diffuse, predict, descend, average. The host waits for nothing of it."""
        cfg = self.config.train
        key = (cfg.seed, self.step, dist_util.rank())
        torch.manual_seed(key_to_seed("dropout", *key))
        x_start, masks = self.draw_batch()  # [N, C, H, W], [N, H, W]
        types, known = draw_conditions(self.config, x_start, masks, key)
        generator = torch_generator(self.device, "train", *key)
        t = torch.randint(self.diffusion.num_timestep, (len(x_start),), generator=generator, device=self.device)
        noise = torch.randn(x_start.shape, generator=generator, device=self.device)
        noise = noise.to(memory_format=torch.channels_last)  # like x_start, or x_t takes neither's format

        losses = self._backward(x_start, t, noise, types, known)
        losses["grad_norm"] = self._clip_gradients()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.step += 1
        self._note_failure(losses["grad_norm"])
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._update_ema()
        self.window.add(losses, t)

    def _backward(
        self, x_start: Tensor, t: Tensor, noise: Tensor, types: Tensor | None, known: Tensor | None
    ) -> dict[str, Tensor]:
        """Gradients of the batch's mean loss, `micro_batch` images at a time. Returns the losses."""
        cfg = self.config.train
        size = cfg.micro_batch or len(x_start)
        parts = []
        for start in range(0, len(x_start), size):
            rows = slice(start, start + size)
            last = rows.stop == len(x_start)  # ranks exchange their gradients once
            with nullcontext() if last or dist_util.world_size() == 1 else self.network.no_sync():
                network = self.network if types is None else partial(self.network, types=types[rows])
                part = known if known is None else known[rows]
                with autocast(self.device, cfg.precision):
                    losses = self.diffusion.training_losses(
                        network, x_start[rows], t[rows], noise[rows], cfg.separate_channel_loss, part
                    )
                (losses["loss"] * (size / len(x_start))).backward()
            parts.append({name: value.detach() for name, value in losses.items()})
        per_sample = torch.cat([part["per_sample"] for part in parts])
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0] if name != "per_sample"}
        return means | {"per_sample": per_sample}

    def _note_failure(self, grad_norm: Tensor) -> None:
        """From the first non-finite gradient on, let the optimizer skip every update; log lines look at it.

        Gradients are averaged, so every rank sees the same.
        """
        first = (self.failed_step == 0) & ~torch.isfinite(grad_norm)
        self.failed_step += first * self.step
        self.optimizer.found_inf = (self.failed_step > 0).float()  # as GradScaler tells fused optimizers

    def check_finite(self) -> None:
        """Raise InputError if a gradient was not finite at some step so far. Waits for the device."""
        if self.failed_step > 0:
            raise InputError(
                f"the loss is not finite at step {int(self.failed_step)}; stopped before the update, what "
                f"{self.work_dir} holds is untouched; lower optimizer.lr, set optimizer.grad_clip or "
                "train.precision fp32"
            )

    def draw_batch(self) -> tuple[Tensor, Tensor]:
        """x_start float32 [N, C, H, W] and index masks uint8 [N, H, W] of this step and rank.

        Images drawn by type are independent draws; else ranks share no image within an epoch.
        """
        cfg, rank = self.config, dist_util.rank()
        size, kinds = cfg.data.bs_per_gpu, None
        if cfg.rates is None:
            indices = epoch_indices(len(self.data), size, self.step, rank, dist_util.world_size(), cfg.train.seed)
        else:
            rng = numpy_generator("types", cfg.train.seed, self.step, rank)
            indices, kinds = self.data.draw_by_type(cfg.rates, size, rng)
        rng = numpy_generator("augment", cfg.train.seed, self.step, rank)
        images, masks = self.data.batch(indices, rng, cfg.data.flip, kinds)
        return cfg.layout.encode(images, masks).to(self.device, memory_format=torch.channels_last), masks

    def _clip_gradients(self) -> Tensor:
        gradients = [p.grad for p in self.model.parameters()]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.optimizer.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.optimizer.grad_clip, norm)
        return norm

    @torch.no_grad()
    def _update_ema(self) -> None:
        decay = min(self.config.train.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.parameters()), 1 - decay)

    def report(self) -> dict[str, float]:
        """The numbers of one log line. Raises InputError if the loss stopped being finite."""
        self.check_finite()
        values = self.window.report()
        now = time.perf_counter()
        values["steps_per_s"] = (self.step - self.reported[0]) / (now - self.reported[1])
        self.reported = (self.step, now)
        values["lr"] = learning_rate(self.config, self.step - 1)
        if self.val_data and dist_util.rank() == 0:
            values |= self.validation_loss()
        return values

    def _correct_estimate(self, logger: NullLogger) -> None:
        """Once, when enough steps are done to know better than the estimate before step 0."""
        if self.started is None or self.step - self.started[0] < CORRECT_AFTER:
            return
        pace = (time.perf_counter() - self.started[1]) / (self.step - self.started[0])
        line = f"step {self.step}: about {duration(pace * (self.config.train.iterations - self.step))} to go"
        if self.device.type == "cuda":
            line += f", {torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GiB"
        logger.message(f"{line} at the pace so far")
        self.started = None

    @torch.no_grad()
    def validation_loss(self) -> dict[str, float]:
        """EMA loss on held-out images, the same images, crops, timesteps and noise each time.

        "val": mean; "val_q1".."val_q4": by timestep quartile. Unweighted by timestep.
        """
        cfg, T = self.config, self.diffusion.num_timestep
        count = min(len(self.val_data), MAX_VAL_IMAGES)
        chosen = np.linspace(0, len(self.val_data) - 1, count).round().astype(np.int64)
        images, masks = self.val_data.batch(chosen, numpy_generator("val", cfg.train.seed))
        x_start = cfg.layout.encode(images, masks).to(self.device, memory_format=torch.channels_last)
        types = cfg.layout.types_in(masks).to(self.device) if cfg.model.class_cond else None
        values = {}
        for i in range(QUARTILES):
            generator = torch_generator(self.device, "val", cfg.train.seed, i)
            t = torch.linspace(i * T / QUARTILES, (i + 1) * T / QUARTILES - 1, count, device=self.device).long()
            t = t[torch.randperm(count, generator=generator, device=self.device)]
            noise = torch.randn(x_start.shape, generator=generator, device=self.device)
            total = 0.0
            for part in torch.arange(count, device=self.device).split(max(8, cfg.data.bs_per_gpu)):
                network = self.ema if types is None else partial(self.ema, types=types[part])
                with autocast(self.device, cfg.train.precision):
                    losses = self.diffusion.training_losses(
                        network, x_start[part], t[part], noise[part], cfg.train.separate_channel_loss
                    )
                total += losses["per_sample"].sum().item()
            values[f"val_q{i + 1}"] = total / count
        return {"val": sum(values.values()) / QUARTILES} | values

    def preview(self) -> None:
        """Write <work_dir>/images/NNNNNN.png: EMA samples from fixed noise, over their mask overlays."""
        if dist_util.rank() == 0:
            with autocast(self.device, self.config.train.precision):
                png = preview_grid(self.ema, self.config, self.diffusion, self.device)
            write_atomic(bf.join(self.work_dir, "images", f"{self.step:06d}.png"), png)

    def save(self) -> None:
        """Write a checkpoint and point `latest` at it (rank 0). All ranks call it. Raises as report() does."""
        self.check_finite()
        dist_util.average_([self.window.sums])  # so that rank 0's speak for all when all resume from them
        if dist_util.rank() == 0:
            payload = {
                "model": _contiguous(self.model.state_dict()),
                "ema": _contiguous(self.ema.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "config": self.config.to_dict(),
                "label_map": dict(self.config.data.label_map),
                "log_window": self.window.sums,
            }
            save_checkpoint(self.work_dir, self.step, payload, self.config.train.keep_last)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint, ours or a released one."""
        load_weights(self.model, checkpoint.model, checkpoint.path)
        load_weights(self.ema, checkpoint.ema, checkpoint.path)
        if checkpoint.optimizer is not None:
            try:
                self.optimizer.load_state_dict(_fitted(checkpoint.optimizer, self.optimizer))
            except (ValueError, KeyError, IndexError, RuntimeError) as error:
                raise InputError(f"{checkpoint.path}: its optimizer state does not fit ({error})") from None
        if checkpoint.log_window is not None:
            self.window.sums.copy_(checkpoint.log_window)
        self.step = checkpoint.step

    def _start_logger(self) -> NullLogger:
        if dist_util.rank() > 0:
            return NullLogger()
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        write_atomic(bf.join(self.work_dir, "config.yml"), text.encode())
        return TrainLogger(self.work_dir, self.config.train.iterations, self.step)

    def _stopping(self) -> bool:
        """Whether to stop before the next step; all ranks agree."""
        if dist_util.any_rank(bool(self.stop_signal)):
            self.stop_signal = self.stop_signal or signal.SIGTERM
            return True
        return False


def learning_rate(config: Config, step: int) -> float:
    """Learning rate of the update that follows `step` updates: linear warm-up, then flat or a cosine to 0."""
    cfg, total = config.optimizer, config.train.iterations
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if not cfg.cosine_decay:
        return cfg.lr
    done = (step - cfg.warmup) / max(1, total - cfg.warmup)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class _catch_signals:
    """While inside, SIGINT and SIGTERM only note themselves in loop.stop_signal; the step is finished."""

    def __init__(self, loop: TrainLoop):
        self.loop = loop

    def __enter__(self) -> None:
        def note(number: int, frame: object) -> None:
            self.loop.stop_signal = number

        self.old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *error: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def _contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _fitted(state: Mapping, optimizer: torch.optim.Optimizer) -> dict:
    """A loaded optimizer state under this optimizer's options, each tensor in its parameter's memory format
    (fused kernels walk raw memory)."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    values = {
        index: {
            key: torch.empty_like(parameters[index]).copy_(value) if torch.is_tensor(value) and value.ndim else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {"state": values, "param_groups": optimizer.state_dict()["param_groups"]}


def _hold(data: DefectDataset, device: torch.device) -> DefectDataset:
    """Keep the set on the GPU when it takes at most a quarter of the free memory, else on the CPU."""
    if device.type == "cuda":
        size = sum(t.nbytes for t in [*data.images, *data.masks])
        if size > torch.cuda.mem_get_info(device)[0] / 4:
            return data
    return data.to(device)
