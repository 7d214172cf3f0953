"""The generator in Python: keyed samples, settings, released checkpoints."""

import numpy as np
import pytest
import torch
import yaml

import guided_diffusion
from guided_diffusion import DefectGen, InputError


@pytest.fixture(scope="module")
def gen(trained_pair):
    return DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu")


def test_three_lines(gen):
    batch = gen.generate(3, step_inference=400, seed=0, num_steps=5)
    assert batch.images.dtype == batch.masks.dtype == np.uint8
    assert batch.images.shape == (3, 32, 32, 3) and batch.masks.shape == (3, 32, 32)
    assert batch.masks.max() <= len(batch.class_names) == 3
    assert gen.generate(0, num_steps=5).images.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("sampler", ["cold", "ddim", "ddpm"])
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


def test_other_sizes_and_the_multiple(gen):
    assert gen.generate(1, num_steps=4, image_size=(16, 24)).masks.shape == (1, 16, 24)
    with pytest.raises(InputError, match="15 x 16.*multiples of 2"):
        gen.generate(1, num_steps=4, image_size=(15, 16))


def test_handoff_released_walks_all_steps(gen):
    assert gen.check_settings(400, handoff="released")["num_steps"] == 1000
    with pytest.raises(InputError, match="--num_steps 50: --handoff released walks all 1000 steps"):
        gen.check_settings(400, num_steps=50, handoff="released")


def test_one_network_suffices_where_the_other_has_no_step(trained_pair):
    large = DefectGen.load(str(trained_pair.large), None, device="cpu")
    assert len(large.generate(1, step_inference=0, num_steps=3).images) == 1
    with pytest.raises(InputError, match="--small_recep: missing, but --step_inference 400"):
        large.generate(1, step_inference=400, num_steps=5)
    small = DefectGen.load(None, str(trained_pair.small), device="cpu")
    assert len(small.generate(1, step_inference=1000, num_steps=3).images) == 1


def test_swapped_checkpoints_are_noticed(trained_pair):
    with pytest.raises(InputError, match="--large_recep .*patch-level network, which belongs to --small_recep"):
        DefectGen.load(str(trained_pair.small), str(trained_pair.large), device="cpu")


def test_ema_weights_are_sampled_unless_told_otherwise(trained_pair, gen):
    raw = DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu", weights="model")
    assert (raw.generate(1, num_steps=4).images != gen.generate(1, num_steps=4).images).any()
    ema = guided_diffusion.checkpoint.load_checkpoint(gen.large.path, "--large_recep").ema
    assert all(torch.equal(p, ema[name]) for name, p in gen.large.model.state_dict().items())


def test_released_checkpoints_sample_with_their_yaml(trained_pair, gen, tmp_path):
    """A dict of model, optimizer, ema and nothing else, as the released code writes."""
    paths = {}
    for name in ("large", "small"):
        file = guided_diffusion.checkpoint.latest_checkpoint(str(getattr(trained_pair, name)))
        raw = torch.load(file, weights_only=True)
        torch.save({key: raw[key] for key in ("model", "optimizer", "ema")}, tmp_path / f"{name}.pt")
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump(raw["config"]))
        paths[name] = str(tmp_path / f"{name}.pt")
    with pytest.raises(InputError, match="carries no configuration; name its YAML file with --large_recep_config"):
        DefectGen.load(paths["large"], paths["small"], device="cpu")
    released = DefectGen.load(
        paths["large"],
        paths["small"],
        large_config=str(tmp_path / "large.yml"),
        small_config=str(tmp_path / "small.yml"),
        num_defect=3,
        device="cpu",
    )
    ours = gen.generate(2, num_steps=5)
    assert (released.generate(2, num_steps=5).images == ours.images).all()


def test_bf16_stays_near_fp32(trained_pair, gen):
    bf16 = DefectGen.load(str(trained_pair.large), str(trained_pair.small), device="cpu", precision="bf16")
    a, b = (g.generate(2, num_steps=4).images.astype(int) for g in (gen, bf16))
    assert np.abs(a - b).mean() < 6
