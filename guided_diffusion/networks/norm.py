"""Group normalisation with what surrounds it: y = act(norm(x + added) * (1 + scale) + shift), in the dtype of x.

Statistics and sums are float32, but no tensor of the image's size is (save on a GPU without Triton): under autocast the
usual layer casts its input to float32 and its output back.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

fused_group_norm = None
if torch.backends.cuda.is_built():
    try:
        from .norm_kernels import fused_group_norm
    except ImportError:  # no Triton
        pass

ROWS = 64  # pixels added up in the tensor's own dtype before float32 takes over


def group_norm(
    norm: nn.GroupNorm, x: Tensor, emb: Tensor | None = None, added: Tensor | None = None, silu: bool = False
) -> Tensor:
    """x: [N, C, H, W]; emb: [N, 2C], scale and shift ("adaptive group normalisation", Dhariwal & Nichol 2021), or None;
    added: [N, C] or None; silu: whether SiLU follows. Returns x's dtype and, on a GPU, channels_last, else x's format.
    """
    weight, bias, groups, eps = norm.weight, norm.bias, norm.num_groups, norm.eps  # [C], [C]
    if fused_group_norm and x.is_cuda and x.dtype != torch.float64:
        return fused_group_norm(x, weight, bias, added, emb, groups, eps, silu)
    if added is not None:
        x = x + added[..., None, None].to(x.dtype)
    if emb is not None:  # one multiplication and one addition for each pixel instead of two
        scale, shift = emb.float().chunk(2, dim=1)
        weight, bias = weight * (1 + scale), bias * (1 + scale) + shift  # [N, C]
    if torch.compiler.is_compiling():
        # The formula, of which the CPU's compiler makes two passes in any memory format.
        values = x.unflatten(1, (groups, -1)).float()  # [N, G, C/G, H, W]
        var, mean = torch.var_mean(values, dim=(2, 3, 4), correction=0, keepdim=True)
        y = ((values - mean) * torch.rsqrt(var + eps)).flatten(1, 2)
        y = y * weight[..., None, None] + bias[..., None, None]
    elif not x.is_cuda and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        y = _ChannelsLastGroupNorm.apply(x, weight, bias, groups, eps)
    else:
        wide = x.float() if x.is_cuda and x.dtype != torch.float64 else x
        y = _native(wide, weight.to(wide.dtype), bias.to(wide.dtype), groups, eps)[0]
    y = y.to(x.dtype)
    return F.silu(y, inplace=not torch.is_grad_enabled()) if silu else y


def _native(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """y, and mean and 1 / standard deviation [N, groups], by PyTorch's kernel, which autocast leaves alone.

    On a GPU it keeps these two in x's dtype: it must not be bfloat16."""
    n, c, height, width = x.shape
    if x.is_cuda or not x.is_contiguous(memory_format=torch.channels_last):
        x = x.contiguous()  # the only format that the others take
    affine = (weight, bias) if weight.ndim == 1 else (None, None)
    y, mean, rstd = torch.native_group_norm(x, *affine, n, c, height * width, groups, eps)
    if weight.ndim == 2:
        y = torch.addcmul(bias.to(x.dtype)[..., None, None], y, weight.to(x.dtype)[..., None, None])
    return y, mean, rstd


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """x: [N, C, H, W] in channels_last, on the CPU; weight and bias: float [C] or [N, C].

    PyTorch's own backward pass is some 20 times slower in this format."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        y, mean, rstd = _native(x, weight, bias, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        (n, c, height, width), groups = x.shape, mean.shape[1]
        x, dy = (v.permute(0, 2, 3, 1).flatten(1, 2) for v in (x, dy))  # [N, HW, C]: views where channels_last
        by_group = (n, groups, c // groups)
        mean, rstd = mean.float()[..., None], rstd.float()[..., None]  # [N, G, 1]
        gain = weight.float().expand(n, c).view(by_group)

        sum_dy, sum_dy_x = _sum_pixels(dy).view(by_group), _sum_pixels(dy * x).view(by_group)
        d_weight = (sum_dy_x - mean * sum_dy) * rstd  # sum of dy * normalised x
        # dx = gain rstd dy - rstd (mean over the group of gain dy + normalised x * mean of gain dy * normalised x)
        count = height * width * (c // groups)
        along_x = -(rstd**2) * (gain * d_weight).sum(-1, keepdim=True) / count
        constant = -mean * along_x - rstd * (gain * sum_dy).sum(-1, keepdim=True) / count
        a, b, k = (v.expand(by_group).reshape(n, 1, c).to(x.dtype) for v in (gain * rstd, along_x, constant))
        dx = torch.addcmul(torch.addcmul(k, x, b), dy, a)

        d_weight, d_bias = d_weight.view(n, c), sum_dy.view(n, c)
        if weight.ndim == 1:
            d_weight, d_bias = d_weight.sum(0), d_bias.sum(0)
        return dx.view(n, height, width, c).permute(0, 3, 1, 2), d_weight, d_bias, None, None


def _sum_pixels(x: Tensor) -> Tensor:
    """[N, HW, C] -> float32 [N, C] (float64 stays). Adding few pixels at a time keeps bf16's rounding small."""
    n, pixels, c = x.shape
    rows = ROWS if pixels % ROWS == 0 else 1
    total = x.view(n, pixels // rows, rows, c).sum(2)
    return total.sum(1, dtype=torch.promote_types(x.dtype, torch.float32))
