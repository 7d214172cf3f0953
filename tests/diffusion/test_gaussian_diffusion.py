"""Schedules, q_sample, losses and the cold step against the released code's numbers and independent formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from guided_diffusion import create_diffusion, load_config
from guided_diffusion.config import SCHEDULES, DiffusionConfig
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion, make_betas
from guided_diffusion.diffusion.samplers import cold
from guided_diffusion.joint_tensor import JointLayout, clip_released

GLOBAL = "models.unet.openaiunet.UNetModel"
FIXTURES = [("cosine", "x0"), ("linear", "eps")]
COLD_STEPS = (999, 700, 400, 399, 100, 2, 0)


def relative(a, b):
    b = np.asarray(b, dtype=np.float64)
    return np.linalg.norm(np.asarray(a, dtype=np.float64) - b) / np.linalg.norm(b)


@pytest.fixture(params=FIXTURES, ids=lambda p: "-".join(p))
def released(request, shared_dir):
    schedule, parameterization = request.param
    data = dict(np.load(shared_dir / "fixtures" / f"diffusion_{schedule}_{parameterization}.npz"))
    config = {
        "diffusion": {"params": {"schedule": schedule, "parameterization": parameterization}},
        "model": {"target": GLOBAL, "params": {"in_channels": data["x0"].shape[1]}},
    }
    return data, create_diffusion(load_config(config)), parameterization


def test_tables_agree_with_the_released_ones(released):
    data, diffusion, _ = released
    for name in ("betas", "alphas_cumprod"):
        table = getattr(diffusion, name)
        assert table.dtype == np.float64
        assert relative(table[100:], data[name][100:]) < 1e-5
        assert relative(table[:100], data[name][:100]) < 2e-3
    for name in ("posterior_variance", "posterior_mean_coef1", "posterior_mean_coef2"):
        assert relative(getattr(diffusion, name), data[name]) < 2e-3


def test_q_sample_agrees(released):
    data, diffusion, _ = released
    x_t = diffusion.q_sample(torch.from_numpy(data["x0"]), torch.tensor([617, 617]), torch.from_numpy(data["noise"]))
    assert relative(x_t, data["q_sample_617"]) < 1e-5


@pytest.mark.parametrize("t", COLD_STEPS)
def test_cold_step_agrees(released, t):
    data, diffusion, parameterization = released

    def predict_x0(x, t):
        output = torch.tanh(0.7 * x + 0.1) * math.cos(t / 1000) + 0.05
        return diffusion.x_start_from_eps(x, t, output) if parameterization == "eps" else output

    x = torch.from_numpy(data["noise"])
    assert relative(clip_released(predict_x0(x, t)), data[f"x0_hat_{t}"]) < (1e-5 if t >= 100 else 2e-3)
    stepped = cold(x, [(t, t - 1)], predict_x0, clip_released, diffusion.alpha_bar, None)
    assert relative(stepped, data[f"cold_step_{t}"]) < (1e-5 if t >= 100 else 2e-3)


def test_losses_agree(released):
    data, diffusion, parameterization = released
    out, x_start, t, noise = (torch.from_numpy(data[k]) for k in ("model_out", "x0_onehot", "loss_t", "noise"))
    losses = diffusion.training_losses(lambda x, t: out, x_start, t, noise)
    assert relative(losses["loss"], data["loss_mse"]) < 1e-5
    if parameterization == "x0":
        losses = diffusion.training_losses(lambda x, t: out, x_start, t, noise, separate_channel_loss=True)
        assert relative(losses["loss"], data["loss_separate"]) < 1e-5
        assert relative(losses["rgb"], data["loss_rgb"]) < 1e-5
        assert relative(losses["mask"], data["loss_mask"]) < 1e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_destroys_the_signal_monotonically(schedule):
    betas = make_betas(schedule, 1000)
    alphas_cumprod = np.cumprod(1 - betas)
    assert betas.shape == (1000,) and (betas > 0).all() and (betas <= 0.999).all()
    assert (np.diff(alphas_cumprod) < 0).all() and alphas_cumprod[0] > 0.89 and alphas_cumprod[-1] < 1e-3
    if schedule == "inverse_proportion":
        assert np.allclose(alphas_cumprod[:-1], 1 - np.arange(1, 1000) / 1000, atol=1e-12)


def make(parameterization="x0", background=True, **options):
    layout = JointLayout(("a", "b"), background)
    return GaussianDiffusion(DiffusionConfig(parameterization), layout, **options)


@pytest.mark.parametrize("parameterization", ["x0", "eps"])
def test_min_snr_weights(parameterization):
    diffusion = make(parameterization, loss_weight="min_snr", min_snr_gamma=5.0)
    snr = diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)
    for t in (0, 10, 500, 999):
        expected = min(snr[t], 5.0) if parameterization == "x0" else min(1.0, 5.0 / snr[t])
        assert diffusion.loss_weights[t] == pytest.approx(expected, rel=1e-12)


def test_weights_are_per_sample_and_parts_unweighted():
    diffusion = make(loss_weight="min_snr")
    x_start, noise, t = torch.zeros(2, 6, 4, 4), torch.zeros(2, 6, 4, 4), torch.tensor([0, 999])
    out = torch.stack([torch.full((6, 4, 4), 1.0), torch.full((6, 4, 4), 3.0)])
    losses = diffusion.training_losses(lambda x, t: out, x_start, t, noise)
    assert losses["per_sample"].tolist() == [1.0, 9.0] and losses["rgb"] == losses["mask"] == 5.0
    assert losses["loss"].item() == pytest.approx((5 * 1 + diffusion.loss_weights[999] * 9) / 2, rel=1e-6)


def test_separate_loss_without_background_appends_a_zero_logit():
    diffusion = make(background=False)
    out, noise = torch.randn(3, 5, 4, 4), torch.randn(3, 5, 4, 4)
    labels = torch.randint(0, 3, (3, 4, 4))
    images = torch.zeros(3, 3, 4, 4, dtype=torch.uint8)
    x_start = diffusion.layout.encode(images, labels.to(torch.uint8))
    losses = diffusion.training_losses(
        lambda x, t: out, x_start, torch.tensor([1, 2, 3]), noise, separate_channel_loss=True
    )
    logits = torch.cat([torch.zeros(3, 1, 4, 4), out[:, 3:]], dim=1)
    assert losses["mask"].item() == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_eps_and_x_start_are_two_views_of_one_thing():
    diffusion = make("eps")
    x_start, eps = torch.randn(4, 5, 8, 8).double(), torch.randn(4, 5, 8, 8).double()
    for t in (0, 500, 990):
        a = diffusion.alpha_bar(t)
        x_t = a**0.5 * x_start + (1 - a) ** 0.5 * eps
        assert torch.allclose(diffusion.x_start_from_eps(x_t, t, eps), x_start, atol=1e-9)
    assert diffusion.alpha_bar(-1) == 1.0
