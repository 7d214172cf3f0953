"""The hand-off: the large network lays out the object, then the small one invents local detail."""

from collections.abc import Callable, Iterable

from torch import Tensor

from ..errors import InputError
from ..joint_tensor import clip, clip_released
from .conditioning import Known
from .gaussian_diffusion import GaussianDiffusion
from .respace import NumSteps, Pair, log_snr, make_plan, released_plans, split_plan
from .samplers import SAMPLERS, PredictX0

HANDOFFS = ("paper", "released")


def two_stage_plans(
    diffusion: GaussianDiffusion, step_inference: int, num_steps: NumSteps, spacing: str, handoff: str
) -> tuple[list[Pair], list[Pair]]:
    """(large, small) plans. "paper": x_(step_inference - 1) crosses, at its own noise level. "released": the
    released script's restart, full steps only (num_steps and spacing are not looked at). Raises InputError."""
    T = diffusion.num_timestep
    if not 0 <= step_inference <= T:
        raise InputError(f"`step_inference` {step_inference}: must be from 0 (large network only) to {T} (small only)")
    if handoff == "released":
        return released_plans(T, step_inference)
    levels = log_snr(diffusion.alphas_cumprod) if spacing == "logsnr" else None
    return split_plan(make_plan(T, num_steps, step_inference, levels), step_inference)


def two_stage_sample(
    x: Tensor,
    diffusion: GaussianDiffusion,
    large: PredictX0 | None,
    small: PredictX0 | None,
    *,
    step_inference: int,
    num_steps: NumSteps,
    spacing: str = "uniform",
    sampler: str = "ddim",
    handoff: str = "paper",
    noise: Callable[[int], Tensor],
    known: Known | None = None,
    progress: Callable[[list[Pair]], Iterable[Pair]] = lambda pairs: pairs,
) -> Tensor:
    """Denoise x = x_(T-1), float32 [N, C, H, W], to x_start of the same shape; x is standard normal noise.

    num_steps: over both networks, or (large, small), placed by spacing. The sampler runs once for each network that has
    steps, so its history starts afresh at the hand-off. noise(t): standard normal noise like x_start. known: parts of
    x_start that are given, to which large and small keep (Known.wrap). Raises InputError where the plan is impossible.
    """
    large_pairs, small_pairs = two_stage_plans(diffusion, step_inference, num_steps, spacing, handoff)
    clip_x0 = clip_released if (sampler, handoff) == ("cold", "released") else clip
    if known:
        x = known.start(x, diffusion.alpha_bar((large_pairs or small_pairs)[0][0]))
    for pairs, predict_x0 in ((large_pairs, large), (small_pairs, small)):
        if pairs:
            x = SAMPLERS[sampler](x, progress(pairs), predict_x0, clip_x0, diffusion.alpha_bar, noise)
    return known.paste(x) if known else x
