"""The generator in Python: keyed samples, settings, released checkpoints."""

import json

import numpy as np
import pytest
import torch
import yaml

import guided_diffusion
from guided_diffusion import DefectGen, InputError


@pytest.fixture(scope="module")
def gen(trained_pair):
    return DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu", precision="fp32")


def test_three_lines(gen):
    batch = gen.generate(3, step_inference=400, seed=0, num_steps=5)
    assert batch.images.dtype == batch.masks.dtype == np.uint8
    assert batch.images.shape == (3, 32, 32, 3) and batch.masks.shape == (3, 32, 32)
    assert batch.masks.max() <= len(batch.class_names) == 3
    assert gen.generate(0, num_steps=5).images.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("sampler", ["cold", "ddim", "ddpm", "dpmpp_2m"])
def test_samples_depend_on_seed_and_index_not_on_the_batch(gen, sampler):
    def run(indices, **options):
        return gen.generate(indices, num_steps=5, sampler=sampler, **options).images.astype(int)

    together = run(4, batch_size=4)
    apart = run(4, batch_size=3)
    assert np.abs(together - apart).max() <= 2
    assert np.abs(run([2, 0]) - together[[2, 0]]).max() <= 2
    assert (run(4, batch_size=4) == together).all()
    assert np.abs(run(4, seed=1) - together).max() > 20
    assert np.abs(together[0] - together[1]).max() > 20


@pytest.fixture
def little_memory(gen):
    """little_memory(n): batches of more than n images do not fit; the networks as they are at the end."""
    hooks = []

    def limit(most, error=torch.OutOfMemoryError("CUDA out of memory.")):  # noqa: B008
        def refuse(module, arguments):
            if len(arguments[0]) > most:
                raise error

        hooks.append(gen.small.model.register_forward_pre_hook(refuse))

    yield limit
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
@pytest.mark.parametrize("batch_size", [8, "auto"])
def test_a_batch_that_does_not_fit_is_halved_and_made_again(gen, little_memory, batch_size, error):
    expected = gen.generate(7, num_steps=5, sampler="ddpm", batch_size=1)
    little_memory(1, error)
    said = []
    batch = gen.generate(
        7, num_steps=5, sampler="ddpm", batch_size=batch_size, on_out_of_memory=lambda *args: said.append(args)
    )
    assert said == [(3, 7), (1, 7)]
    assert (batch.images == expected.images).all() and (batch.masks == expected.masks).all()


def test_samples_made_before_the_memory_ran_out_are_kept(gen, little_memory):
    expected = gen.generate(6, num_steps=5, batch_size=2).images
    seen, said = [], []

    def later(pairs):
        """The memory shrinks with the third batch."""
        seen.append(pairs)
        if len(seen) == 5:
            little_memory(1)
        return pairs

    images = gen.generate(
        6, num_steps=5, batch_size=2, progress=later, on_out_of_memory=lambda *args: said.append(args)
    ).images
    assert said == [(1, 2)]
    assert (images[:4] == expected[:4]).all() and np.abs(images.astype(int) - expected).max() <= 2


def test_where_not_even_one_fits_it_says_what_to_do(gen, little_memory):
    little_memory(0)
    with pytest.raises(InputError, match="--image_size 32 32: not even one image .* memory of cpu; give a smaller"):
        gen.generate(3, num_steps=5)


def test_other_errors_are_not_taken_for_a_lack_of_memory(gen, little_memory):
    little_memory(1, RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        gen.generate(3, num_steps=5, batch_size=3)
    with pytest.raises(InputError, match="--batch_size 0: must be auto"):
        gen.generate(3, num_steps=5, batch_size=0)


@pytest.mark.parametrize("step_inference", [0, 1, 2, 400, 1000])
@pytest.mark.parametrize("handoff", ["paper", "released"])
def test_the_trial_for_measuring_memory_uses_every_network_that_takes_part(gen, step_inference, handoff, monkeypatch):
    used = set()
    hooks = [
        network.model.register_forward_pre_hook(lambda module, arguments: used.add((module, len(arguments[0]))))
        for network in (gen.large, gen.small)
    ]
    monkeypatch.setattr(
        guided_diffusion.generation.api, "choose_batch_size", lambda run, *arguments: run(3) or arguments
    )
    settings = gen.check_settings(step_inference, handoff=handoff)
    assert gen.choose_batch_size(40, settings) == (40, gen.device, [32, 32])
    for hook in hooks:
        hook.remove()
    networks = [gen.large] * (step_inference < 1000) + [gen.small] * (step_inference > 0)
    assert used == {(network.model, 3) for network in networks}


def test_other_sizes_and_the_multiple(gen):
    assert gen.generate(1, num_steps=4, image_size=(16, 24)).masks.shape == (1, 16, 24)
    with pytest.raises(InputError, match="15 x 16.*multiples of 2"):
        gen.generate(1, num_steps=4, image_size=(15, 16))


def test_handoff_released_walks_all_steps(gen):
    assert gen.check_settings(400, handoff="released")["num_steps"] == 1000
    with pytest.raises(InputError, match="--num_steps 50: --handoff released walks all 1000 steps"):
        gen.check_settings(400, num_steps=50, handoff="released")


def test_steps_in_all_or_by_network(gen):
    settings = gen.check_settings(400, num_steps=(3, 2), spacing="logsnr")
    assert settings["num_steps"] == [3, 2] and settings["spacing"] == "logsnr"
    assert json.loads(json.dumps(settings)) == settings  # what a manifest holds is what was checked
    assert gen.check_settings(400)["num_steps"] == guided_diffusion.generation.api.DEFAULT_STEPS
    assert gen.check_settings(400, handoff="released", spacing="logsnr")["spacing"] == "uniform"
    by_network = gen.generate(1, num_steps=(3, 2), sampler="dpmpp_2m", spacing="uniform").images
    assert (gen.generate(1, num_steps=5, sampler="dpmpp_2m", spacing="uniform").images == by_network).all()
    assert (gen.generate(1, num_steps=(2, 3), sampler="dpmpp_2m", spacing="uniform").images != by_network).any()
    assert (gen.generate(1, num_steps=(3, 2), sampler="dpmpp_2m", spacing="logsnr").images != by_network).any()
    with pytest.raises(InputError, match=r"--num_steps 3\+2: --handoff released walks all 1000 steps"):
        gen.check_settings(400, num_steps=(3, 2), handoff="released")
    with pytest.raises(InputError, match=r"unknown --spacing 'logsnt' \(did you mean 'logsnr'"):
        gen.check_settings(400, spacing="logsnt")


def test_one_network_suffices_where_the_other_has_no_step(trained_pair):
    large = DefectGen.load(str(trained_pair.large), None, device="cpu", precision="fp32")
    assert len(large.generate(1, step_inference=0, num_steps=3).images) == 1
    with pytest.raises(InputError, match="--small_recep: missing, but --step_inference 400"):
        large.generate(1, step_inference=400, num_steps=5)
    small = DefectGen.load(None, str(trained_pair.small), device="cpu", precision="fp32")
    assert len(small.generate(1, step_inference=1000, num_steps=3).images) == 1


def test_swapped_checkpoints_are_noticed(trained_pair):
    with pytest.raises(InputError, match="--large_recep .*patch-level network, which belongs to --small_recep"):
        DefectGen.load(str(trained_pair.small), str(trained_pair.large), device="cpu", precision="fp32")


def test_ema_weights_are_sampled_unless_told_otherwise(trained_pair, gen):
    raw = DefectGen.load(
        str(trained_pair.large), str(trained_pair.small), device="cpu", precision="fp32", weights="model"
    )
    assert (raw.generate(1, num_steps=4).images != gen.generate(1, num_steps=4).images).any()
    ema = guided_diffusion.training.checkpoint.load_checkpoint(gen.large.path, "--large_recep").ema
    assert all(torch.equal(p, ema[name]) for name, p in gen.large.model.state_dict().items())


def test_released_checkpoints_sample_with_their_yaml(trained_pair, gen, tmp_path):
    """A dict of model, optimizer, ema and nothing else, as the released code writes."""
    paths = {}
    for name in ("large", "small"):
        file = guided_diffusion.training.checkpoint.latest_checkpoint(str(getattr(trained_pair, name)))
        raw = torch.load(file, weights_only=True)
        torch.save({key: raw[key] for key in ("model", "optimizer", "ema")}, tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(raw["config"]))
        paths[name] = str(tmp_path / f"{name}.pt")
    with pytest.raises(InputError, match="carries no configuration; name its YAML file with --large_recep_config"):
        DefectGen.load(paths["large"], paths["small"], device="cpu", precision="fp32")
    released = DefectGen.load(
        paths["large"],
        paths["small"],
        large_config=str(tmp_path / "large.yml"),
        small_config=str(tmp_path / "small.yml"),
        num_defect=3,
        device="cpu",
        precision="fp32",
    )
    ours = gen.generate(2, num_steps=5)
    assert (released.generate(2, num_steps=5).images == ours.images).all()


def test_bf16_stays_near_fp32(trained_pair, gen):
    bf16 = DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu", precision="bf16")
    a, b = (g.generate(2, num_steps=4).images.astype(int) for g in (gen, bf16))
    assert np.abs(a - b).mean() < 6
