"""The hand-off, with counting stubs in the place of the networks."""

import pytest
import torch
from told import make_config

from guided_diffusion.diffusion.conditioning import Known
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.respace import split_plan
from guided_diffusion.diffusion.samplers import ddim, dpmpp_2m
from guided_diffusion.diffusion.two_stage import two_stage_plans, two_stage_sample
from guided_diffusion.joint_tensor import clip

T = 1000
DIFFUSION = GaussianDiffusion(make_config())


class CountingStub:
    """Predicts one constant image, and notes when it was asked and with what."""

    def __init__(self, value):
        self.value, self.timesteps, self.inputs = value, [], []

    def __call__(self, x_t, t):
        self.timesteps.append(t)
        self.inputs.append(x_t)
        return torch.full_like(x_t, self.value)


def walk(step_inference, num_steps, handoff="paper", sampler="cold", spacing="uniform"):
    large, small = CountingStub(0.25), CountingStub(0.75)
    x = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    options = {"step_inference": step_inference, "num_steps": num_steps, "spacing": spacing, "sampler": sampler}
    noise = lambda t: torch.zeros_like(x)  # noqa: E731
    return large, small, two_stage_sample(x, DIFFUSION, large, small, handoff=handoff, noise=noise, **options)


@pytest.mark.parametrize(
    ("sampler", "spacing"),
    [("cold", "uniform"), ("ddim", "uniform"), ("ddpm", "logsnr"), ("dpmpp_2m", "uniform"), ("dpmpp_2m", "logsnr")],
)
@pytest.mark.parametrize("step_inference", [0, 1, 400, 999, 1000])
@pytest.mark.parametrize("num_steps", [1000, 50, 7])
def test_each_timestep_goes_to_its_network(step_inference, num_steps, sampler, spacing):
    large, small, out = walk(step_inference, num_steps, sampler=sampler, spacing=spacing)
    visited = large.timesteps + small.timesteps
    assert len(visited) == num_steps and visited == sorted(visited, reverse=True)
    assert visited[0] == T - 1 and visited[-1] == 0
    assert all(t >= step_inference for t in large.timesteps)
    assert all(t < step_inference for t in small.timesteps)
    if 0 < step_inference < T:
        assert small.timesteps[0] == step_inference - 1
    assert torch.allclose(out, torch.full_like(out, 0.75 if step_inference else 0.25), atol=1e-5)


@pytest.mark.parametrize("step_inference", [1, 50, 400, 999])
def test_the_state_that_crosses_has_the_noise_level_of_its_timestep(step_inference):
    """x = sqrt(a) x0 + sqrt(1 - a) eps with the eps of the first noise, exactly at t = S - 1."""
    large, small, _ = walk(step_inference, 50, sampler="ddim")
    eps = (large.inputs[0] - DIFFUSION.alpha_bar(T - 1) ** 0.5 * 0.25) / (1 - DIFFUSION.alpha_bar(T - 1)) ** 0.5
    a = DIFFUSION.alpha_bar(step_inference - 1)
    assert torch.allclose(small.inputs[0], a**0.5 * 0.25 + (1 - a) ** 0.5 * eps, atol=2e-5)


def test_the_history_of_a_sampler_does_not_cross_the_handoff():
    """The stubs differ, so a first step of the small network that knew the large one's answer would too."""
    large, small, out = walk(400, (12, 8), sampler="dpmpp_2m", spacing="logsnr")
    _, pairs = split_plan(sum(two_stage_plans(DIFFUSION, 400, (12, 8), "logsnr", "paper"), []), 400)
    predict = CountingStub(0.75)
    for sampler, number in ((ddim, 1), (dpmpp_2m, 7)):
        x = sampler(small.inputs[0], pairs[:number], predict, clip, DIFFUSION.alpha_bar, None)
        assert torch.equal(small.inputs[number], x) if sampler is dpmpp_2m else torch.allclose(small.inputs[1], x)


def test_what_is_known_starts_at_its_noise_level_and_ends_to_the_bit():
    noise, values = torch.randn(2, 1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    known, large, small = Known(values, noise > 0), CountingStub(0.25), CountingStub(0.75)
    options = {"step_inference": 400, "num_steps": 7, "sampler": "cold", "noise": None, "known": known}
    out = two_stage_sample(noise, DIFFUSION, large, small, **options)
    assert torch.equal(large.inputs[0], known.start(noise, DIFFUSION.alpha_bar(T - 1)))
    assert not torch.equal(large.inputs[0], noise) and torch.equal(out, known.paste(out))


def test_released_handoff_gives_the_small_network_a_denoised_image():
    large, small, _ = walk(400, 1000, handoff="released")
    assert large.timesteps == list(range(599, -1, -1)) and small.timesteps == list(range(399, -1, -1))
    plans = two_stage_plans(DIFFUSION, 400, 1000, "uniform", "released")
    assert plans[0][-3:] == [(2, 1), (1, -1), (0, -1)]  # the slip: from t = 1 straight to the clean image
    # no noise is left but what the slip at t = 1 takes away once too often
    assert (small.inputs[0] - 0.25).abs().max() < 0.05
