"""Schedules, q_sample, losses and the cold step against the released code's numbers and independent formulas."""

import math

import numpy as np
import pytest
import torch
from conftest import make_config

from guided_diffusion import load_config
from guided_diffusion.config import SCHEDULES
from guided_diffusion.diffusion.gaussian_diffusion import GaussianDiffusion, make_betas
from guided_diffusion.diffusion.samplers import cold
from guided_diffusion.errors import InputError
from guided_diffusion.joint_tensor import clip_released

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
    return data, GaussianDiffusion(load_config(config)), parameterization


def test_tables_and_q_sample_agree_with_the_released_ones(released):
    data, diffusion, _ = released
    for name in ("betas", "alphas_cumprod"):
        table = getattr(diffusion, name)
        assert table.dtype == np.float64
        assert relative(table[100:], data[name][100:]) < 1e-5
        assert relative(table[:100], data[name][:100]) < 2e-3
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


def test_more_steps_than_a_schedule_has_noise_for_are_refused():
    with pytest.raises(InputError, match="num_timestep 20000: sqrt has no noise left"):
        GaussianDiffusion(make_config(**{"diffusion.schedule": "sqrt", "diffusion.num_timestep": 20000}))


@pytest.mark.parametrize("parameterization", ["x0", "eps"])
def test_min_snr_weighs_each_sample_and_leaves_the_parts(parameterization):
    changes = {"diffusion.parameterization": parameterization, "train.loss_weight": "min_snr"}
    diffusion = GaussianDiffusion(make_config(**changes))
    snr = diffusion.alphas_cumprod / (1 - diffusion.alphas_cumprod)
    expected = np.minimum(snr, 5) if parameterization == "x0" else np.minimum(1, 5 / snr)
    assert np.allclose(diffusion.loss_weights, expected, rtol=1e-12, atol=0)
    zeros, t = torch.zeros(2, 7, 4, 4), torch.tensor([0, 999])
    out = torch.tensor([1.0, 3.0])[:, None, None, None].expand_as(zeros)
    losses = diffusion.training_losses(lambda x, t: out, zeros, t, zeros)
    assert losses["per_sample"].tolist() == [1.0, 9.0] and losses["rgb"] == losses["mask"] == 5.0
    assert losses["loss"].item() == pytest.approx((expected[0] * 1 + expected[999] * 9) / 2, rel=1e-6)
