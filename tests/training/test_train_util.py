"""The training loop against a plain re-implementation, and what it starts from."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from conftest import random_weights
from PIL import Image

from guided_diffusion import load_config
from guided_diffusion.data.image_datasets import DefectDataset, epoch_indices
from guided_diffusion.data.image_files import View
from guided_diffusion.errors import InputError
from guided_diffusion.keyed_random import torch_generator
from guided_diffusion.training import train_util
from guided_diffusion.training.checkpoint import load_checkpoint
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


def tiny_data(n=5):
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8)) for _ in range(n)]
    masks = [torch.from_numpy(rng.integers(0, 3, (16, 16), dtype=np.uint8)) for _ in range(n)]
    return DefectDataset(images, masks, [f"i{k}" for k in range(n)], View((16, 16)))


@pytest.fixture
def make_loop(tmp_path):
    """make_loop({"section.key": value}, ...) -> a TrainLoop with the test's folder as work_dir."""

    def make(changes=None, val_data=None, **start):
        return TrainLoop(tiny_config(**changes or {}), str(tmp_path), tiny_data(), val_data, CPU, **start)

    return make


def distance(a, b):
    return math.sqrt(sum((x.double() - y.double()).square().sum().item() for x, y in zip(a, b, strict=True)))


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("rank", [0, 1])
def test_steps_equal_a_plain_implementation(make_loop, rank, monkeypatch):
    monkeypatch.setattr(train_util.dist_util, "rank", lambda: rank)  # each has images, timesteps and noise of its own
    loop = make_loop({"optimizer.grad_clip": 0.5, "train.loss_weight": "min_snr", "train.ema_decay": 0.5})
    reference, start = copy.deepcopy(loop.model), copy.deepcopy(loop.model)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0.002)
    ema = list(start.parameters())
    data, layout = tiny_data(), loop.config.layout
    alphas_cumprod = torch.from_numpy(loop.diffusion.alphas_cumprod)
    for step in range(3):
        loop.train_step()
        indices = epoch_indices(5, 3, step, rank, 1, 0)
        images = torch.stack([data.images[i] for i in indices])
        x_start = layout.encode(images, torch.stack([data.masks[i] for i in indices]))
        generator = torch_generator(CPU, "train", 0, step, rank)
        t = torch.randint(1000, (3,), generator=generator)
        noise = torch.randn(x_start.shape, generator=generator)
        a = alphas_cumprod[t].float().reshape(-1, 1, 1, 1)
        x_hat = reference(a.sqrt() * x_start + (1 - a).sqrt() * noise, t)
        weight = torch.minimum(a / (1 - a), torch.tensor(5.0)).ravel()
        optimizer.zero_grad()
        (weight * (x_hat - x_start).pow(2).mean(dim=(1, 2, 3))).mean().backward()
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        optimizer.step()
        decay = min(0.5, (2 + step) / (11 + step))
        ema = [decay * e + (1 - decay) * p.detach() for e, p in zip(ema, reference.parameters(), strict=True)]
    # by norm: where a gradient is rounding noise, Adam makes a full step of it
    limit = 5e-3 * distance(start.parameters(), reference.parameters())
    assert distance(loop.model.parameters(), reference.parameters()) < limit
    assert distance(loop.ema.parameters(), ema) < 5e-3 * distance(start.parameters(), ema)


def test_learning_rate_warms_up_and_decays():
    config = tiny_config(**{"optimizer.warmup": 4, "optimizer.cosine_decay": True, "train.iterations": 104})
    rates = [learning_rate(config, step) for step in (0, 1, 3, 54, 104)]
    assert rates == pytest.approx([2.5e-4, 5e-4, 1e-3, 5e-4, 0], abs=1e-12)
    assert {learning_rate(tiny_config(), step) for step in (0, 1, 500)} == {1e-3}  # off by default


def test_a_released_checkpoint_trains_on(make_loop, tmp_path):
    """A dict of model, optimizer (of a plain AdamW) and ema: the step is read from the optimizer."""
    loop = make_loop()
    for _ in range(2):
        loop.train_step()
    optimizer = loop.optimizer.state_dict()
    for group in optimizer["param_groups"]:
        group.update(fused=None)
        group.pop("decoupled_weight_decay", None)  # as older torch wrote it
    released = {"model": loop.model.state_dict(), "optimizer": optimizer, "ema": loop.ema.state_dict()}
    torch.save(released, tmp_path / "diffusion_000002.pt")
    resumed = make_loop(resume=load_checkpoint(str(tmp_path / "diffusion_000002.pt"), "-"))
    assert resumed.step == 2
    loop.train_step()
    resumed.train_step()
    assert same(resumed.model, loop.model)
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.002


@pytest.mark.parametrize(
    ("number", "entry"),
    [
        (0, {"exp_avg": torch.ones(1)}),  # which would fit every parameter by broadcasting
        (0, {"exp_avg": torch.ones(()), "extra": torch.ones(1)}),
        (0, {"exp_avg_sq": "text"}),
        (0, {"step": torch.tensor(math.nan)}),
        (9999, {}),
    ],
)
def test_an_optimizer_state_of_something_else_is_refused(make_loop, tmp_path, number, entry):
    loop = make_loop()
    loop.train_step()
    loop.save()
    saved = load_checkpoint(str(tmp_path), "--resume")
    state = saved.optimizer["state"]
    state[number] = state[0] | entry
    with pytest.raises(InputError, match=r"diffusion_000001\.pt: its optimizer state does not fit"):
        make_loop(resume=saved)
    with pytest.raises(InputError, match="not that of Muon for these parameters.; keep its optimizer.target"):
        make_loop({"optimizer.target": "Muon"}, resume=load_checkpoint(str(tmp_path), "--resume"))
    with pytest.raises(InputError, match=r"diffusion_000001\.pt: its log_window is none"):
        make_loop(resume=dataclasses.replace(saved, log_window=torch.ones(1)))


def test_a_start_takes_weights_and_a_resume_step_and_precision(make_loop, tmp_path, monkeypatch):
    monkeypatch.setattr(train_util, "resolve_precision", lambda asked, device: "bf16" if asked == "auto" else asked)
    loop = make_loop()
    loop.train_step()
    loop.save()
    saved = load_checkpoint(str(tmp_path), "--resume")
    assert (tmp_path / "config.yml").exists()  # as where a running training's folder was removed
    started = make_loop({"train.precision": "auto"}, warm_start=saved)
    assert started.step == 0 and same(started.model, loop.model) and same(started.ema, loop.ema)
    assert started.config.train.precision == "bf16"
    for asked, kept in (("bf16", "bf16"), ("auto", "fp32")):
        resumed = make_loop({"train.precision": asked}, resume=saved)
        assert resumed.step == 1 and resumed.config.train.precision == kept


def test_validation_loss_is_repeatable_by_quartile_and_leaves_training_alone(make_loop):
    loop, other = make_loop(val_data=tiny_data(3)), make_loop()
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
    trained = loop.validation_loss()
    loop.model.load_state_dict(loop.ema.state_dict())  # what is measured is the EMA
    assert loop.validation_loss() == trained


def test_from_a_loss_that_is_not_finite_on_no_update_follows(make_loop):
    """The host looks at log lines only, so the steps until then must leave the weights alone."""
    loop = make_loop()
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


@pytest.mark.parametrize(
    "change, dropout",  # what is dropped is drawn again from the same state
    [({"train.micro_batch": 1}, 0), ({"train.activation_checkpointing": True}, 0.5), ({"train.compile": "on"}, 0)],
)
def test_what_saves_memory_or_time_does_not_change_the_updates(make_loop, change, dropout):
    base = {"optimizer.grad_clip": 0.1, "model.dropout": dropout}
    plain, changed, fresh = (make_loop({**base, **extra}) for extra in ({}, change, {}))
    for loop in (plain, changed) * 2:
        loop.train_step()
    limit = 1e-3 * distance(fresh.model.parameters(), plain.model.parameters())
    assert distance(changed.model.parameters(), plain.model.parameters()) < limit
    assert distance(changed.ema.parameters(), plain.ema.parameters()) < limit
    report = plain.window.report()
    assert changed.window.report() == pytest.approx(report, rel=1e-5)
    assert report["loss"] == pytest.approx((3 * report["rgb"] + 3 * report["mask"]) / 6, rel=1e-5)


def test_compiling_leaves_the_first_dropout_alone(make_loop, monkeypatch):
    monkeypatch.setattr(train_util, "try_compile", lambda network, *_: [network, torch.rand(1)][0])
    plain, compiled = (make_loop({"model.dropout": 0.5, "train.compile": kind}) for kind in ("off", "on"))
    for loop in (plain, compiled):
        torch.manual_seed(0)
        for weight in loop.model.parameters():
            torch.nn.init.normal_(weight, std=0.1)  # from layers of zeros dropout would make no difference
        loop.train_step()
    assert same(plain.model, compiled.model)


def test_a_preview_is_of_the_average_of_each_type_in_turn_and_of_the_same_noise(make_loop, tmp_path, monkeypatch):
    loop, given, pictures = make_loop({"model.class_cond": True, "train.max_images": 3}), [], []
    make, file = train_util.make_predict_x0, tmp_path / "images" / "000000.png"
    monkeypatch.setattr(train_util, "make_predict_x0", lambda *how: given.extend(how) or make(*how))
    for fresh in (True, False, False):
        if not fresh:
            random_weights(loop.ema)  # always the same ones
        loop.preview()
        pictures.append(np.asarray(Image.open(file)))
        file.unlink()
    assert np.array_equal(*pictures[1:]) and not np.array_equal(*pictures[:2])
    assert pictures[0].shape == (2 * 128, 3 * 128, 3)  # three images over their outlines, 16 px enlarged to 128
    assert np.abs(pictures[0][:128].astype(int) - 128).max() <= 1  # a fresh network predicts 0: mid-grey in RGB
    assert given[0] is loop.ema and given[-1].tolist() == [[0, 1, 0], [0, 0, 1], [0, 1, 0]]


def test_the_first_preview_comes_after_a_minute_of_a_new_training_and_changes_nothing(make_loop, monkeypatch):
    shown, weights, preview = [], [], TrainLoop.preview
    monkeypatch.setattr(train_util.time, "perf_counter", lambda: 25.0 * loop.step)
    monkeypatch.setattr(TrainLoop, "preview", lambda own: shown.append(own.step) or preview(own))
    monkeypatch.setattr(train_util.TrainLogger, "save_loss_plot", lambda own: shown.append("plot"))
    changes = {"train.iterations": 6, "diffusion.num_timestep": 4, "model.dropout": 0.1, "train.loggers": []}
    for interval, start, steps in ((0, 0, 1), (100, 0, 1), (100, 0, 5), (3, 0, 1), (100, 1, 1)):
        monkeypatch.setattr(train_util, "FIRST_PREVIEW", (60, steps))
        loop = make_loop(changes | {"train.log_image_interval": interval})
        loop.step = start
        assert loop.run() == 0
        weights.append(loop.model)
    steps = [number for number in shown if number != "plot"]
    assert steps == [4, 6, 5, 6, 3, 6, 6] and same(weights[0], weights[1])  # step 1 is for setting up
    assert shown[:5] == ["plot", "plot", 4, "plot", 6]


def test_a_range_of_timesteps_is_trained_measured_and_shown(make_loop, tmp_path, monkeypatch):
    loop = make_loop({"train.t_range": [440, 450], "train.max_images": 2}, val_data=tiny_data())
    seen, predict = [], loop.diffusion.training_losses
    monkeypatch.setattr(loop.diffusion, "training_losses", lambda m, x, t, *a: seen.append(t) or predict(m, x, t, *a))
    for _ in range(30):
        loop.train_step()
    assert set(torch.cat(seen).tolist()) == set(range(440, 450))
    seen.clear()
    values = loop.validation_loss()
    assert set(values) == {"val", "val_q2"} and torch.cat(seen).aminmax() == (440, 449)
    assert values["val"] == pytest.approx(values["val_q2"])
    # A network that returns what it is given shows its start: training images at timestep 449.
    monkeypatch.setattr(train_util, "make_predict_x0", lambda *_: lambda x_t, t: x_t if t == 449 else pictures[0])
    pictures = [torch.zeros(2, 6, 16, 16)]
    monkeypatch.setattr(train_util, "ddim", lambda x, plan, *_: pictures.append(x) or pictures.append(plan) or x)
    loop.preview()
    _, x, plan = pictures
    images, masks = loop.data.batch(np.arange(2), np.random.default_rng(0))
    x_start = loop.config.layout.encode(images, masks)
    a = loop.diffusion.alpha_bar(449)
    assert ((x - a**0.5 * x_start) / (1 - a) ** 0.5).std().item() == pytest.approx(1, abs=0.05)
    assert plan[0][0] == 449 and plan[-1] == (440, -1) and len(plan) == 10


def test_held_out_loss_weighs_the_trained_part_of_each_quartile(make_loop, monkeypatch):
    loop = make_loop({"train.t_range": [200, 600]}, val_data=tiny_data())
    random_weights(loop.ema)  # a fresh one costs the same at all timesteps
    values = loop.validation_loss()
    parts = [values[f"val_q{q}"] for q in (1, 2, 3)]
    assert values["val"] == pytest.approx(np.dot(parts, [50, 250, 100]) / 400) and len(values) == 4
    loop = make_loop({"diffusion.num_timestep": 10, "train.t_range": [2, 3]}, val_data=tiny_data())
    seen, losses = [], loop.diffusion.training_losses
    monkeypatch.setattr(loop.diffusion, "training_losses", lambda m, x, t, *a: seen.append(t) or losses(m, x, t, *a))
    assert set(loop.validation_loss()) == {"val", "val_q1"} and set(torch.cat(seen).tolist()) == {2}


def test_an_augmented_training_tells_its_network(make_loop, monkeypatch):
    loop, told = make_loop({"model.augment": 0.5}), []
    forward = loop.model.forward
    loop.model.forward = lambda x, t, types, augmented: told.append(augmented) or forward(x, t, types, augmented)
    before = loop.model.augment_emb.weight.clone()
    for _ in range(3):
        loop.train_step()
    assert not before.any() and loop.model.augment_emb.weight.any()
    assert torch.cat(told).shape == (9, 9) and (torch.cat(told) != 0).float().mean() > 0.2
    x, t = torch.randn(2, 6, 16, 16), torch.tensor([3, 700])
    with torch.no_grad():
        assert torch.equal(forward(x, t), forward(x, t, None, torch.zeros(2, 9)))
        assert not torch.equal(forward(x, t), forward(x, t, None, torch.ones(2, 9)))


def test_minutes_of_the_processor_add_up(make_loop, tmp_path, monkeypatch):
    clock = iter([10.0, 70.0, 100.0, 130.0])
    monkeypatch.setattr(train_util.time, "process_time", lambda: next(clock))
    loop = make_loop()
    loop._write_config()
    loop.save()
    saved = load_checkpoint(str(tmp_path), "-")
    assert saved.cpu_minutes == 1.0
    assert make_loop(resume=saved).cpu_minutes == 1.5


def test_ranks_and_steps_flip_draw_types_and_drop_out_in_their_own_way(make_loop, monkeypatch):
    changes = {"data.flip": "both"}, {"model.class_cond": True}
    flips, types = (make_loop({"data.bs_per_gpu": 16, **own}) for own in changes)
    flips.data, flipped, typed, seeds = tiny_data(1), [], [], []
    monkeypatch.setattr(torch, "manual_seed", seeds.append)
    for rank in (0, 1):
        monkeypatch.setattr(train_util.dist_util, "rank", lambda rank=rank: rank)
        flipped.append(flips.draw_batch()[0])
        typed.append(types.draw_batch()[0])
    for rank in (0, 1):
        monkeypatch.setattr(train_util.dist_util, "rank", lambda rank=rank: rank)
        for types.step in (0, 1):
            types.train_step()
    assert not torch.equal(*flipped) and not torch.equal(*typed) and len(set(seeds)) == 4


def test_of_many_held_out_images_some_are_measured_told_their_types_at_timesteps_in_no_order(make_loop, monkeypatch):
    loop, seen, chosen = make_loop({"model.class_cond": True}, val_data=tiny_data(9)), [], []
    batch, losses = loop.val_data.batch, loop.diffusion.training_losses

    def noting(model, x_start, t, *rest):
        seen.append((model.keywords["types"].tolist(), t))
        return losses(model, x_start, t, *rest)

    monkeypatch.setattr(train_util, "MAX_VAL_IMAGES", 3)
    monkeypatch.setattr(loop.val_data, "batch", lambda indices, rng: chosen.extend(indices) or batch(indices, rng))
    monkeypatch.setattr(loop.diffusion, "training_losses", noting)
    loop.validation_loss()
    assert chosen == [0, 4, 8] and all(types == [[0, 1, 1]] * 3 for types, _ in seen)  # each image shows both
    assert any((t.diff() < 0).any() for _, t in seen)
