"""The training loop against a plain re-implementation, and what it starts from."""

import copy
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion import create_model, load_config
from guided_diffusion.data.image_datasets import DefectDataset, epoch_indices
from guided_diffusion.errors import InputError
from guided_diffusion.keyed_random import torch_generator
from guided_diffusion.precision import autocast
from guided_diffusion.training import train_util
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint
from guided_diffusion.training.train_util import TrainLoop, learning_rate

CPU = torch.device("cpu")


def tiny_config(**overrides):
    model = {"image_size": 16, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1}
    raw = {
        "model": {"target": "models.unet.unet_receptive.UNetModel", "params": model, "use_scale_shift_norm": True},
        "data": {"bs_per_gpu": 3},
        "optimizer": {"lr": 1e-3},
        "train": {"iterations": 4, "log_image_interval": 0, "precision": "fp32"},
    }
    return load_config(raw, 2, overrides)


def tiny_data(n=5, size=16):
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, size, size), dtype=np.uint8)) for _ in range(n)]
    masks = [torch.from_numpy(rng.integers(0, 3, (size, size), dtype=np.uint8)) for _ in range(n)]
    return DefectDataset(images, masks, [f"i{k}" for k in range(n)], (size, size))


def make_loop(tmp_path, config, **options):
    return TrainLoop(config, str(tmp_path), tiny_data(), options.pop("val_data", None), CPU, **options)


def test_steps_equal_a_plain_implementation(tmp_path):
    """Per-parameter AdamW (Loshchilov & Hutter 2019, algorithm 2) and EMA written out in float64 arithmetic."""
    config = tiny_config(**{"optimizer.grad_clip": 0.5, "train.loss_weight": "min_snr", "train.ema_decay": 0.5})
    loop = make_loop(tmp_path, config)
    reference = copy.deepcopy(loop.model)
    start = [p.detach().clone() for p in reference.parameters()]
    ema = [p.double() for p in start]
    first = [torch.zeros_like(p).double() for p in reference.parameters()]
    second = [torch.zeros_like(p).double() for p in reference.parameters()]
    data, layout = tiny_data(), config.layout
    alphas_cumprod = torch.from_numpy(loop.diffusion.alphas_cumprod)
    for step in range(3):
        loop.train_step()
        indices = epoch_indices(5, 3, step, 0, 1, 0)
        images = torch.stack([data.images[i] for i in indices])
        x_start = layout.encode(images, torch.stack([data.masks[i] for i in indices]))
        generator = torch_generator(CPU, "train", 0, step, 0)
        t = torch.randint(1000, (3,), generator=generator)
        noise = torch.randn(x_start.shape, generator=generator)
        a = alphas_cumprod[t].float().reshape(-1, 1, 1, 1)
        x_hat = reference(a.sqrt() * x_start + (1 - a).sqrt() * noise, t)
        weight = torch.minimum(a / (1 - a), torch.tensor(5.0)).ravel()
        loss = (weight * (x_hat - x_start).pow(2).mean(dim=(1, 2, 3))).mean()
        reference.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(p.grad.double().pow(2).sum().item() for p in reference.parameters()))
        scale = min(1.0, 0.5 / (norm + 1e-6))
        decay = min(0.5, (2 + step) / (11 + step))
        with torch.no_grad():
            for p, m, v, e in zip(reference.parameters(), first, second, ema, strict=True):
                g = p.grad.double() * scale
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                m_hat, v_hat = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
                p.copy_(p.double() * (1 - 1e-3 * 0.002) - 1e-3 * m_hat / (v_hat.sqrt() + 1e-8))
                e.mul_(decay).add_((1 - decay) * p.double())
    # by norm: where a gradient is rounding noise, Adam makes a full step of it
    moved = distance(start, reference.parameters())
    assert distance(loop.model.parameters(), reference.parameters()) < 5e-3 * moved
    assert distance(loop.ema.parameters(), ema) < 5e-3 * distance(start, ema)


def distance(a, b):
    return math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in zip(a, b, strict=True)))


def test_learning_rate_warms_up_and_decays():
    config = tiny_config(**{"optimizer.warmup": 4, "optimizer.cosine_decay": True, "train.iterations": 104})
    assert [learning_rate(config, step) for step in (0, 1, 3)] == pytest.approx([2.5e-4, 5e-4, 1e-3])
    assert learning_rate(config, 54) == pytest.approx(5e-4)
    assert learning_rate(config, 104) == pytest.approx(0, abs=1e-12)
    assert {learning_rate(tiny_config(), step) for step in (0, 1, 500)} == {1e-3}  # off by default


def test_a_released_checkpoint_trains_on(tmp_path):
    """A dict of model, optimizer (made by a plain AdamW) and ema: the step is read from the optimizer."""
    config = tiny_config()
    loop = make_loop(tmp_path / "a", config)
    for _ in range(2):
        loop.train_step()
    plain = torch.optim.AdamW(loop.model.parameters(), lr=1e-3, weight_decay=0.002)
    plain.load_state_dict(loop.optimizer.state_dict())
    for group in plain.param_groups:
        group.update(fused=None)
        group.pop("decoupled_weight_decay", None)  # as older torch wrote it
    released = {"model": loop.model.state_dict(), "optimizer": plain.state_dict(), "ema": loop.ema.state_dict()}
    torch.save(released, tmp_path / "diffusion_000002.pt")
    resumed = make_loop(tmp_path / "b", config, resume=load_checkpoint(str(tmp_path / "diffusion_000002.pt"), "-"))
    assert resumed.step == 2
    loop.train_step()
    resumed.train_step()
    assert same(resumed.model, loop.model)
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.002


def test_warm_start_takes_weights_and_starts_at_step_0(tmp_path):
    loop = make_loop(tmp_path, tiny_config())
    loop.train_step()
    loop.save()
    warm = load_checkpoint(latest_checkpoint(str(tmp_path)), "model.ckpt")
    started = make_loop(tmp_path / "b", tiny_config(), warm_start=warm)
    assert started.step == 0 and same(started.model, loop.model) and same(started.ema, loop.ema)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_validation_loss_is_repeatable_by_quartile_and_leaves_training_alone(tmp_path):
    loop = make_loop(tmp_path / "a", tiny_config(), val_data=tiny_data(3))
    other = make_loop(tmp_path / "b", tiny_config())
    values = loop.validation_loss()
    assert values == loop.validation_loss()
    assert values["val"] == pytest.approx(sum(values[f"val_q{i}"] for i in range(1, 5)) / 4)
    # a fresh network predicts 0, so every quartile costs the mean square of x_start
    images, masks = tiny_data(3).batch(np.arange(3), np.random.default_rng())
    power = loop.config.layout.encode(images, masks).square().mean().item()
    assert values["val_q1"] == pytest.approx(power, rel=1e-5) and values["val_q4"] == pytest.approx(power, rel=1e-5)
    loop.train_step()
    other.train_step()
    assert same(loop.model, other.model)


def test_a_log_line_is_the_mean_since_the_last_one_across_a_resume(tmp_path):
    loop = make_loop(tmp_path, tiny_config())
    loop.reported = (0, 0.0)
    loop.train_step()
    loop.save()
    resume = load_checkpoint(latest_checkpoint(str(tmp_path)), "--resume")
    loop.train_step()
    resumed = make_loop(tmp_path, tiny_config(), resume=resume)
    resumed.reported = (1, 0.0)
    resumed.train_step()
    first, second = loop.report(), resumed.report()
    for key in ("loss", "rgb", "mask", "grad_norm"):
        assert first[key] == second[key] > 0
    assert first["loss"] == pytest.approx((3 * first["rgb"] + 3 * first["mask"]) / 6, rel=1e-5)


def test_from_a_loss_that_is_not_finite_on_no_update_follows(tmp_path):
    """The host looks at log lines only, so the steps until then must leave the weights alone."""
    loop = make_loop(tmp_path, tiny_config())
    loop.train_step()
    good = copy.deepcopy(loop.model)
    for weight in (np.inf, 1.0):  # the gradients of the second are finite
        loop.diffusion.loss_weights = np.full(1000, weight)
        loop.diffusion._on_device.clear()
        loop.train_step()
        assert same(loop.model, good)
    for attempt in (loop.report, loop.save):
        with pytest.raises(InputError, match="not finite at step 2;"):
            attempt()


def test_the_precision_of_a_resumed_run_stays_that_of_the_earlier_one(tmp_path, monkeypatch):
    monkeypatch.setattr(train_util, "resolve_precision", lambda asked, device: "bf16" if asked == "auto" else asked)
    loop = make_loop(tmp_path, tiny_config())
    loop.save()
    resume = load_checkpoint(latest_checkpoint(str(tmp_path)), "--resume")
    for asked, kept in (("auto", "fp32"), ("bf16", "bf16")):
        config = tiny_config(**{"train.precision": asked})
        assert make_loop(tmp_path, config, resume=resume).config.train.precision == kept
    assert make_loop(tmp_path, tiny_config(**{"train.precision": "auto"})).config.train.precision == "bf16"


@pytest.mark.parametrize(
    "change", [{"train.micro_batch": 1}, {"train.activation_checkpointing": True}, {"train.compile": "on"}]
)
def test_what_saves_memory_or_time_does_not_change_the_updates(tmp_path, change):
    loops = [make_loop(tmp_path, tiny_config(**{"optimizer.grad_clip": 0.1}, **extra)) for extra in ({}, change)]
    start = [p.detach().clone() for p in loops[0].model.parameters()]
    reports = []
    for loop in loops:
        for _ in range(2):
            loop.train_step()
        reports.append(loop.window.report())
    moved = distance(start, loops[0].model.parameters())
    assert distance(loops[1].model.parameters(), loops[0].model.parameters()) < 1e-3 * moved
    assert distance(loops[1].ema.parameters(), loops[0].ema.parameters()) < 1e-3 * moved
    for key in ("loss", "rgb", "mask", "grad_norm"):
        assert reports[1][key] == pytest.approx(reports[0][key], rel=1e-5)
    x, t = torch.randn(3, 6, 16, 16).to(memory_format=torch.channels_last), torch.tensor([0, 400, 999])
    output, expected = loop.network(x, t), loop.model(x, t)
    assert (output - expected).norm() < 1e-4 * expected.norm()


def test_activation_checkpointing_under_autocast_keeps_less_and_gives_the_same_gradients():
    """Dropout included: the masks are drawn again from the same state."""
    overrides = {"train.precision": "bf16", "model.dropout": 0.5, "model.num_res_blocks": 2}
    model = create_model(tiny_config(**overrides))
    torch.nn.init.normal_(model.out[2].weight)
    x, kept, gradients = torch.randn(2, 6, 16, 16), [], []
    for checkpointing in (False, True):
        model.activation_checkpointing, saved = checkpointing, []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.nbytes) or t, lambda t: t):  # noqa: B023
            with autocast(CPU, "bf16"):
                loss = model(x, torch.tensor([3, 500])).square().mean()
        loss.backward()
        kept.append(sum(saved))
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert kept[1] < 0.5 * kept[0]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_preview_shows_the_same_noise_each_time(tmp_path):
    config = tiny_config(**{"train.max_images": 3})
    loop = make_loop(tmp_path, config)
    loop.preview()
    first = (tmp_path / "images" / "000000.png").read_bytes()
    loop.preview()
    assert (tmp_path / "images" / "000000.png").read_bytes() == first
    picture = Image.open(io.BytesIO(first))
    assert picture.size == (3 * 128, 2 * 128)  # three images over their overlays, 16 px enlarged to 128
    # a fresh network predicts 0: mid-grey in RGB
    assert np.abs(np.asarray(picture)[:128].astype(int) - 128).max() <= 1
