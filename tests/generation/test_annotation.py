"""Proposed masks for photographs: held images, the mean of several draws, a folder that training can read."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from told import MAP, save_untrained

from guided_diffusion import DefectGen, InputError
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.diffusion.conditioning import known_photographs
from guided_diffusion.generation import api
from guided_diffusion.generation.annotation import annotate, check_annotation
from guided_diffusion.joint_tensor import JointLayout
from guided_diffusion.prepare.layouts import read_label_map


def photographs(count, size=(32, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("background", [True, False])
def test_mask_probabilities_add_up_and_agree_with_the_decoded_mask(background):
    layout = JointLayout(("a", "b"), background)
    x = torch.rand(2, layout.num_channels, 20, 20, generator=torch.Generator().manual_seed(0)) * 1.4 - 0.2
    shares = layout.mask_probabilities(x)
    assert shares.shape == (2, 3, 20, 20) and (shares.sum(dim=1) - 1).abs().max() < 1e-6 and shares.min() >= 0
    best = x[:, 3:].max(dim=1).values
    decided = (best > 0) & (best < 1)  # outside values are cut off to these, where they no longer differ
    assert np.array_equal(shares.argmax(dim=1).numpy()[decided], layout.decode(x)[1][decided])


@pytest.mark.parametrize("background", [True, False])
def test_a_photograph_is_held_and_its_mask_is_free(background):
    layout = JointLayout(("a", "b"), background)
    known = known_photographs(layout, photographs(2), torch.device("cpu"))
    assert known.where[:, :3].all() and not known.where[:, 3:].any()
    assert np.array_equal(layout.decode(known.values)[0], photographs(2))


def test_the_proposal_is_the_mean_of_the_draws_at_the_photographs_size():
    shares = np.zeros((3, 8, 8), np.float32)
    shares[0], shares[2, 2:6, 2:6] = 1, 0.75
    shares[0, 2:6, 2:6] = 0.25
    seen = []

    def mask_shares(photograph, draws, seed, settings):
        seen.append(photograph.shape)
        return shares

    generator = SimpleNamespace(mask_shares=mask_shares)
    mask, confidence = annotate(generator, photographs(1, (64, 48))[0], 4, 0, {"image_size": [8, 8]})
    assert seen == [(8, 8, 3)] and mask.shape == confidence.shape == (64, 48)
    assert (mask[20:44, 15:33] == 2).all() and not mask[:14].any() and not mask[:, :10].any()
    assert abs(confidence[32, 24] - 0.75) < 1e-6 and abs(confidence[0, 0] - 1) < 1e-6


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    return [save_untrained(folder / size, size, **{"train.known_share": 0.3}) for size in ("large", "small")]


def test_shares_do_not_depend_on_the_batch(pair, monkeypatch):
    generator = DefectGen.load(*map(str, pair), device="cpu", precision="fp32")
    settings, photograph = generator.check_settings(400, 4), photographs(1, (16, 16))[0]
    whole = generator.mask_shares(photograph, 3, 0, settings)
    monkeypatch.setattr(api, "DRAWS_AT_A_TIME", 1)
    parts = generator.mask_shares(photograph, 3, 0, settings)
    assert whole.shape == (4, 16, 16) and np.abs(whole.sum(axis=0) - 1).max() < 1e-5
    assert np.abs(whole - parts).max() < 1e-4


def test_a_folder_of_photographs(run_script, pair, tmp_path):
    (tmp_path / "photos").mkdir()
    for name, size in (("a", (32, 32)), ("b b", (40, 64))):
        Image.fromarray(photographs(1, size)[0]).save(tmp_path / "photos" / f"{name}.png")
    networks = ("--large_recep", pair[0], "--small_recep", pair[1])

    def run(*flags, status=0):
        quick = ("--num_steps", 4, "--precision", "fp32", "--draws", 2)
        place = ("--sample_dir", tmp_path / "out", "--annotate", tmp_path / "photos")
        result = run_script("inference.py", *networks, *place, *quick, *flags)
        assert result.returncode == status and "Traceback" not in result.stderr, result.stdout + result.stderr
        return result

    assert "2 photographs annotated" in run().stdout
    out = tmp_path / "out"
    for name, size in (("a", (32, 32)), ("b b", (40, 64))):
        image, mask, confidence = (
            np.array(Image.open(out / kind / f"{name}.png")) for kind in ("images", "masks_converted_dir", "confidence")
        )
        assert np.array_equal(image, photographs(1, size)[0]) and mask.shape == confidence.shape == size
        assert confidence.min() >= 255 // 4  # the best of four shares
        assert (out / "overlay" / f"{name}.png").exists() and (out / "masks" / f"{name}.png").exists()
    assert read_label_map(str(out)) == MAP
    if any(np.array(Image.open(path)).any() for path in (out / "masks_converted_dir").iterdir()):
        assert len(DefectDataset.load(str(out), 3, (32, 32))) == 2
    assert json.loads((out / "annotate.json").read_text())["draws"] == 2

    before = (out / "masks_converted_dir" / "a.png").read_bytes()
    (out / "masks_converted_dir" / "b b.png").unlink()
    assert "1 photographs annotated" in run().stdout
    assert (out / "masks_converted_dir" / "a.png").read_bytes() == before
    assert "made with another seed" in run("--seed", 1, status=2).stderr
    for flag in (("--masks", tmp_path / "photos"), ("--num_samples", 3)):
        assert f"--annotate and {flag[0]}: exclude each other" in run(*flag, status=2).stderr
    assert "--draws 0" in run("--draws", 0, status=2).stderr


def test_known_types_are_told(pair, monkeypatch):
    generator = DefectGen.load(*map(str, pair), device="cpu", precision="fp32")
    seen, forward = [], generator.large.forward

    def noting(x, t, types):
        seen.append(types)
        return forward(x, t, types)

    monkeypatch.setitem(generator.large.__dict__, "forward", noting)
    for defects, row in ((None, [1, 0, 0, 0]), (["hole,dent"], [0, 0, 1, 1])):
        settings = generator.check_settings(400, 4, defects=defects)
        generator.mask_shares(photographs(1, (16, 16))[0], 2, 0, settings)
        assert seen[-1].tolist() == [row, row]
    with pytest.raises(InputError, match="the types of all photographs"):
        check_annotation(generator, 2, ["hole", "dent"])


def test_a_pair_of_windows_annotates_whole_photographs_in_windows(run_script, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(photographs(1, (40, 40))[0]).save(tmp_path / "photos" / "a.png")
    windows = {"train.known_share": 0.3, "data.fit": "random_crop", "data.crop_from": 32}
    networks = [save_untrained(tmp_path / size, size, **windows) for size in ("large", "small")]
    flags = ("--large_recep", networks[0], "--small_recep", networks[1], "--annotate", tmp_path / "photos")
    quick = ("--sample_dir", tmp_path / "out", "--num_steps", 4, "--precision", "fp32", "--draws", 1)
    result = run_script("inference.py", *flags, *quick)
    assert result.returncode == 0, result.stderr
    record = json.loads((tmp_path / "out" / "annotate.json").read_text())
    assert record["image_size"] == [32, 32] and record["windows"] == "on" and all(record["checkpoints"].values())
    assert np.array(Image.open(tmp_path / "out" / "masks_converted_dir" / "a.png")).shape == (40, 40)
    result = run_script("inference.py", *flags, *quick, "--weights", "model")
    assert result.returncode == 2 and "made with another weights" in result.stderr
    Image.fromarray(photographs(1)[0]).save(tmp_path / "photos" / "a.jpg")
    result = run_script("inference.py", *flags, *quick)
    assert result.returncode == 2 and "has the same stem" in result.stderr and result.stderr.count("\n") == 1
