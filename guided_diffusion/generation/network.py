"""A trained network, loaded to sample."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import blobfile as bf
import torch
from torch import Tensor

from ..config import Config
from ..config_file import load_config
from ..diffusion.respace import Pair
from ..errors import InputError, brief
from ..networks.unet import UNet
from ..training.checkpoint import PACKED, check_agreement, load_checkpoint, load_weights
from .settings import Settings

WEIGHTS = ("ema", "model")
# Pixels at a time: on the CPU more gain nothing, a GPU is busy with these.
LARGEST = {"cpu": 16 * 128 * 128, "cuda": 64 * 256 * 256}


@dataclass(frozen=True)
class Network:
    """One trained network. forward: the model, compiled or not."""

    config: Config
    model: UNet
    path: str
    sha256: str
    forward: Callable[..., Tensor]

    @property
    def kind(self) -> str:
        return "small" if self.config.model.patch else "large"


def load_networks(
    large: str | None, small: str | None, configs: Mapping[str, str | None], *options: Any
) -> list[Network]:
    """load_network of each that is given. One packed folder alone stands for all that it holds. Raises InputError."""
    given = {name: str(path) for name, path in (("large", large), ("small", small)) if path}
    packed = {}
    for folder in given.values():
        files = {name: bf.join(folder, name + PACKED) for name in configs}
        packed[folder] = {name: file for name, file in files.items() if bf.exists(file)}
    found = {name: packed[path].get(name, path) for name, path in given.items()}
    if len(given) == 1:
        found = next(iter(packed.values())) or found
    return [load_network(name, path, configs[name], *options) for name, path in found.items()]


def load_network(
    name: str, path: str, config_path: str | None, num_defect: int | None, separate: bool | None, weights: str
) -> Network:
    """Load a checkpoint to the CPU; arguments as for DefectGen.load, where it is `name`. Raises InputError."""
    checkpoint = load_checkpoint(path, f"`{name}`")
    file, config = checkpoint.path, checkpoint.config
    if weights != "ema" and file.endswith(PACKED):
        raise InputError(f"`weights` {weights}: {file} is packed, which keeps ema only; leave it out")
    if config is None:
        if config_path is None:
            remedy = f"name its YAML file with `{name}_config`"
            raise InputError(f"`{name}` {path}: this checkpoint carries no configuration; {remedy}")
        given = {} if separate is None else {"train.separate_channel_loss": separate}  # released files have no key
        config = load_config(config_path, num_defect, given)
    elif config_path:  # the checkpoint's own counts, which this may not contradict
        own_types = {"data.label_map": dict(config.data.label_map)}
        check_agreement(config, file, load_config(config_path, overrides=own_types), config_path)
    types, logits = config.layout.class_names, config.train.separate_channel_loss
    if num_defect not in (None, len(types)):
        said = f"{len(types)} types ({', '.join(types)})"
        raise InputError(f"`num_defect` {num_defect}: {file} was trained with {said}; leave it out")
    if separate not in (None, logits):
        given = f"`separate_channel_loss` {int(separate)}"
        raise InputError(f"{given}: {file} was trained with {int(logits)}; leave it out")
    kind, other = ("patch-level", "small") if config.model.patch else ("global", "large")
    if name != other:
        raise InputError(f"`{name}` {path}: this is a {kind} network, which belongs to `{other}`")
    with torch.device("meta"):
        model = UNet(config.model)
    model.to_empty(device="cpu")
    load_weights(model, getattr(checkpoint, weights), file)
    model.eval().requires_grad_(False)
    return Network(config, model, file, checkpoint.sha256, forward=model)


def possible_hand_offs(networks: Sequence[Network], T: int) -> range:
    """The `step_inference` at which none of the networks is given a timestep outside its train.t_range."""
    large, small = ([one.config.train.t_range for one in networks if one.kind == kind] for kind in ("large", "small"))
    first = max((first if end == T else T for first, end in large), default=T)
    return range(first, 1 + min((0 if first else end for first, end in small), default=0))


def check_trained(network: Network, plan: Sequence[Pair], settings: Settings, possible: range) -> None:
    """Raise InputError where it was not trained at a timestep of its plan. possible: see possible_hand_offs."""
    (first, end), last = network.config.train.t_range, plan[-1][0]
    if network.kind == "large" and settings.handoff == "paper":
        last = settings.step_inference  # whether or not a step lands there
    if last < first or plan[0][0] >= end:
        remedy = f"give from {possible[0]} to {possible[-1]}" if possible else "no other will do"
        remedy += ", with `handoff` paper" if settings.handoff == "released" else ""
        fault = f"the {network.kind} network, {network.path}, was trained at timesteps {first} to {end - 1} only"
        raise InputError(f"`step_inference` {settings.step_inference}: {fault}; {remedy}")


def most_at_once(size: Sequence[int], each: int, device: torch.device) -> int:
    """How many images of (height, width), each of so many bytes, a device is given at a time: on a GPU at most a third
    of its memory, beside what CUDA graphs keep, and halved where it is not free; the CPU's is everybody's."""
    images = 16 if device.type == "cpu" else torch.cuda.mem_get_info(device)[1] // 3 // each
    return max(1, min(images, LARGEST[device.type] // prod(size)))


def choose_batch_size(asked: int | str, count: int, largest: int) -> int:
    """The number that is asked for, from 1; "auto": that of the fewest batches of at most `largest`, all of about one
    size, for `count` images. Raises InputError."""
    if asked != "auto":
        if not str(asked).isdecimal() or not 1 <= len(str(asked).lstrip("0")) <= 6:
            raise InputError(f"`batch_size` {brief(asked)}: must be auto, or a number of images from 1 to 999,999")
        return int(asked)
    return max(1, ceil(count / max(1, ceil(count / largest))))
