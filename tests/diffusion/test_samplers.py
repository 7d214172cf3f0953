"""Samplers against closed forms: a perfect network, and Gaussian data whose score is known exactly."""

import math

import pytest
import torch
from told import make_config

from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.respace import log_snr, make_plan
from guided_diffusion.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m
from guided_diffusion.joint_tensor import clip_released

DIFFUSION = GaussianDiffusion(make_config())
A = DIFFUSION.alpha_bar


def identity(x):
    return x


def no_noise(t):
    raise AssertionError("a deterministic sampler asked for noise")


def test_ddim_rederives_eps_from_the_clipped_x0():
    x, x0 = torch.full((1, 5, 1, 1), 0.5).double(), torch.full((1, 5, 1, 1), 3.0).double()
    a, a_prev = A(500), A(400)
    stepped = ddim(x, [(500, 400)], lambda x, t: x0, clip_released, A, no_noise)
    eps = (0.5 - math.sqrt(a) * 1.0) / math.sqrt(1 - a)
    assert stepped.mean().item() == pytest.approx(math.sqrt(a_prev) + math.sqrt(1 - a_prev) * eps, rel=1e-12)


def paper_dpmpp_2m(x, nodes, predict, alpha_bar):
    """Algorithm 2 of the DPM-Solver++ paper in its own symbols, from nodes[0] to nodes[-1]."""
    alpha = [math.sqrt(alpha_bar(t)) for t in nodes]
    sigma = [math.sqrt(1 - alpha_bar(t)) for t in nodes]
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    q = [predict(x, nodes[0])]  # the paper's buffer
    x = sigma[1] / sigma[0] * x - alpha[1] * math.expm1(-(lam[1] - lam[0])) * q[0]
    for i in range(2, len(nodes)):
        q.append(predict(x, nodes[i - 1]))
        h = lam[i] - lam[i - 1]
        r = (lam[i - 1] - lam[i - 2]) / h
        D = (1 + 1 / (2 * r)) * q[i - 1] - 1 / (2 * r) * q[i - 2]
        x = sigma[i] / sigma[i - 1] * x - alpha[i] * math.expm1(-h) * D
    return x


@pytest.mark.parametrize("spacing", ["uniform", "logsnr"])
@pytest.mark.parametrize("num_steps", [4, 20, 1000])
def test_dpmpp_2m_is_the_papers_algorithm(num_steps, spacing):
    def unclipped(x, t):
        return torch.tanh(2 * x) * math.cos(t / 700) + 0.1

    def clip(x0):
        return x0.clamp(-0.8, 0.8)

    x = torch.randn(2, 5, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    pairs = make_plan(1000, num_steps, 0, log_snr(DIFFUSION.alphas_cumprod) if spacing == "logsnr" else None)
    expected = paper_dpmpp_2m(x, [t for t, _ in pairs], lambda x, t: clip(unclipped(x, t)), A)
    assert (dpmpp_2m(x, pairs[:-1], unclipped, clip, A, no_noise) - expected).abs().max() < 1e-9
    # and the step to the clean image gives the prediction there, whatever was before
    assert (dpmpp_2m(x, pairs, unclipped, clip, A, no_noise) - clip(unclipped(expected, 0))).abs().max() < 1e-9


MU, S = 0.3, 0.5  # data N(MU, S^2): the posterior mean and the path of the probability flow are known


def posterior_mean(x, alpha_bar):
    return MU + math.sqrt(alpha_bar) * S**2 / (alpha_bar * S**2 + 1 - alpha_bar) * (x - math.sqrt(alpha_bar) * MU)


def flow(x, start, end):
    """Where the probability flow takes x from one alpha_bar to another: it keeps the quantile."""
    return math.sqrt(end) * MU + (x - math.sqrt(start) * MU) * math.sqrt(
        (end * S**2 + 1 - end) / (start * S**2 + 1 - start)
    )


@pytest.mark.parametrize(("name", "factor"), [("ddim", 2), ("dpmpp_2m", 4)])
def test_order_of_convergence(name, factor):
    """Twice the steps, half the error of a first-order sampler and a quarter of a second-order one's."""

    def error(steps):
        def alpha_bar(t):  # timestep `steps` is noise, 0 nearly clean, uniform in log-SNR
            return 1 / (1 + math.exp(-(8 - 16 * t / steps)))

        x = torch.linspace(-2, 2, 9).double().reshape(1, 1, 3, 3)
        pairs = [(t, t - 1) for t in range(steps, 0, -1)]
        out = SAMPLERS[name](x, pairs, lambda x, t: posterior_mean(x, alpha_bar(t)), identity, alpha_bar, no_noise)
        return (out - flow(x, alpha_bar(steps), alpha_bar(0))).abs().max().item()

    errors = [error(steps) for steps in (40, 80, 160, 320)]
    ratios = [a / b for a, b in zip(errors, errors[1:], strict=False)]
    assert all(0.8 * factor < ratio < 1.25 * factor for ratio in ratios), (errors, ratios)


@pytest.mark.parametrize("t, t_prev", [(10, 9), (500, 499), (900, 899), (900, 500), (500, 20)])
def test_ddpm_draws_from_the_posterior(t, t_prev):
    """eta = 1 must give DDPM's q(x_t_prev | x_t, x_0) (eq. 6-7), and that between any two timesteps."""
    x, x0, ratio = torch.full((100_000, 1, 1, 1), 0.7).double(), 0.4, A(t) / A(t_prev)
    generator = torch.Generator().manual_seed(1)
    noise = lambda t: torch.randn(x.shape, generator=generator, dtype=torch.double)  # noqa: E731
    out = SAMPLERS["ddpm"](x, [(t, t_prev)], lambda x, t: torch.full_like(x, x0), identity, A, noise)
    own, other = math.sqrt(ratio) * (1 - A(t_prev)), math.sqrt(A(t_prev)) * (1 - ratio)
    variance = (1 - ratio) * (1 - A(t_prev)) / (1 - A(t))
    if t_prev == t - 1:
        beta = DIFFUSION.betas[t]
        assert variance == pytest.approx(beta * (1 - A(t - 1)) / (1 - A(t)), rel=1e-6)
        assert other == pytest.approx(beta * math.sqrt(A(t - 1)), rel=1e-6)
    assert out.mean().item() == pytest.approx((own * 0.7 + other * x0) / (1 - A(t)), abs=4e-3)
    assert out.std().item() == pytest.approx(math.sqrt(variance), rel=0.01)
