"""More defect types for a trained network: its first and last convolution grow by a channel for each, at the end.

At the start the grown network predicts for RGB, background and the old types what the old one does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Config
from ..errors import InputError
from ..joint_tensor import MASK
from .checkpoint import Checkpoint, same_network

# The first convolution's parameter and the last one's, in state dicts of a UNet.
FIRST, LAST, LAST_BIAS = "input_blocks.0.0.weight", "out.2.weight", "out.2.bias"
LABELS = "label_emb.weight"  # with class_cond
# With separate losses, the probability of a new type at the start, as a share of the background's.
RARE = 0.01


def extend_types(checkpoint: Checkpoint, config: Config, config_name: str) -> Checkpoint:
    """A checkpoint's weights, model and EMA, as those of the network with more types of `config`, at step 0.

    A released checkpoint, which names no types, is taken to know the first ones of config's. Raises InputError where
    config does not number the old types as the checkpoint does and new ones after them, or differs in more than types.
    """
    flag, names = f"--extend_types {checkpoint.path}", config.layout.class_names
    if checkpoint.config is not None:
        old = checkpoint.config.layout.class_names
        same_types = replace(config.data, label_map=checkpoint.config.data.label_map)
        same_network(checkpoint, replace(config, data=same_types), config_name)
    else:
        others = config.layout.num_channels - len(names)
        old = names[: max(0, checkpoint.model.get(FIRST, torch.empty(0, 0)).shape[1] - others)]
    if old != names[: len(old)]:
        wanted = [*old, *(name for name in names if name not in old)]
        raise InputError(
            f"{flag}: its label map is {_label_map(old)}, that of {config_name} and its data {_label_map(names)}; "
            f"keep the old numbers and append new types, in the masks too: {_label_map(wanted)}"
        )
    if old == names:
        raise InputError(
            f"{flag}: no new type, its label map is that of {config_name} and its data, {_label_map(names)}; add the "
            "new types to data.label_map or dataset.json; to start from the weights alone use model.ckpt, to go on "
            "--resume"
        )
    try:
        model, ema = (_grown(state, len(names) - len(old), config) for state in (checkpoint.model, checkpoint.ema))
    except KeyError as error:
        raise InputError(f"{flag}: not a network of this program, it has no parameter {error}") from None
    return replace(checkpoint, model=model, ema=ema, optimizer=None, step=0, config=config, log_window=None)


def with_class_cond(checkpoint: Checkpoint, config: Config) -> Checkpoint:
    """A checkpoint to start a network with class_cond from: one without it gets rows of zeros for the types.

    At the start it predicts what it did, whatever it is told.
    """
    if not config.model.class_cond or LABELS in checkpoint.model:
        return checkpoint
    rows = torch.zeros(1 + config.model.num_defect, 4 * config.model.model_channels)
    return replace(checkpoint, model={**checkpoint.model, LABELS: rows}, ema={**checkpoint.ema, LABELS: rows})


def _grown(state: Mapping[str, Tensor], added: int, config: Config) -> dict[str, Tensor]:
    """A state dict with `added` more channels; all that is there stays as it is.

    New inputs have zero weights, so no prediction depends on them yet. New outputs are 0; or, where masks are
    logits, the background's logit + log(RARE): rare wherever the old network sees background, however its
    logits are shifted, and with a gradient everywhere.
    """
    first, weight, bias = state[FIRST], state[LAST], state[LAST_BIAS]
    new_weight, new_bias = torch.zeros_like(weight[:1]), torch.zeros_like(bias[:1])
    if config.train.separate_channel_loss:
        if config.layout.background:  # the first mask channel; without it its logit is 0
            new_weight, new_bias = weight[MASK][:1], bias[MASK][:1]
        new_bias = new_bias + math.log(RARE)
    grown = {
        FIRST: F.pad(first, (0, 0, 0, 0, 0, added)),
        LAST: torch.cat([weight, *[new_weight] * added]),
        LAST_BIAS: torch.cat([bias, *[new_bias] * added]),
    }
    if LABELS in state:
        grown[LABELS] = F.pad(state[LABELS], (0, 0, 0, added))
    return {**state, **grown}


def _label_map(names: Sequence[str]) -> str:
    return "{" + ", ".join(f"{name}: {k}" for k, name in enumerate(names, start=1)) + "}"
