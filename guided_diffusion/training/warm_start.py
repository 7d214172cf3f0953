"""A warm start: a new training takes what fits of any network, and matches mask channels by the names of types.

Where all else fits, RGB and the types that both know are predicted at the start as the old network predicts them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..config import Config
from ..errors import InputError
from ..joint_tensor import JointLayout
from ..keyed_random import key_to_seed
from ..networks.unet import create_model
from .checkpoint import ARCHITECTURE, Checkpoint, check_agreement, differences

# Parameters with a slice for each channel of the joint tensor; and the one with a row for each type (class_cond).
FIRST, LAST, LAST_BIAS, LABELS = "input_blocks.0.0.weight", "out.2.weight", "out.2.bias", "label_emb.weight"
# With separate losses, the probability of a new type at the start, as a share of the background's.
RARE = 0.01
Channels = Sequence[str | int | None]  # what each carries: a type; a number for RGB or no name; None for background


def warm_start(checkpoint: Checkpoint, config: Config, config_name: str, flag: str) -> tuple[Checkpoint, str]:
    """Weights, model and EMA, to train the network of `config` from, at step 0; and a line that tells what is new.

    A released checkpoint, which names no types, is taken to know config's first ones. flag: for errors. Raises
    InputError where its outputs mean other things, or less than half of the network could be taken."""
    name, theirs, new = f"{flag} {checkpoint.path}", checkpoint.config, _channels(config.layout)
    if theirs:
        check_agreement(theirs, name, replace(config, data=theirs.data), config_name, ("train.separate_channel_loss",))
        old = _channels(theirs.layout)
    else:
        count = max([3, *checkpoint.model.get(FIRST, torch.empty(0)).shape[1:2]])
        old = [*new, *range(3, count)][:count]
    torch.manual_seed(key_to_seed("init", config.train.seed))
    fresh, logits = create_model(config).state_dict(), config.train.separate_channel_loss
    model, ema = (_fitting(state, fresh, old, new, logits) for state in (checkpoint.model, checkpoint.ema))
    taken, total = (sum(value.numel() for value in state.values()) for state in (model, fresh))
    told = f"{taken:,} of {total:,} parameters fit"
    if 2 * taken < total:
        key = next(key for key in fresh if key not in model)
        shapes = (str(list(state[key].shape)) if key in state else "none" for state in (checkpoint.model, fresh))
        unlike = f"{key}: {' against '.join(shapes)}"
        unlike = next(differences(theirs, config, ARCHITECTURE), unlike) if theirs else unlike
        raise InputError(f"{name}: {told} {config_name} ({unlike}); use its configuration, or another checkpoint")
    for what, some, others in (("new types", new, old), ("left out", old, new)):
        if types := [key for key in some if isinstance(key, str) and key not in others]:
            told += f"; {what}: {', '.join(types)}"
    start = replace(checkpoint, model=fresh | model, ema=fresh | ema, optimizer=None, step=0, log_window=None)
    return start, f"starting from {checkpoint.path}, step 0; {told}"


def _channels(layout: JointLayout) -> Channels:
    return [0, 1, 2, *[None] * layout.background, *layout.class_names]


def _fitting(
    state: Mapping[str, Tensor], fresh: Mapping[str, Tensor], old: Channels, new: Channels, logits: bool
) -> dict[str, Tensor]:
    """What of a state dict fits a fresh one, with the new network's channels.

    New inputs have zero weights, so no prediction depends on them yet. New outputs are 0; or, where masks are logits,
    the background's logit + log(RARE): rare wherever the old network sees background, however its logits are shifted,
    and with a gradient everywhere. There a background channel that comes or goes leaves the probabilities as they are.
    """
    rows = ([None, *(key for key in channels[3:] if key is not None)] for channels in (old, new))
    matched = {FIRST: (1, old, new), LAST: (0, old, new), LAST_BIAS: (0, old, new), LABELS: (0, *rows)}
    result = {}
    for name, value in fresh.items():
        dim, known, wanted = matched.get(name, (0, value, ()))
        part = state.get(name, torch.empty(0))
        if part.shape != (*value.shape[:dim], len(known), *value.shape[dim + 1 :]):
            continue
        if wanted:
            slices, spare = dict(zip(known, part.unbind(dim), strict=True)), torch.zeros_like(part.select(dim, 0))
            if masks := logits and name in (LAST, LAST_BIAS):
                slices.setdefault(None, spare)  # without a background channel its logit is 0
                spare = slices[None] + (math.log(RARE) if name == LAST_BIAS else 0)
            part = torch.stack([slices.get(key, spare) for key in wanted], dim)
            if masks and None not in wanted:
                part[3:] -= slices[None]
        result[name] = part
    return result
