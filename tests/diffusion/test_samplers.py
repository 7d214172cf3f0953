"""Samplers against closed forms: a perfect network, and Gaussian data whose score is known exactly; and the hand-off,
with counting stubs in the place of the networks."""

import math

import pytest
import torch
from conftest import make_config

from guided_diffusion.diffusion.conditioning import Known
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion
from guided_diffusion.diffusion.respace import log_snr, make_plan, split_plan
from guided_diffusion.diffusion.samplers import SAMPLERS, ddim, dpmpp_2m
from guided_diffusion.diffusion.two_stage import two_stage_plans, two_stage_sample
from guided_diffusion.joint_tensor import clip, clip_released

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


@pytest.mark.parametrize("step_inference", [1, 50, 400, 999])
def test_each_timestep_goes_to_its_network_and_the_state_that_crosses_has_its_noise_level(step_inference):
    """x = sqrt(a) x0 + sqrt(1 - a) eps with the eps of the first noise, exactly at t = S - 1."""
    large, small, out = walk(step_inference, 50, sampler="ddim")
    plans = two_stage_plans(DIFFUSION, step_inference, 50, "uniform", "paper")  # see test_respace.py
    assert [[t for t, _ in plan] for plan in plans] == [large.timesteps, small.timesteps]
    assert torch.allclose(out, torch.full_like(out, 0.75), atol=1e-5)
    eps = (large.inputs[0] - A(999) ** 0.5 * 0.25) / (1 - A(999)) ** 0.5
    a = A(step_inference - 1)
    assert torch.allclose(small.inputs[0], a**0.5 * 0.25 + (1 - a) ** 0.5 * eps, atol=2e-5)


def test_the_history_of_a_sampler_does_not_cross_the_handoff():
    """The stubs differ, so a first step of the small network that knew the large one's answer would too."""
    large, small, out = walk(400, (12, 8), sampler="dpmpp_2m", spacing="logsnr")
    _, pairs = split_plan(sum(two_stage_plans(DIFFUSION, 400, (12, 8), "logsnr", "paper"), []), 400)
    predict = CountingStub(0.75)
    for sampler, number in ((ddim, 1), (dpmpp_2m, 7)):
        x = sampler(small.inputs[0], pairs[:number], predict, clip, A, None)
        assert torch.equal(small.inputs[number], x) if sampler is dpmpp_2m else torch.allclose(small.inputs[1], x)


def test_what_is_known_starts_at_its_noise_level_and_ends_to_the_bit():
    noise, values = torch.randn(2, 1, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    known, large, small = Known(values, noise > 0), CountingStub(0.25), CountingStub(0.75)
    options = {"step_inference": 400, "num_steps": 7, "sampler": "cold", "noise": None, "known": known}
    out = two_stage_sample(noise, DIFFUSION, large, small, **options)
    assert torch.equal(large.inputs[0], known.start(noise, A(999)))
    assert not torch.equal(large.inputs[0], noise) and torch.equal(out, known.paste(out))


def test_released_handoff_gives_the_small_network_a_denoised_image():
    large, small, _ = walk(400, 1000, handoff="released")
    assert large.timesteps == list(range(599, -1, -1)) and small.timesteps == list(range(399, -1, -1))
    plans = two_stage_plans(DIFFUSION, 400, 1000, "uniform", "released")
    assert plans[0][-3:] == [(2, 1), (1, -1), (0, -1)]  # the slip: from t = 1 straight to the clean image
    # no noise is left but what the slip at t = 1 takes away once too often
    assert (small.inputs[0] - 0.25).abs().max() < 0.05
