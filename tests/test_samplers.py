"""Samplers against closed forms: a perfect network, and Gaussian data whose score is known exactly."""

import math

import numpy as np
import pytest
import torch

from guided_diffusion.config import DiffusionConfig
from guided_diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.masks import JointLayout, clip, clip_released
from guided_diffusion.respace import make_plan
from guided_diffusion.samplers import SAMPLERS, cold, ddim

DIFFUSION = GaussianDiffusion(DiffusionConfig(), JointLayout(("a",)))
A = DIFFUSION.alpha_bar


def identity(x):
    return x


def no_noise(t):
    raise AssertionError("a deterministic sampler asked for noise")


@pytest.mark.parametrize("name", ["cold", "ddim"])
@pytest.mark.parametrize("num_steps", [1000, 50, 7])
def test_a_perfect_network_leads_to_its_image(name, num_steps):
    x_start = torch.rand(2, 5, 4, 4).double()
    x = torch.randn(2, 5, 4, 4).double()
    out = SAMPLERS[name](x, make_plan(1000, num_steps), lambda x, t: x_start, identity, A, no_noise)
    assert torch.allclose(out, x_start, atol=1e-9)


def test_cold_and_ddim_agree_where_nothing_is_clipped():
    x = torch.randn(2, 5, 4, 4).double()
    predict = lambda x, t: torch.tanh(x) * math.cos(t / 900)  # noqa: E731
    plan = make_plan(1000, 100)
    assert torch.allclose(
        cold(x, plan, predict, identity, A, no_noise), ddim(x, plan, predict, identity, A, no_noise), atol=1e-9
    )


def test_ddim_rederives_eps_from_the_clipped_x0_and_cold_does_not():
    x, x0 = torch.full((1, 5, 1, 1), 0.5).double(), torch.full((1, 5, 1, 1), 3.0).double()
    a, a_prev = A(500), A(400)
    stepped = ddim(x, [(500, 400)], lambda x, t: x0, clip_released, A, no_noise)
    eps = (0.5 - math.sqrt(a) * 1.0) / math.sqrt(1 - a)
    assert stepped.mean().item() == pytest.approx(math.sqrt(a_prev) + math.sqrt(1 - a_prev) * eps, rel=1e-12)
    stepped = cold(x, [(500, 400)], lambda x, t: x0, clip_released, A, no_noise)
    eps = (0.5 - math.sqrt(a) * 3.0) / math.sqrt(1 - a)
    expected = 0.5 + (math.sqrt(a_prev) - math.sqrt(a)) + (math.sqrt(1 - a_prev) - math.sqrt(1 - a)) * eps
    assert stepped.mean().item() == pytest.approx(expected, rel=1e-12)


def test_clip_keeps_rgb_in_minus_one_to_one_and_masks_in_zero_to_one():
    x = clip(torch.linspace(-3, 3, 70).reshape(1, 5, 14, 1))
    assert x[:, :3].min() == -1 and x[:, :3].max() <= 1 and x[:, 3:].min() >= 0 and x[:, 3:].max() == 1


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_gaussian_data_come_out_with_their_mean_and_spread(name):
    """For data N(mu, s^2) the posterior mean is known; the samples must be N(mu, s^2) again."""
    mu, s = 0.3, 0.5
    generator = torch.Generator().manual_seed(0)

    def predict_x0(x, t):
        a = A(t)
        return mu + math.sqrt(a) * s**2 / (a * s**2 + 1 - a) * (x - math.sqrt(a) * mu)

    def noise(t):
        return torch.randn(20_000, 1, 1, 1, generator=generator, dtype=torch.double)

    out = SAMPLERS[name](noise(1000), make_plan(1000, 500), predict_x0, identity, A, noise)
    assert out.mean().item() == pytest.approx(mu, abs=0.015)
    assert out.std().item() == pytest.approx(s, rel=0.03)


def test_ddpm_variance_is_the_posterior_variance():
    """On neighbouring timesteps eta = 1 must give DDPM's q(x_(t-1) | x_t, x_0)."""
    x, x0 = torch.zeros(100_000, 1, 1, 1).double(), 0.4
    generator = torch.Generator().manual_seed(1)
    noise = lambda t: torch.randn(x.shape, generator=generator, dtype=torch.double)  # noqa: E731
    for t in (10, 500, 900):
        out = SAMPLERS["ddpm"](x, [(t, t - 1)], lambda x, t: torch.full_like(x, x0), identity, A, noise)
        assert out.mean().item() == pytest.approx(DIFFUSION.posterior_mean_coef1[t] * x0, abs=4e-3)
        assert out.std().item() == pytest.approx(np.sqrt(DIFFUSION.posterior_variance[t]), rel=0.01)
