"""The generator in Python: keyed samples, settings, batches that do not fit, released checkpoints."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from guided_diffusion import DefectGen, InputError, Settings
from guided_diffusion.data.records import read_manifest
from guided_diffusion.generation import api
from guided_diffusion.generation.network import choose_batch_size, most_at_once
from guided_diffusion.generation.settings import DEFAULT_STEPS
from guided_diffusion.keyed_random import sample_noise
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint


def load(large, small, **options):
    return DefectGen.load(large, small, **{"device": "cpu", "precision": "fp32", **options})


def test_three_lines(generator):
    batch = generator.generate(3, step_inference=400, seed=0, num_steps=5)
    assert batch.images.dtype == batch.masks.dtype == np.uint8
    assert batch.images.shape == (3, 32, 32, 3) and batch.masks.shape == (3, 32, 32)
    assert batch.masks.max() <= len(batch.class_names) == 3
    assert generator.generate(0, num_steps=5).images.shape == (0, 32, 32, 3)
    settings = Settings(step_inference=400, num_steps=5)
    assert (generator.generate(3, settings).images == batch.images).all()
    assert (generator.generate(3, settings, step_inference=100).images != batch.images).any()


@pytest.mark.parametrize("sampler", ["cold", "ddim", "ddpm", "dpmpp_2m"])
def test_samples_depend_on_seed_and_index_not_on_the_batch(generator, sampler):
    def run(indices, **options):
        return generator.generate(indices, num_steps=5, sampler=sampler, **options).images.astype(int)

    together = run(4, batch_size=4)
    assert np.abs(together - run(4, batch_size=3)).max() <= 2
    assert np.abs(run([2, 0]) - together[[2, 0]]).max() <= 2
    assert (run(4, batch_size=4) == together).all()
    assert np.abs(run(4, seed=1) - together).max() > 20
    assert np.abs(together[0] - together[1]).max() > 20


def test_the_first_noise_is_not_what_a_sampler_adds(generator, monkeypatch):
    keys = []
    monkeypatch.setattr(api, "sample_noise", lambda *args, **how: keys.append(args[2]) or sample_noise(*args, **how))
    generator.generate(1, num_steps=5, sampler="ddpm")
    assert keys[:2] == [1000, 999] and len(set(keys)) == len(keys) == 5


@pytest.mark.parametrize(
    ("count", "image_size", "cpu", "cuda"),
    [
        (0, (64, 64), 1, 1),
        (16, (64, 64), 16, 16),
        (17, (64, 64), 9, 17),  # rather than 16 and 1
        (2000, (64, 64), 16, 667),  # by memory 900 at most
        (100, (256, 256), 4, 50),
        (3, (2048, 2048), 1, 1),
    ],
)
def test_batch_sizes(count, image_size, cpu, cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 2700 * 2**20))
    for kind, expected in (("cpu", cpu), ("cuda", cuda)):
        largest = most_at_once(image_size, 2**20, torch.device(kind))
        assert choose_batch_size("auto", count, largest) == expected and choose_batch_size("12", count, 1) == 12


def test_numbers_of_any_type_are_plain_ones(generator, tmp_path):
    given = {"num_steps": np.int64(3), "step_inference": np.int32(400), "image_size": np.array([32, 32])}
    batch = generator.generate(np.int64(2), seed=np.int64(1), masks=np.zeros((32, 32), int), **given)
    generator.generate((k for k in (0, 1)), seed=1, masks=np.zeros((1, 32, 32), int), num_steps="1+2")
    assert Settings(guidance_scale=np.float32(2)).guidance_scale == 2
    batch.save(tmp_path / "a")
    assert read_manifest(str(tmp_path / "a"))[1]["seed"] == 1
    assert len(generator.generate(np.array([1, 0]), num_steps=3)[:1]) == 1
    how = {"seeds": (np.int64(k) for k in (1, 2)), "scale": np.float32(1), "num_steps": 3}
    generator.insert(Image.new("RGB", (32, 32)), np.eye(32, dtype=int), **how).save(tmp_path / "b")


@pytest.mark.parametrize(
    ("count", "given"),
    [
        *((count, {}) for count in (1.5, -3, [-1], None, ["a"])),
        *((1, {"seed": seed}) for seed in (-1, 1.5, None)),
        *((1, {"num_steps": steps}) for steps in ((1, 2, 3), (2,), 1.5, "x")),
        *((1, {"step_inference": step}) for step in (400.5, "400", -1)),
        *((1, {"image_size": size}) for size in (64, (64,), (64.0, 64.0))),
        *((1, {name: value}) for name, value in (("guidance_scale", "2"), ("sampler", None), ("margin", 0.5))),
        *((1, {"defects": types}) for types in (3, [3], [None], [["pit", 1]])),
        *((1, {name: value}) for name, value in (("sampler", ["ddim"]), ("num_step", 3), ("settings", {"margin": 1}))),
        (1, {"backgrounds": [1], "masks": np.ones((32, 32), int)}),
    ],
)
def test_numbers_that_are_none_are_refused(generator, count, given):
    with pytest.raises(InputError, match=next(iter(given), "num_samples")):
        generator.generate(count, **{"num_steps": 3, **given})


def test_settings_are_completed_and_go_into_a_manifest(generator):
    complete = generator.settings()
    assert complete == generator.settings(complete) == generator.settings(num_steps=DEFAULT_STEPS, image_size=[32, 32])
    row = generator.settings(num_steps=[3, 2]).row()
    size = {"image_size": (32, 32), "windows": "off", "spacing": "logsnr", "handoff": "paper"}
    assert row == {"step_inference": 400, "sampler": "dpmpp_2m", "num_steps": (3, 2), **size}
    told = {"defects": ("crack",), "guidance_scale": 2.0}
    assert Settings(defects="crack", guidance_scale=2.0).row().items() >= told.items()
    released = generator.settings(handoff="released")
    assert (released.num_steps, released.spacing) == (1000, "uniform") and generator.settings(released) == released
    with pytest.raises(InputError, match=r"unknown spacing 'logsnt' \(did you mean 'logsnr'"):
        generator.settings(spacing="logsnt")


def test_one_network_suffices_where_the_other_has_no_step(trained_pair):
    large, small = load(trained_pair.large, None), load(None, trained_pair.small)
    assert len(large.generate(1, step_inference=0, num_steps=3).images) == 1
    assert len(small.generate(1, step_inference=1000, num_steps=3).images) == 1


@pytest.mark.parametrize(
    ("large", "small", "allowed", "remedy"),
    [
        ((0, 1000), (0, 1000), range(1001), ""),
        ((350, 1000), (0, 450), range(350, 451), "give from 350 to 450"),
        ((600, 1000), (0, 400), range(0), "no other will do"),
        ((0, 500), (0, 1000), range(1000, 1001), "give from 1000 to 1000"),  # one that never starts from noise
        ((0, 1000), (50, 1000), range(1), "give from 0 to 0"),
    ],
)
def test_a_hand_off_outside_the_trained_timesteps_is_refused(generator, large, small, allowed, remedy):
    networks = [
        replace(network, config=replace(network.config, train=replace(network.config.train, t_range=t_range)))
        for network, t_range in zip(generator.networks.values(), (large, small), strict=True)
    ]
    pair, every = DefectGen(networks, generator.device, "fp32", "ema"), {"num_steps": 1000, "spacing": "uniform"}
    assert pair.hand_offs == allowed
    for S, steps in product({0, 349, 350, 450, 451, 1000}, (every, {})):  # whether or not a step lands outside
        if S in allowed:
            pair.settings(step_inference=S, **steps)
            continue
        with pytest.raises(InputError, match=rf"^step_inference {S}: the (large|small) network, .*\.pt, .* {remedy}$"):
            pair.settings(step_inference=S, **steps)
    if large[0]:  # which the released hand-off walks down to 0
        with pytest.raises(InputError, match=f"at timesteps {large[0]} to 999 only; {remedy}, with handoff paper$"):
            pair.settings(handoff="released")


def test_devices_are_texts_or_those_of_torch(trained_pair, monkeypatch):
    assert load(*trained_pair, device=torch.device("cpu")).device == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, fault in (("cuda", "no CUDA GPU can be used here"), ("mps", "unknown device")):
        with pytest.raises(InputError, match=f"^device {device}: {fault}; use"):
            load(*trained_pair, device=torch.device(device))


def test_ema_weights_are_sampled_unless_told_otherwise(trained_pair, generator):
    raw = load(*trained_pair, weights="model")
    assert (raw.generate(1, num_steps=4).images != generator.generate(1, num_steps=4).images).any()
    ema = load_checkpoint(generator.networks["large"].path, "large").ema
    assert all(torch.equal(p, ema[name]) for name, p in generator.networks["large"].model.state_dict().items())


def test_released_checkpoints_sample_with_their_yaml(trained_pair, generator, tmp_path):
    """A dict of model, optimizer, ema and nothing else, as the released code writes."""
    paths = {}
    for name in ("large", "small"):
        raw = torch.load(latest_checkpoint(getattr(trained_pair, name)), weights_only=True)
        paths[name], paths[f"{name}_config"] = str(tmp_path / f"{name}.pt"), str(tmp_path / f"{name}.yml")
        torch.save({key: raw[key] for key in ("model", "optimizer", "ema")}, paths[name])
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(raw["config"]))
    with pytest.raises(InputError, match="large .*: this checkpoint carries no configuration; .* with large_config"):
        load(paths["large"], paths["small"])
    released = load(**paths, num_defect=3)
    assert (released.generate(2, num_steps=5).images == generator.generate(2, num_steps=5).images).all()
    load(**{**paths, "small": trained_pair.small}, num_defect=3)  # a YAML file that agrees is no harm
    raw["config"]["diffusion"]["schedule"] = "linear"
    (tmp_path / "small.yml").write_text(yaml.safe_dump(raw["config"]))
    with pytest.raises(InputError, match="disagree in diffusion.schedule"):
        load(**{**paths, "small": trained_pair.small}, num_defect=3)


def test_bf16_stays_near_fp32(trained_pair, generator):
    bf16 = load(*trained_pair, precision="bf16")
    a, b = (each.generate(2, num_steps=4).images.astype(int) for each in (generator, bf16))
    assert 0 < np.abs(a - b).mean() < 6


def test_what_does_not_fit_into_the_memory_is_refused(generator, monkeypatch):
    monkeypatch.setattr("guided_diffusion.parallel.cpu_memory", lambda: 2**26)
    assert generator.generate(2, num_steps=4).images.shape == (2, 32, 32, 3)
    for given, said in (
        ({"image_size": (4096, 4096)}, r"image_size 4096 4096: one image takes about .* give a smaller size, or try"),
        ({"batch_size": 900}, r"batch_size 900: a batch takes about .* lower it$"),
        ({"batch_size": "9" * 5000}, r"batch_size '9+\.\.\..*: must be auto, or a number of images from 1 to"),
        ({"image_size": (33, 33)}, r"image size 33 x 33: .* give another image_size, or windows on$"),
    ):
        with pytest.raises(InputError, match=f"^{said}"):
            generator.generate(1000, **given)
