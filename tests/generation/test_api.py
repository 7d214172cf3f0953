"""The generator in Python: keyed samples, settings, batches that do not fit, released checkpoints."""

import json
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import yaml

from guided_diffusion import DefectGen, InputError
from guided_diffusion.generation.api import auto_batch_size, parse_batch_size
from guided_diffusion.generation.settings import DEFAULT_STEPS, Settings
from guided_diffusion.training.checkpoint import latest_checkpoint, load_checkpoint


def load(pair, **options):
    return DefectGen.load(str(pair.large), str(pair.small), **{"device": "cpu", "precision": "fp32", **options})


@pytest.fixture(scope="module")
def gen(trained_pair):
    return load(trained_pair)


def test_three_lines(gen):
    batch = gen.generate(3, step_inference=400, seed=0, num_steps=5)
    assert batch.images.dtype == batch.masks.dtype == np.uint8
    assert batch.images.shape == (3, 32, 32, 3) and batch.masks.shape == (3, 32, 32)
    assert batch.masks.max() <= len(batch.class_names) == 3
    assert gen.generate(0, num_steps=5).images.shape == (0, 32, 32, 3)
    settings = Settings(step_inference=400, num_steps=5)
    assert (gen.generate(3, settings).images == batch.images).all()
    assert (gen.generate(3, settings, step_inference=100).images != batch.images).any()


@pytest.mark.parametrize("sampler", ["cold", "ddim", "ddpm", "dpmpp_2m"])
def test_samples_depend_on_seed_and_index_not_on_the_batch(gen, sampler):
    def run(indices, **options):
        return gen.generate(indices, num_steps=5, sampler=sampler, **options).images.astype(int)

    together = run(4, batch_size=4)
    assert np.abs(together - run(4, batch_size=3)).max() <= 2
    assert np.abs(run([2, 0]) - together[[2, 0]]).max() <= 2
    assert (run(4, batch_size=4) == together).all()
    assert np.abs(run(4, seed=1) - together).max() > 20
    assert np.abs(together[0] - together[1]).max() > 20


# --- batches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "image_size", "cpu", "cuda"),
    [
        (0, (64, 64), 1, 1),
        (16, (64, 64), 16, 16),
        (17, (64, 64), 9, 17),  # rather than 16 and 1
        (32, (64, 64), 16, 32),
        (100, (256, 256), 4, 50),
        (3, (2048, 2048), 1, 1),
    ],
)
def test_batch_sizes_by_rule(count, image_size, cpu, cuda):
    for kind, expected in (("cpu", cpu), ("cuda", cuda)):
        assert auto_batch_size(count, image_size, torch.device(kind)) == expected


def test_batch_sizes_are_parsed():
    assert parse_batch_size("auto") is None and parse_batch_size("12") == parse_batch_size(12) == 12
    for value in ("0", "-1", 0, "many", "", "1.5"):
        with pytest.raises(InputError, match=f"batch_size {value}: must be auto, or a number of images, at least 1"):
            parse_batch_size(value)


@pytest.fixture
def little_memory(gen):
    """little_memory(n): batches of more than n images do not fit; the networks as they are at the end."""
    hooks = []

    def limit(most, error=None):
        def refuse(module, arguments):
            if len(arguments[0]) > most:
                raise error or torch.OutOfMemoryError("CUDA out of memory.")

        hooks.append(gen.small.model.register_forward_pre_hook(refuse))

    yield limit
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("error", [None, MemoryError()], ids=["gpu", "python"])
@pytest.mark.parametrize("batch_size", [8, "auto"])
def test_a_batch_that_does_not_fit_is_halved_and_made_again(gen, little_memory, batch_size, error):
    quick, said = {"num_steps": 5, "sampler": "ddpm"}, []
    expected = gen.generate(7, batch_size=1, **quick)
    little_memory(1, error)
    batch = gen.generate(7, batch_size=batch_size, on_out_of_memory=lambda *args: said.append(args), **quick)
    assert said == [(3, 7), (1, 7)]
    assert (batch.images == expected.images).all() and (batch.masks == expected.masks).all()


def test_what_halving_does_not_mend(gen, little_memory):
    little_memory(1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        gen.generate(3, num_steps=5, batch_size=3)
    little_memory(0)
    with pytest.raises(InputError, match="image_size 32 32: not even one image .* memory of cpu; give a smaller"):
        gen.generate(1, num_steps=5)


# --- settings --------------------------------------------------------------------------------------------------------


def test_settings_are_completed_and_go_into_a_manifest(gen):
    assert gen.settings() == gen.settings(gen.settings()) == gen.settings(num_steps=DEFAULT_STEPS, image_size=[32, 32])
    assert json.loads(json.dumps(gen.settings(num_steps=[3, 2]).row())) == {
        "step_inference": 400,
        "sampler": "dpmpp_2m",
        "num_steps": [3, 2],
        "spacing": "logsnr",
        "handoff": "paper",
        "image_size": [32, 32],
        "windows": "off",
    }
    released = gen.settings(handoff="released")
    assert (released.num_steps, released.spacing) == (1000, "uniform")
    assert gen.settings(released) == released
    assert Settings(defects="crack", guidance_scale=2.0, margin=1).row().items() >= {
        ("defects", ("crack",)),
        ("guidance_scale", 2.0),
    }
    with pytest.raises(FrozenInstanceError):
        released.num_steps = 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step_inference": 2000}, "^step_inference 2000: must be from 0"),
        ({"spacing": "logsnt"}, r"unknown spacing 'logsnt' \(did you mean 'logsnr'"),
        ({"windows": "onn"}, r"unknown windows 'onn' \(did you mean 'on'"),
        ({"num_steps": 50, "handoff": "released"}, "num_steps 50: handoff released walks all 1000 steps"),
        ({"num_steps": (3, 2), "handoff": "released"}, r"num_steps 3\+2: handoff released walks all 1000 steps"),
        ({"image_size": (15, 16)}, "15 x 16.*multiples of 2"),
    ],
)
def test_settings_that_cannot_be(gen, options, words):
    with pytest.raises(InputError, match=words):
        gen.settings(**options)


def test_steps_in_all_or_by_network(gen):
    runs = [((3, 2), "uniform"), (5, "uniform"), ((2, 3), "uniform"), ((3, 2), "logsnr")]
    first, same, *others = (gen.generate(1, num_steps=n, spacing=spacing).images for n, spacing in runs)
    assert (first == same).all() and all((first != other).any() for other in others)


def test_one_network_suffices_where_the_other_has_no_step(trained_pair):
    large = DefectGen.load(str(trained_pair.large), None, device="cpu", precision="fp32")
    assert len(large.generate(1, step_inference=0, num_steps=3).images) == 1
    with pytest.raises(InputError, match="small: missing, but step_inference 400"):
        large.generate(1, num_steps=5)
    small = DefectGen.load(None, str(trained_pair.small), device="cpu", precision="fp32")
    assert len(small.generate(1, step_inference=1000, num_steps=3).images) == 1


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_ema_weights_are_sampled_unless_told_otherwise(trained_pair, gen):
    raw = load(trained_pair, weights="model")
    assert (raw.generate(1, num_steps=4).images != gen.generate(1, num_steps=4).images).any()
    ema = load_checkpoint(gen.large.path, "large").ema
    assert all(torch.equal(p, ema[name]) for name, p in gen.large.model.state_dict().items())


def test_released_checkpoints_sample_with_their_yaml(trained_pair, gen, tmp_path):
    """A dict of model, optimizer, ema and nothing else, as the released code writes."""
    paths = {}
    for name in ("large", "small"):
        raw = torch.load(latest_checkpoint(str(getattr(trained_pair, name))), weights_only=True)
        paths[name], paths[f"{name}_config"] = str(tmp_path / f"{name}.pt"), str(tmp_path / f"{name}.yml")
        torch.save({key: raw[key] for key in ("model", "optimizer", "ema")}, paths[name])
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(raw["config"]))
    with pytest.raises(InputError, match="large .*: this checkpoint carries no configuration; .* with large_config"):
        DefectGen.load(paths["large"], paths["small"], device="cpu", precision="fp32")
    released = DefectGen.load(**paths, num_defect=3, device="cpu", precision="fp32")
    assert (released.generate(2, num_steps=5).images == gen.generate(2, num_steps=5).images).all()


def test_bf16_stays_near_fp32(trained_pair, gen):
    bf16 = load(trained_pair, precision="bf16")
    a, b = (g.generate(2, num_steps=4).images.astype(int) for g in (gen, bf16))
    assert np.abs(a - b).mean() < 6
