"""Building blocks of the UNet. Parameter names and shapes are those of the released checkpoints."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import group_norm


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sinusoidal embedding of timesteps (Vaswani et al. 2017, eq. of section 3.5; cosines first).

    t: [N] integer or float. Returns float32 [N, dim]; dim must be even."""
    half = dim // 2
    freqs = torch.exp(-math.log(max_period) / half * torch.arange(half, dtype=torch.float32, device=t.device))
    angles = t.float()[:, None] * freqs  # [N, half]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # [N, dim]


def zero_init(module: nn.Module) -> nn.Module:
    """Set a layer's parameters to zero, so that its residual branch starts as the identity."""
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def downsample(channels: int) -> nn.Module:
    """Halve height and width with a strided 3x3 convolution."""
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, channels, 3, stride=2, padding=1)))


class _Upsample(nn.Upsample):
    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        # The same, for compilers: torch 2.13's for the CPU loses the other's gradient where it fuses it in bf16.
        n, c, height, width = x.shape
        return x[:, :, :, None, :, None].expand(n, c, height, 2, width, 2).reshape(n, c, 2 * height, 2 * width)


def upsample(channels: int) -> nn.Module:
    """Double height and width: nearest neighbour, then a 3x3 convolution."""
    return nn.Sequential(OrderedDict(up=_Upsample(scale_factor=2), conv=nn.Conv2d(channels, channels, 3, padding=1)))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with a skip; the time embedding enters between them.

    With scale_shift the embedding modulates the second norm, else it is added before it
    (Dhariwal & Nichol 2021, "adaptive group normalisation")."""

    def __init__(
        self, channels: int, emb_channels: int, out_channels: int, dropout: float, scale_shift: bool, groups: int
    ):
        super().__init__()
        self.scale_shift = scale_shift
        self.in_layers = nn.Sequential(
            nn.GroupNorm(groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * out_channels if scale_shift else out_channels)
        )
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            zero_init(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = self.in_layers
        h = conv(group_norm(norm, x, silu=True))  # [N, C_out, H, W]
        emb = self.emb_layers(emb)  # [N, C_out or 2 C_out]
        norm, _, dropout, conv = self.out_layers
        h = group_norm(norm, h, silu=True, **({"emb": emb} if self.scale_shift else {"added": emb}))
        return self.skip_connection(x) + conv(dropout(h))  # [N, C_out, H, W]


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, with a residual connection.

    qkv holds, head after head, that head's q, k and v (the older guided-diffusion order)."""

    def __init__(self, channels: int, num_heads: int, groups: int):
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.GroupNorm(groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zero_init(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        n, c, height, width = x.shape
        h = self.qkv(group_norm(self.norm, x).reshape(n, c, -1))  # [N, 3C, HW]
        h = h.reshape(n, self.num_heads, 3, c // self.num_heads, -1).transpose(-1, -2)
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            h = h.contiguous()  # as the fused kernels want it; on the CPU their backward pass is slow
        q, k, v = h.unbind(2)  # each [N, heads, HW, C/heads]
        h = F.scaled_dot_product_attention(q, k, v)
        h = self.proj_out(h.transpose(-1, -2).reshape(n, c, -1))  # [N, C, HW]
        return x + h.reshape(n, c, height, width)
