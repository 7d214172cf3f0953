"""Autoguidance: networks led away from worse ones, which may be of another width and parameterization."""

import numpy as np
import pytest
import torch
from told import save_untrained, told

from guided_diffusion import DefectGen, InputError
from guided_diffusion.generation import api

QUICK = {"num_steps": 4}
MASKS = np.zeros((1, 16, 16), np.uint8)
MASKS[0, 4:9, 4:9] = 2


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """Work folders: a pair that can be told types, its guides, and what cannot guide it."""
    folder, eps = tmp_path_factory.mktemp("guides"), {"diffusion.parameterization": "eps"}
    for name, size, changes in (
        ("large", "large", {"train.known_share": 0.3}),
        ("small", "small", {}),
        ("early_large", "large", {**eps, "model.model_channels": 16, "model.norm_groups": 4}),
        ("early_small", "small", {"train.t_range": [0, 500]}),
        ("untold", "large", {"model.class_cond": False}),
        ("linear", "large", {"diffusion.schedule": "linear"}),
        ("types", "small", {"data.label_map": {"crack": 1, "hole": 2, "burn": 3}}),
    ):
        save_untrained(folder / name, size, **changes)
    return folder


def load(nets, *guides, large="large", small="small"):
    paths = [str(nets / name) if name else None for name in (large, small)]
    return DefectGen.load(*paths, guides=[str(nets / name) for name in guides], device="cpu", precision="fp32")


@pytest.mark.parametrize(
    "options",
    [{}, {"defects": "crack"}, {"masks": MASKS, "backgrounds": np.full((1, 16, 16, 3), 80, np.uint8)}],
)
@pytest.mark.parametrize("scale", [-1.0, 2.5])
def test_a_network_that_guides_itself_changes_nothing(nets, options, scale):
    plain, guided = load(nets), load(nets, "small", "large")
    expected = plain.generate(2, **options, **QUICK).images
    assert (guided.generate(2, guidance_scale=scale, **options, **QUICK).images == expected).all()
    wide = {"image_size": (16, 40), "windows": "on", "seed": 1, **QUICK}
    assert (guided.generate(1, guidance_scale=scale, **wide).images == plain.generate(1, **wide).images).all()


def test_one_step_is_as_defined(nets, monkeypatch):
    """x_start = guide + w (network - guide), both told the same; a network without a guide is not guided."""
    steps, sample = {}, api.two_stage_sample

    def noting(x, *args, large, small, **options):
        steps.update({name: (x, predict(x, 700)) for name, predict in (("large", large), ("small", small))})
        return sample(x, *args, large=large, small=small, **options)

    monkeypatch.setattr(api, "two_stage_sample", noting)
    gen = load(nets, "early_large")
    gen.generate(2, defects=["hole", "crack,dent"], guidance_scale=3.0, **QUICK)
    t, types, a = torch.full((2,), 700), told([2], [1, 3]), gen.diffusion.alpha_bar(700)
    for name, (x, x_start) in steps.items():
        expected = gen.networks[name].model(x, t, types)
        if name == "large":
            guide = (x - (1 - a) ** 0.5 * gen.guides["large"].model(x, t, types)) / a**0.5
            expected = guide + 3 * (expected - guide)
        assert torch.allclose(x_start, expected, rtol=1e-4, atol=1e-4)


def test_the_guides_that_are_used_are_recorded(nets):
    gen = load(nets, "early_large", "early_small", large="untold")
    sha256 = {name: guide.sha256 for name, guide in gen.guides.items()}
    assert sha256.keys() == {"large", "small"}
    for w, S, used in ((1.0, 400, None), (2.0, 400, sha256), (2.0, 0, {"large": sha256["large"]})):
        row = gen.settings(guidance_scale=w, step_inference=S).row()
        assert row.get("guides") == used


@pytest.mark.parametrize(
    ("guides", "networks", "settings", "words"),
    [
        (["linear"], {}, {}, "disagree in diffusion.schedule: linear against cosine"),
        (["types"], {}, {}, "disagree in data.label_map: crack, hole, burn against crack, hole, dent"),
        (["early_large", "large"], {}, {}, "^guides .*/large/.*: goes with large, which has a guide already; leave"),
        (["early_small"], {"small": None}, {}, "goes with small, which is missing"),
        (["early_small"], {}, {"step_inference": 600}, "early_small.* timesteps 0 to 499 only; give from 0 to 500$"),
        ([], {"large": "untold"}, {"guidance_scale": 2.0, "step_inference": 0}, "train with it, give guides, or leave"),
    ],
)
def test_guides_that_cannot_be(nets, guides, networks, settings, words):
    with pytest.raises(InputError, match=words):
        load(nets, *guides, **networks).settings(**settings)
