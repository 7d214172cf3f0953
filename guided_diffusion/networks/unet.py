"""The one UNet class. Its options give both networks of the method.

- *global*: guided-diffusion's UNet (Dhariwal & Nichol 2021): attention at the given downsample factors, a
  middle block, scale-shift norm. It sees the whole image and lays the object out.
- *patch*: the patch-level network of SinDiffusion (Wang et al. 2022): few levels, no attention, no middle
  block, and the first output block takes no skip. It sees a patch and invents local detail.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..config import Config, ModelConfig
from ..data.augment import AUGMENTATIONS
from ..errors import InputError
from .nn import AttentionBlock, ResBlock, downsample, timestep_embedding, upsample, zero_init
from .norm import group_norm


class Stage(nn.Sequential):
    """A chain of layers in which the ResBlocks also receive the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """Predicts, from x_t and t, an image of the same shape (x_start or eps, RGB and mask channels alike)."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.activation_checkpointing = False  # keep only the stages' outputs for the backward pass
        width, levels = config.model_channels, len(config.channel_mult)
        emb_channels, groups = 4 * width, config.norm_groups
        attention = set() if config.patch else set(config.attention_downsample)

        def res_block(c_in: int, c_out: int) -> ResBlock:
            return ResBlock(c_in, emb_channels, c_out, config.dropout, config.use_scale_shift_norm, groups)

        def attention_block(channels: int) -> AttentionBlock:
            return AttentionBlock(channels, config.heads(channels), groups)

        self.time_embed = nn.Sequential(
            nn.Linear(width, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        if config.class_cond:  # row 0: not told; row k: type k. Zeros: at the start as if it were told nothing
            self.label_emb = zero_init(nn.Embedding(1 + config.num_defect, emb_channels))

        if config.augment:
            self.augment_emb = zero_init(nn.Linear(AUGMENTATIONS, emb_channels, bias=False))

        channels = width * config.channel_mult[0]
        self.input_blocks = nn.ModuleList([Stage(nn.Conv2d(config.in_channels, channels, 3, padding=1))])
        skips = [channels]
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers = [res_block(channels, width * mult)]
                channels = width * mult
                if 2**level in attention:
                    layers.append(attention_block(channels))
                self.input_blocks.append(Stage(*layers))
                skips.append(channels)
            if level < levels - 1:
                self.input_blocks.append(Stage(downsample(channels)))
                skips.append(channels)

        if config.patch:
            skips[-1] = 0  # the first output block takes the last input block's output, and no skip
        else:
            self.middle_block = Stage(
                res_block(channels, channels), attention_block(channels), res_block(channels, channels)
            )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                layers = [res_block(channels + skips.pop(), width * mult)]
                channels = width * mult
                if 2**level in attention:
                    layers.append(attention_block(channels))
                if level > 0 and i == config.num_res_blocks:
                    layers.append(upsample(channels))
                self.output_blocks.append(Stage(*layers))

        self.out = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), zero_init(nn.Conv2d(channels, config.out_channels, 3, padding=1))
        )

    def forward(self, x: Tensor, t: Tensor, types: Tensor | None = None, augmented: Tensor | None = None) -> Tensor:
        """x: [N, C, H, W]; t: [N] timesteps. Returns [N, C, H, W] in float32.

        types: with class_cond, float [N, 1 + num_defect] as of JointLayout.types_in; None: not told. augmented: with
        `augment`, float [N, AUGMENTATIONS] of data.augment; None: zeros, images as they are (Karras et al. 2022, F.2).
        """
        check_size(self.config, x.shape[-2:])
        emb = self.time_embed(timestep_embedding(t, self.config.model_channels))  # [N, 4 width]
        if self.config.class_cond:
            rows = self.label_emb.weight
            emb = emb + (rows[0] if types is None else types @ rows).to(emb.dtype)
        if augmented is not None:
            emb = emb + self.augment_emb(augmented)
        skips, h = [], x
        for stage in self.input_blocks:
            h = self._run(stage, h, emb)
            skips.append(h)
        if self.config.patch:
            skips[-1] = None
        else:
            h = self._run(self.middle_block, h, emb)
        for stage in self.output_blocks:
            skip = skips.pop()
            h = self._run(stage, h if skip is None else torch.cat([h, skip], dim=1), emb)
        norm, _, conv = self.out
        return conv(group_norm(norm, h, silu=True)).float()

    def _run(self, stage: Stage, h: Tensor, emb: Tensor) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, h, emb, use_reentrant=False)  # this kind works under autocast
        return stage(h, emb)


def create_model(config: Config) -> UNet:
    """The network that a configuration describes, with fresh weights, on the CPU."""
    return UNet(config.model)


def noise_batch(config: Config, batch: int, size: Sequence[int], device: torch.device) -> tuple[Tensor, ...]:
    """To compile a network with: x float32 [batch, C, *size], t int64 [batch] and, with class_cond, the types."""
    x = torch.randn(batch, config.model.in_channels, *size, device=device).to(memory_format=torch.channels_last)
    types = [torch.zeros(batch, 1 + config.model.num_defect, device=device)] * config.model.class_cond
    return x, torch.zeros(batch, dtype=torch.int64, device=device), *types


def check_size(config: ModelConfig, size: tuple[int, int], remedy: str = "change data.params.resolution") -> None:
    """Raise InputError unless the levels divide `size` = (height, width)."""
    multiple = config.size_multiple
    if any(side < 1 or side % multiple for side in size):
        needs = f"{len(config.channel_mult)} levels needs height and width to be multiples of {multiple}"
        raise InputError(f"image size {size[0]} x {size[1]}: a network of {needs}; {remedy}")
