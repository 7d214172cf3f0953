"""The configuration: every option once, with its default, bounds and meaning. config_file.py reads it from YAML."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import GOOD
from .errors import InputError, brief, unknown_name

if TYPE_CHECKING:
    from .joint_tensor import JointLayout

SCHEDULES = ("cosine", "linear", "sqrt_linear", "sqrt", "inverse_proportion")
LOGGERS = ("tensorboard", "csv", "wandb", "mlflow")

# `target` strings of released files. They are looked up here and never imported.
COLD, ADAMW = "diffusion.base_diffusion.ColdDiffusion", "torch.optim.AdamW"
MUON = "Muon"  # ours: training/muon.py
GLOBAL, PATCH = "models.unet.openaiunet.UNetModel", "models.unet.unet_receptive.UNetModel"


def option(default: Any, meaning: str, bounds: str = "", choices: tuple[str, ...] = ()) -> Any:
    """A field of a section. bounds: an interval such as "[1, 4096]" or "[0, 1)"; None is always allowed in it."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, "bounds": bounds, "choices": choices})


class Section:
    """A section of the YAML file. Its fields are checked when it is made. Raises InputError."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            key = f"{type(self).__name__.removesuffix('Config').lower()}.{field.name}"
            value, bounds, choices = getattr(self, field.name), field.metadata["bounds"], field.metadata["choices"]
            if choices and (wrong := set(value if isinstance(value, tuple) else [value]) - set(choices)):
                raise InputError(unknown_name(key, min(wrong), choices))
            if not bounds or value is None:
                continue
            low, high = (float(end) for end in bounds[1:-1].split(","))
            if not (low < value < high or (bounds[0] == "[" and value == low) or (bounds[-1] == "]" and value == high)):
                raise InputError(f"{key}: {brief(value)} must be in {bounds}")


@dataclass(frozen=True)
class DiffusionConfig(Section):
    target: str = option(COLD, "as released files have it", "", (COLD,))
    parameterization: str = option("x0", "what the network predicts; separate losses need x0", "", ("x0", "eps"))
    schedule: str = option("cosine", "noise schedule", "", SCHEDULES)
    num_timestep: int = option(1000, "T, the number of noise levels", "[2, 100000]")


@dataclass(frozen=True)
class ModelConfig(Section):
    """One UNet. Channel counts of 0 and scale-shift None mean "derive" and are filled in by load_config."""

    target: str = option(GLOBAL, "which of the two networks, global or patch-level", "", (GLOBAL, PATCH))
    image_size: int = option(256, "pixels; stands in for data.resolution where that is missing", "[1, 65536]")
    in_channels: int = option(0, "3 + background + number of types; derived", "[0, 259]")
    out_channels: int = option(0, "the same; derived", "[0, 259]")
    model_channels: int = option(128, "width, a multiple of norm_groups; time grows with its square", "[1, 4096]")
    num_res_blocks: int = option(2, "residual blocks per level", "[1, 16]")
    channel_mult: tuple[int, ...] = option((1, 1, 2, 2, 4, 4), "width factor of each level")
    attention_downsample: tuple[int, ...] = option((), "downsampling factors whose levels get attention (global only)")
    attention_resolutions: int | tuple[int, ...] | None = option(None, "accepted for released files; without effect")
    num_head_channels: int = option(-1, "channels per attention head; -1: use num_heads", "[-1, 65536]")
    num_heads: int = option(1, "attention heads, where num_head_channels is -1", "[1, 65536]")
    norm_groups: int = option(32, "groups of every GroupNorm; 8 suits a width of 32", "[1, 4096]")
    dropout: float = option(0.0, "share of activations dropped in training", "[0, 1)")
    use_scale_shift_norm: bool | None = option(
        None, "time embedding scales and shifts, else is added; derived: true for the global network"
    )
    class_cond: bool = option(False, "condition the network on the types (--defects)")
    num_defect: int = option(0, "number of types, with class_cond; derived", "[0, 255]")
    augment: float = option(0.0, "share of images for each augmentation, which the network knows", "[0, 1]")
    ckpt: str | None = option(None, "checkpoint or work_dir that training starts from, as by --init")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_scale_shift_norm is None:
            object.__setattr__(self, "use_scale_shift_norm", not self.patch)
        if not 1 <= len(self.channel_mult) <= 10 or not all(1 <= mult <= 64 for mult in self.channel_mult):
            raise InputError(f"model.channel_mult: {brief(list(self.channel_mult))} should be 1 to 10 numbers, 1 to 64")
        width, groups = self.model_channels, self.norm_groups
        if width % groups:
            near = max(1, round(width / groups)) * groups
            raise InputError(f"model.model_channels: width {width} must be a multiple of {groups} groups; try {near}")
        factors = [2**level for level in range(len(self.channel_mult))]
        for factor in () if self.patch else self.attention_downsample:
            if factor not in factors:
                raise InputError(f"model.attention_downsample: factor {factor} is none of this network's {factors}")
        for mult in self.channel_mult:
            self.heads(self.model_channels * mult)

    @property
    def patch(self) -> bool:
        """Is it the patch-level network?"""
        return self.target == PATCH

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
class DataConfig(Section):
    dir: str | None = option(None, "training set: a prepared set")
    resolution: int | tuple[int, ...] = option((), "pixels, one number or [height, width]; derived: model.image_size")
    num_image_train: int | None = option(None, "take the first so many images of each type; none: all", "[1, 1e9]")
    include_good: bool = option(False, "let the set's defect-free images join the training")
    type_rates: Mapping[str, float] | None = option(
        None, "rate of each type, or good: {crack: 2, good: 1}; derived: with class_cond all equal"
    )
    bs_per_gpu: int = option(2, "images per process and step", "[1, 65536]")
    num_workers: int = option(0, "accepted for released files; without effect, the set is held in memory")
    label_map: Mapping[str, int] | None = option(None, "type name: index 1..N in the masks; derived: dataset.json")
    background: bool | None = option(None, "a background channel in the joint tensor? derived: yes")
    fit: str = option("resize", "stretch to resolution, or cut windows of that size", "", ("resize", "random_crop"))
    crop_from: int | tuple[int, ...] = option((), "pixels that images are stretched to before windows are cut")
    crop_defect: float = option(0.0, "share of the windows placed on a defect", "[0, 1]")
    scale: tuple[float, ...] = option((), "photograph pixels per training pixel, vertical and horizontal; derived")
    types_seen: tuple[str | tuple[str, ...], ...] = option(
        (), "type combinations of the training images, with model.class_cond; derived"
    )
    flip: str = option("none", "random mirroring", "", ("none", "horizontal", "vertical", "both"))
    val_dir: str | None = option(None, "held-out images for the validation loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("resolution", "crop_from"):
            value = getattr(self, key)
            size = (value,) * 2 if isinstance(value, int) else value
            if len(size) not in (0, 2) or not all(1 <= side <= 2**16 for side in size):
                raise InputError(f"data.{key}: {brief(list(size))} must be one number or [height, width], to 65536")
            object.__setattr__(self, key, tuple(size))
        if len(self.scale) not in (0, 2) or not all(1e-3 <= factor <= 1e3 for factor in self.scale):
            raise InputError(f"data.scale: {brief(list(self.scale))} must be two numbers from 0.001 to 1000")
        for key in ("crop_from", "crop_defect"):
            if getattr(self, key) and self.fit != "random_crop":
                raise InputError(f"data.{key}: only with data.fit random_crop; set that, or remove {key}")
        if not all(0 <= rate <= 1e6 for rate in (self.type_rates or {}).values()):
            raise InputError("data.type_rates: must be from 0 to 1e6")
        if self.label_map is not None:
            indices = sorted(self.label_map.values())
            if indices != list(range(1, len(indices) + 1)):
                raise InputError(f"data.label_map: indices {brief(indices)} must be 1..{len(indices)}, each once")


@dataclass(frozen=True)
class OptimizerConfig(Section):
    target: str = option(ADAMW, "Muon: as good in half the time on small sets", "", (ADAMW, MUON))
    lr: float = option(1e-4, "learning rate", "(0, 100]")
    weight_decay: float = option(0.002, "decoupled, as AdamW's", "[0, 100]")
    warmup: int = option(0, "steps over which the learning rate rises from 0", "[0, 1e9]")
    cosine_decay: bool = option(False, "let the learning rate fall to 0 at the last step")
    grad_clip: float | None = option(None, "largest gradient norm; none: off", "(0, 1e9]")


@dataclass(frozen=True)
class TrainConfig(Section):
    iterations: int = option(160_000, "steps in all", "[1, 1e9]")
    log_image_interval: int = option(10_000, "steps between previews, the first after a minute; 0: none", "[0, 1e9]")
    save_ckpt_interval: int = option(10_000, "steps between checkpoints", "[1, 1e9]")
    max_images: int = option(8, "images in a preview", "[1, 256]")
    eval_interval: int = option(10, "steps between log lines; with data.val_dir each costs a validation", "[1, 1e9]")
    loggers: tuple[str, ...] = option(("tensorboard", "csv"), "where losses go; csv draws loss.png too", "", LOGGERS)
    keep_last: int = option(0, "checkpoints kept on disk; 0: all", "[0, 1e9]")
    seed: int = option(0, "of weights, order of images, flips, timesteps and noise", "[0, 1e18]")
    precision: str = option("auto", "auto: bf16 where hardware has it, else fp32", "", ("fp32", "tf32", "bf16", "auto"))
    compile: str = option("off", "torch.compile: faster steps on a GPU after minutes of compiling", "", ("on", "off"))
    micro_batch: int = option(0, "images at a time, a divisor of data.bs_per_gpu: less memory; 0: all", "[0, 65536]")
    activation_checkpointing: bool = option(False, "recompute activations: less memory, slower")
    ema_decay: float = option(0.9999, "at step k: min(ema_decay, (1 + k) / (10 + k))", "[0, 1)")
    t_range: tuple[int, ...] = option((), "[first, end]: train timesteps first to end - 1; derived: all")
    loss_weight: str = option("uniform", "loss weight by timestep", "", ("uniform", "min_snr"))
    min_snr_gamma: float = option(5.0, "cap of the signal-to-noise weight under min_snr", "(0, 1e9]")
    separate_channel_loss: bool = option(False, "RGB by squared error, masks by cross-entropy; x0 only")
    mask_loss_weight: float = option(0.2, "weight of the cross-entropy, with separate losses", "[0, 1e6]")
    class_drop: float = option(0.1, "share of images without the type condition, with model.class_cond", "[0, 1]")
    known_share: float = option(0.0, "share of images whose mask or photograph is given without noise", "[0, 1]")


@dataclass(frozen=True)
class Config:
    """Everything a training needs, resolved: no key left to derive."""

    diffusion: DiffusionConfig
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig

    @property
    def layout(self) -> "JointLayout":
        from .joint_tensor import JointLayout  # torch, which processes that only read data do without

        names = sorted(self.data.label_map, key=self.data.label_map.get)
        return JointLayout(tuple(names), self.data.background)

    @property
    def rates(self) -> tuple[float, ...] | None:
        """How often a training image is drawn as one that is defect-free (first) or shows type 1, 2, ..., relatively;
        None: images are gone through as they are, the default without class_cond."""
        if self.data.type_rates is None and not self.model.class_cond:
            return None
        given, good = self.data.type_rates or {}, float(self.data.include_good)
        return (good * given.get(GOOD, 1.0), *(given.get(name, 1.0) for name in self.layout.class_names))

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """{section: {key: value}} of plain values; load_config gives the same Config back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))  # tuples become lists


SECTIONS: dict[str, type[Section]] = typing.get_type_hints(Config)
KEYS = [f"{section}.{field.name}" for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)]


def describe_keys() -> Iterator[str]:
    """A line for each YAML key: its default, bounds or choices, and meaning."""
    for section, cls in SECTIONS.items():
        for field in dataclasses.fields(cls):
            allowed = "|".join(field.metadata["choices"]) or field.metadata["bounds"]
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = f"default {'none' if default in (None, []) else default}"
            shown = "required" if (section, field.name) == ("model", "target") else shown
            about = ", ".join(filter(None, (shown, allowed)))
            yield f"{section}.{field.name}: {field.metadata['meaning']} ({about})"
