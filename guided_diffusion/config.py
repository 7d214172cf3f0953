"""The configuration as frozen dataclasses: every option with its meaning, default and check on numbers.

config_file.py reads them from YAML, in the released layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InputError, unknown_name
from .joint_tensor import JointLayout

SCHEDULES = ("cosine", "linear", "sqrt_linear", "sqrt", "inverse_proportion")
PARAMETERIZATIONS = ("x0", "eps")
GOOD = "good"  # stands for "no defect" among type names

# `target` strings of released files. They are looked up here and never imported.
MODEL_TARGETS = {  # name: is it the patch-level network?
    "models.unet.openaiunet.UNetModel": False,
    "models.unet.unet_receptive.UNetModel": True,
}
DIFFUSION_TARGETS = ("diffusion.base_diffusion.ColdDiffusion",)
OPTIMIZER_TARGETS = ("torch.optim.AdamW",)


@dataclass(frozen=True)
class DiffusionConfig:
    parameterization: str = "x0"  # what the network predicts: x0 or eps
    schedule: str = "cosine"  # of betas, see gaussian_diffusion.make_betas
    num_timestep: int = 1000  # T

    def __post_init__(self) -> None:
        _one_of("diffusion.parameterization", self.parameterization, PARAMETERIZATIONS)
        _one_of("diffusion.schedule", self.schedule, SCHEDULES)
        _at_least("diffusion.num_timestep", self.num_timestep, 2)


@dataclass(frozen=True)
class ModelConfig:
    """One UNet. Channel counts of 0 and scale-shift None mean "derive" and are filled in by load_config."""

    patch: bool = False  # False: global network; True: patch-level network
    image_size: int = 256  # pixels; informative, the network takes any size its levels divide
    in_channels: int = 0  # 3 + background + num_defect
    out_channels: int = 0  # the same
    model_channels: int = 128  # width, a multiple of norm_groups
    num_res_blocks: int = 2  # per level
    channel_mult: tuple[int, ...] = (1, 1, 2, 2, 4, 4)  # width factor of each level
    attention_downsample: tuple[int, ...] = ()  # downsample factors that get attention (global only)
    attention_resolutions: int | tuple[int, ...] | None = None  # accepted for released files; without effect
    num_head_channels: int = -1  # width of an attention head; -1: use num_heads
    num_heads: int = 1
    norm_groups: int = 32  # of every GroupNorm (released: 32); 8 suits a width of 32
    dropout: float = 0.0
    use_scale_shift_norm: bool | None = None  # default: on for global, off for patch
    class_cond: bool = False  # is the network told which defect types to draw?
    num_defect: int = 0  # types that it can be told, with class_cond: derived
    ckpt: str | None = None  # checkpoint file to warm-start the weights from

    def __post_init__(self) -> None:
        if self.use_scale_shift_norm is None:
            object.__setattr__(self, "use_scale_shift_norm", not self.patch)
        _at_least("model.num_res_blocks", self.num_res_blocks, 1)
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise InputError(f"model.channel_mult: {list(self.channel_mult)} must be a list of numbers >= 1")
        groups = self.norm_groups
        _at_least("model.norm_groups", groups, 1)
        if self.model_channels < 1 or self.model_channels % groups:
            raise InputError(
                f"model.model_channels: width {self.model_channels} must be a multiple of {groups} "
                f"(GroupNorm has {groups} groups); try {max(1, round(self.model_channels / groups)) * groups}"
            )
        if not 0 <= self.dropout < 1:
            raise InputError(f"model.dropout: {self.dropout} must be in [0, 1)")
        for factor in () if self.patch else self.attention_downsample:
            if factor not in [2**i for i in range(len(self.channel_mult))]:
                raise InputError(
                    f"model.attention_downsample: factor {factor} is none of this network's "
                    f"{[2**i for i in range(len(self.channel_mult))]}"
                )
        for mult in self.channel_mult:
            self.heads(self.model_channels * mult)

    @property
    def size_multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.channel_mult) - 1)

    def heads(self, channels: int) -> int:
        """Number of attention heads at a given width."""
        key = "num_heads" if self.num_head_channels == -1 else "num_head_channels"
        value = getattr(self, key)
        if value < 1 or channels % value:
            raise InputError(f"model.{key}: {value} must divide the width {channels}")
        return value if key == "num_heads" else channels // value


@dataclass(frozen=True)
class DataConfig:
    dir: str | None = None  # training set, see layouts.py for the layouts
    resolution: int | tuple[int, ...] = ()  # pixels: one number or [height, width]; default: model.image_size
    num_image_train: int | None = None  # first N images of each type; none: all
    include_good: bool = False  # do the set's defect-free images join the training?
    type_rates: Mapping[str, float] | None = None  # how often each type, or "good", is drawn; see Config.rates
    bs_per_gpu: int = 2  # batch per process
    num_workers: int = 0  # accepted for released files; without effect, the set is held in memory
    label_map: Mapping[str, int] | None = None  # type name: index 1..N in the masks
    background: bool | None = None  # a background channel in the joint tensor? default: yes
    fit: str = "resize"  # resize: stretch to resolution; random_crop: windows of that size
    crop_from: int | tuple[int, ...] = ()  # pixels images are stretched to before windows are cut; (): their own size
    crop_defect: float = 0.0  # share of the windows that are placed so that they hold a defect; the others: anywhere
    flip: str = "none"  # none, horizontal, vertical or both
    val_dir: str | None = None  # held-out images for the validation loss

    def __post_init__(self) -> None:
        _one_of("data.fit", self.fit, ("resize", "random_crop"))
        _one_of("data.flip", self.flip, ("none", "horizontal", "vertical", "both"))
        _at_least("data.bs_per_gpu", self.bs_per_gpu, 1)
        if self.num_image_train is not None:
            _at_least("data.num_image_train", self.num_image_train, 1)
        for key in ("resolution", "crop_from"):
            value = getattr(self, key)
            size = (value,) * 2 if isinstance(value, int) else value
            if len(size) not in (0, 2) or any(side < 1 for side in size):
                raise InputError(f"data.{key}: {list(size)} must be one number or [height, width]")
            object.__setattr__(self, key, tuple(size))
        if not 0 <= self.crop_defect <= 1:
            raise InputError(f"data.crop_defect: {self.crop_defect} must be in [0, 1]")
        if self.fit != "random_crop" and (self.crop_from or self.crop_defect):
            key = "crop_from" if self.crop_from else "crop_defect"
            raise InputError(f"data.{key}: only with data.fit random_crop; set that, or remove {key}")
        if self.type_rates is not None and min(self.type_rates.values(), default=0) < 0:
            raise InputError("data.type_rates: must be 0 or more")
        if self.label_map is not None:
            indices = list(self.label_map.values())
            if sorted(indices) != list(range(1, len(indices) + 1)):
                raise InputError(
                    f"data.label_map: indices {sorted(indices)} must be 1..{len(indices)}, each once "
                    "(0 is the background and is not listed)"
                )


@dataclass(frozen=True)
class OptimizerConfig:
    lr: float = 1e-4
    weight_decay: float = 0.002
    warmup: int = 0  # steps of linear warm-up; 0: off
    cosine_decay: bool = False  # lr falls to 0 at the last step along a cosine
    grad_clip: float | None = None  # largest gradient norm; none: off

    def __post_init__(self) -> None:
        _positive("optimizer.lr", self.lr)
        _at_least("optimizer.weight_decay", self.weight_decay, 0)
        _at_least("optimizer.warmup", self.warmup, 0)
        if self.grad_clip is not None:
            _positive("optimizer.grad_clip", self.grad_clip)


@dataclass(frozen=True)
class TrainConfig:
    iterations: int = 160_000  # steps
    log_image_interval: int = 10_000  # steps between preview grids; 0: none
    save_ckpt_interval: int = 10_000  # steps between checkpoints
    max_images: int = 8  # in a preview grid
    eval_interval: int = 10  # steps between log lines, with the held-out loss if data.val_dir is set
    keep_last: int = 0  # checkpoints kept; 0: all
    seed: int = 0
    precision: str = "auto"  # fp32, bf16 (autocast), or auto: the faster one, measured before step 0
    compile: str = "auto"  # on, off (torch.compile), or auto: where the run is long enough to earn it back
    micro_batch: int = 0  # images at a time, a divisor of data.bs_per_gpu; less memory, same update; 0: all
    activation_checkpointing: bool = False  # compute activations again in the backward pass: less memory, slower
    ema_decay: float = 0.9999  # at step k: min(ema_decay, (1 + k) / (10 + k))
    loss_weight: str = "uniform"  # per timestep: uniform (released) or min_snr
    min_snr_gamma: float = 5.0
    separate_channel_loss: bool = False  # RGB: MSE, masks: cross-entropy on logits; x0 only
    mask_loss_weight: float = 0.2  # of the cross-entropy, with separate_channel_loss
    class_drop: float = 0.1  # share of the images whose types the network is not told, with model.class_cond
    known_share: float = 0.0  # share of the images of which parts are given without noise, see draw_known

    def __post_init__(self) -> None:
        for key in ("iterations", "save_ckpt_interval", "max_images", "eval_interval"):
            _at_least(f"train.{key}", getattr(self, key), 1)
        for key in ("log_image_interval", "keep_last", "seed", "micro_batch"):
            _at_least(f"train.{key}", getattr(self, key), 0)
        _one_of("train.precision", self.precision, ("fp32", "bf16", "auto"))
        _one_of("train.compile", self.compile, ("on", "off", "auto"))
        _one_of("train.loss_weight", self.loss_weight, ("uniform", "min_snr"))
        _positive("train.min_snr_gamma", self.min_snr_gamma)
        _at_least("train.mask_loss_weight", self.mask_loss_weight, 0)
        for key in ("class_drop", "known_share"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"train.{key}: {getattr(self, key)} must be in [0, 1]")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"train.ema_decay: {self.ema_decay} must be in [0, 1)")


@dataclass(frozen=True)
class Config:
    """Everything a training needs, resolved: no key left to derive."""

    diffusion: DiffusionConfig
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig

    def __post_init__(self) -> None:
        batch, micro_batch = self.data.bs_per_gpu, self.train.micro_batch
        if micro_batch and batch % micro_batch:
            raise InputError(f"train.micro_batch: {micro_batch} must divide data.bs_per_gpu, which is {batch}")

    @property
    def layout(self) -> JointLayout:
        names = sorted(self.data.label_map, key=self.data.label_map.get)
        return JointLayout(tuple(names), self.data.background)

    @property
    def rates(self) -> tuple[float, ...] | None:
        """How often a training image is drawn as one that is defect-free (first) or shows type 1, 2, ..., relatively.

        None: images are gone through as they are. That is the default without class_cond; with it, all are drawn
        alike. Types that data.type_rates leaves out have 1.
        """
        given = self.data.type_rates
        if given is None and not self.model.class_cond:
            return None
        rates = dict.fromkeys((GOOD, *self.layout.class_names), 1.0) | dict(given or {})
        if not self.data.include_good:
            rates[GOOD] = 0.0
        return tuple(rates.values())

    def to_dict(self) -> dict:
        """Plain dict in the released YAML layout; load_config gives the same Config back."""
        out: dict[str, Any] = {}
        for section, cls in SECTIONS.items():
            values = {key: _plain(value) for key, value in vars(getattr(self, section)).items()}
            patch = values.pop("patch", None)
            params = {key: values.pop(key) for key in PARAMS[section] if key in values}
            out[section] = {"params": params, **values} if params else values
            if cls is ModelConfig:
                target = next(name for name, is_patch in MODEL_TARGETS.items() if is_patch == patch)
                out[section] = {"target": target, **out[section]}
        out["diffusion"]["target"] = DIFFUSION_TARGETS[0]
        return out


SECTIONS = {
    "diffusion": DiffusionConfig,
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
}
PARAMS = {  # keys that the released layout keeps under `params`
    "diffusion": ("parameterization", "schedule", "num_timestep"),
    "model": tuple(f.name for f in dataclasses.fields(ModelConfig) if f.name not in ("patch", "ckpt")),
    "data": ("dir", "resolution", "num_image_train"),
    "optimizer": ("lr", "weight_decay"),
    "train": (),
}
TARGETS = {"diffusion": DIFFUSION_TARGETS, "model": tuple(MODEL_TARGETS), "optimizer": OPTIMIZER_TARGETS}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(unknown_name(key, value, known))


def _at_least(key: str, value: float, least: float) -> None:
    if value < least:
        raise InputError(f"{key}: {value} must be at least {least}")


def _positive(key: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{key}: {value} must be above 0")
