"""Held masks, photographs and types: what is given comes out to the bit, whatever the sampler; the rest is drawn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_config
from PIL import Image
from told import NAMES, save_untrained, told

from guided_diffusion import DefectGen, InputError, load_config
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.generation import api
from guided_diffusion.generation.conditions import Held, find_conditions, parse_defects
from guided_diffusion.generation.settings import Settings
from guided_diffusion.joint_tensor import JointLayout

CPU = torch.device("cpu")
QUICK = {"num_steps": 4}


def some_masks(count, size=(32, 32), types=3):
    """Index masks uint8 [count, H, W] with a rectangle each, of types in turn."""
    masks = np.zeros((count, *size), np.uint8)
    for k in range(count):
        masks[k, 4 + 2 * k : 14 + 2 * k, 6 : 12 + 3 * k] = 1 + k % types
    return masks


def some_photographs(count, size=(32, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def far_from(mask, margin):
    """bool [H, W]: further than `margin` pixels, along either axis, from every defect pixel. By brute force."""
    far = np.ones(mask.shape, bool)
    for y, x in np.argwhere(mask):
        far[max(0, y - margin) : y + margin + 1, max(0, x - margin) : x + margin + 1] = False
    return far


# --- masks and photographs -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator(trained_pair):
    return DefectGen.load(trained_pair.large, trained_pair.small, device="cpu", precision="fp32")


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("margin", [0, 3])
def test_what_is_held(background, margin):
    layout = JointLayout(("a", "b"), background)
    masks, photographs = some_masks(3, (20, 24), 2), some_photographs(3, (20, 24))
    settings = Settings(image_size=(20, 24), margin=margin)
    known = Held(layout, CPU, settings, masks, photographs).known([2, 3])
    assert known.where[:, 3:].all()
    images, decoded = layout.decode(known.values)
    for row, k in enumerate((2, 0)):
        far = np.broadcast_to(far_from(masks[k], margin), (3, 20, 24))
        assert np.array_equal(known.where[row, :3].numpy(), far)
        assert np.array_equal(images[row], photographs[k]) and np.array_equal(decoded[row], masks[k])
    free = Held(layout, CPU, settings, masks).known([0])
    assert not free.where[:, :3].any() and free.where[:, 3:].all()
    assert Held(layout, CPU, settings).known([0]) is None


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("step_inference", [0, 400, 1000])
def test_known_pixels_come_out_to_the_bit(generator, sampler, step_inference):
    given = {"masks": some_masks(4), "backgrounds": some_photographs(4), "margin": 2}
    batch = generator.generate(4, step_inference=step_inference, num_steps=6, sampler=sampler, **given)
    assert np.array_equal(batch.masks, given["masks"])
    for image, photograph, mask in zip(batch.images, given["backgrounds"], given["masks"], strict=True):
        far = far_from(mask, 2)
        assert np.array_equal(image[far], photograph[far])
        assert (image[mask > 0] != photograph[mask > 0]).mean() > 0.9


def test_sample_i_takes_mask_i_in_turn_whatever_the_batch(generator):
    masks = some_masks(3)
    whole = generator.generate(5, masks=masks, batch_size=5, **QUICK)
    assert np.array_equal(whole.masks, masks[[0, 1, 2, 0, 1]])
    parts = generator.generate([3, 1], masks=masks, batch_size=1, **QUICK)
    assert np.array_equal(parts.masks, masks[[0, 1]])
    assert np.abs(parts.images.astype(int) - whole.images[[3, 1]]).max() <= 1
    assert (generator.generate(5, **QUICK).images != whole.images).any()


def refuse(generator, arguments, words):
    with pytest.raises(InputError, match=words):
        generator.generate(1, **arguments, **QUICK)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masks": some_masks(1, (16, 16))}, r"masks: uint8 \[1, 16, 16\], expected uint8 \[1, 32, 32\]"),
        ({"masks": some_masks(1).astype(np.int64)}, "masks: int64"),
        ({"masks": some_masks(1) * 9}, "hold type 9, but the networks know 3"),
        ({"masks": some_masks(1)[:0]}, "expected uint8"),
        ({"masks": some_masks(2), "backgrounds": some_photographs(1)}, "backgrounds: .* expected uint8"),
        ({"backgrounds": some_photographs(1)}, "need masks"),
        ({"masks": some_masks(1), "margin": -1}, "margin -1: must be 0 or more"),
        ({"defects": "pit"}, "without model.class_cond"),
        ({"guidance_scale": 2.0, "masks": some_masks(1)}, "without model.class_cond"),
    ],
)
def test_wrong_arguments_are_refused(generator, arguments, words):
    refuse(generator, arguments, words)


# --- types -----------------------------------------------------------------------------------------------------------


def test_defects_in_words():
    words = ["crack", "hole, crack", "none", "balanced"]
    assert parse_defects(words, NAMES) == ({1}, {1, 2}, frozenset(), {1}, {2}, {3})
    for defects, said in ((["holle"], "did you mean 'hole'"), (["crack", ""], "unknown type"), ([], "names no type")):
        with pytest.raises(InputError, match=said):
            parse_defects(defects, NAMES)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Work folders of a large network that can be told types and of two small ones, with and without."""
    folder = tmp_path_factory.mktemp("told")
    save_untrained(folder / "large", "large", **{"train.known_share": 0.3})
    save_untrained(folder / "small", "small")
    save_untrained(folder / "plain", "small", **{"model.class_cond": False})
    return folder


def load(pair, small="small"):
    return DefectGen.load(str(pair / "large"), str(pair / small), device="cpu", precision="fp32")


def watch(generator):
    """The inputs (x, types or None) of each network's calls from now on: {"large": [...], "small": [...]}."""
    seen = {"large": [], "small": []}
    for name, rows in seen.items():
        network = getattr(generator, name)

        def noting(x, t, *types, rows=rows, forward=network.forward):
            rows.append((x.clone(), *(types or (None,))))
            return forward(x, t, *types)

        setattr(generator, name, replace(network, forward=noting))
    return seen


@pytest.mark.parametrize("small", ["small", "plain"])
@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (5, {"defects": "balanced"}, told([1], [2], [3], [1], [2])),
        ([4, 1], {"defects": ["crack,dent", "none"]}, told([1, 3], [])),
        ([4, 1], {"defects": ["crack,dent", "none"], "guidance_scale": 2.0}, told([1, 3], [], [0], [0])),
        (2, {"masks": np.stack([np.eye(16, dtype=np.uint8) * 2, np.zeros((16, 16), np.uint8)])}, told([2], [])),
        (2, {}, told([0], [0])),
    ],
)
def test_networks_are_told_the_types_if_they_can_be(pair, small, count, options, expected):
    generator = load(pair, small)
    seen = watch(generator)
    generator.generate(count, batch_size=5, **options, **QUICK)
    assert all(torch.equal(types, expected) for _, types in seen["large"]) and seen["large"]
    for _, types in seen["small"]:
        assert types is None if small == "plain" else torch.equal(types, expected)


def test_what_is_given_reaches_a_network_without_noise_if_it_was_trained_so(pair):
    generator = load(pair)
    seen = watch(generator)
    masks, images = np.zeros((1, 16, 16), np.uint8), np.full((1, 16, 16, 3), 80, np.uint8)
    masks[0, 4:9, 4:9] = 2
    batch = generator.generate(1, masks=masks, backgrounds=images, margin=1, **QUICK)
    clean = generator.layout.encode(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks))
    large, small = seen["large"][0][0], seen["small"][0][0]
    assert torch.equal(large[:, 3:], clean[:, 3:]) and torch.equal(large[0, :3, 0], clean[0, :3, 0])
    assert (large[0, :3, 5, 5] - clean[0, :3, 5, 5]).abs().min() > 1e-3  # what is drawn is noise
    assert (small[:, 3:] - clean[:, 3:]).abs().max() > 0.1  # this one was not
    assert np.array_equal(batch.masks, masks) and (batch.images[0, 0] == 80).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"defects": "holes"}, "did you mean 'hole'"),
        ({"defects": "hole", "masks": np.zeros((1, 16, 16), np.uint8)}, "the masks tell the types already"),
        ({"guidance_scale": 2.0}, "nothing to guide to"),
        ({"guidance_scale": float("nan"), "defects": "hole"}, "must be a number"),
    ],
)
def test_types_that_cannot_be(pair, arguments, words):
    refuse(load(pair), arguments, words)


def test_guided_samples_are_compiled_as_they_run(pair, monkeypatch):
    generator, rows = load(pair, "plain"), []
    settings = generator.settings(guidance_scale=2.0, **QUICK)  # with masks, which tell the types
    monkeypatch.setattr(api, "try_compile", lambda model, run, device: rows.append(run(lambda *inputs: len(inputs[0]))))
    generator.compile(3, settings)
    assert rows == [6, 3]


# --- the command line ------------------------------------------------------------------------------------------------


def save(folder, arrays, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(names, arrays, strict=True):
        Image.fromarray(array).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def run(run_script, trained_pair, tmp_path):
    """run(*flags, status=0, out="out"): the rows of the manifest, or the line of the error; then nothing is written."""
    save(tmp_path / "masks", some_masks(3), "abc")
    save(tmp_path / "photos", some_photographs(2), "xy")

    def run_here(*flags, status=0, out="out", large=trained_pair.large, small=trained_pair.small):
        there = (tmp_path / out).exists()
        networks = ("--large_recep", large, "--small_recep", small)
        quick = ("--num_steps", 4, "--precision", "fp32", "--batch_size", 4)
        result = run_script("inference.py", *networks, "--sample_dir", tmp_path / out, *quick, *flags)
        assert result.returncode == status, result.stdout + result.stderr
        if status:
            assert result.stderr.count("\n") == 1 and (tmp_path / out).exists() == there
            return result.stderr
        return [json.loads(line) for line in (tmp_path / out / "manifest.jsonl").open()]

    return run_here


def test_files_go_in_and_the_manifest_says_which(run, tmp_path):
    rows = run("--masks", tmp_path / "masks", "--background", tmp_path / "photos", "--margin", 1)
    assert [row["condition"] for row in rows] == [
        {"mask": "a.png", "background": "x.png"},
        {"mask": "b.png", "background": "y.png"},
        {"mask": "c.png", "background": "x.png"},
    ]
    assert rows[0]["settings"]["conditions"]["masks"] == 3 and rows[0]["settings"]["conditions"]["margin"] == 1
    masks, photographs = some_masks(3), some_photographs(2)[[0, 1, 0]]
    for k, row in enumerate(rows):
        image, mask = (np.array(Image.open(tmp_path / "out" / row[key])) for key in ("image", "index_mask"))
        far = far_from(masks[k], 1)
        assert np.array_equal(mask, masks[k]) and np.array_equal(image[far], photographs[k][far])


def test_photographs_named_like_the_masks_belong_to_them(run, tmp_path):
    rows = run("--masks", tmp_path / "masks", "--background", save(tmp_path / "named", some_photographs(3), "cba"))
    assert all(row["condition"]["mask"] == row["condition"]["background"] for row in rows)


def test_a_folder_is_not_continued_with_other_masks(run, tmp_path):
    run("--masks", tmp_path / "masks")
    run("--masks", tmp_path / "masks", "--num_samples", 4)
    others = save(tmp_path / "others", some_masks(3)[:, ::-1], "abc")
    assert "made with conditions.sha256" in run("--masks", others, "--num_samples", 5, status=2)
    assert "made with conditions" in run("--num_samples", 5, status=2)


def test_bad_conditions_end_in_one_line(run, tmp_path):
    small = save(tmp_path / "small", some_masks(1, (16, 16)), "a")
    wide = save(tmp_path / "wide", some_photographs(1, (32, 48)), "a")
    for flags, words in (
        (("--masks", small), f"--masks {small / 'a.png'}: is 16 x 16"),
        (("--masks", save(tmp_path / "labels", some_masks(1) * 9, "a")), "a.png: holds value 9"),
        (("--masks", small, "--image_size", 16, 16, "--background", wide), f"--background {wide / 'a.png'}: is 32 x"),
        (("--background", tmp_path / "photos"), "--background: needs --masks"),
        (("--masks", tmp_path / "gone"), "is not a folder"),
        (("--masks", save(tmp_path / "empty", [], "")), "holds no image files"),
        (("--masks", small, "--margin", -1), "--margin -1"),
        (("--masks", small, "--guidance_scale", 2), "--guidance_scale: "),
        (("--masks", "bank", "--types_per_image", 9), "--types_per_image 9: must be from 1 to 3"),
        (("--types_per_image", 2), "--types_per_image: goes with --masks bank only"),
        (("--masks", "bank", "--image_size", 16, 16), "--masks bank: makes masks of the training's 32 x 32"),
    ):
        assert words in run(*flags, status=2, out="refused")


def test_types_on_the_command_line(run, pair):
    networks = {"large": pair / "large", "small": pair / "plain"}
    rows = run("--defects", "balanced", "none", "--num_samples", 5, "--guidance_scale", 1.5, **networks)
    assert [row["condition"]["types"] for row in rows] == [["crack"], ["hole"], ["dent"], [], ["crack"]]
    assert rows[0]["settings"]["defects"] == ["balanced", "none"] and rows[0]["settings"]["guidance_scale"] == 1.5
    assert "made with defects" in run("--defects", "hole", "--guidance_scale", 1.5, status=2, **networks)
    for flags, words in (
        (("--defects", "carck"), "did you mean 'crack'"),
        (("--guidance_scale", 2), "without --defects or --masks there is nothing to guide to"),
        (("--guidance_scale", 2, "--step_inference", 1000), "without model.class_cond"),
    ):
        assert words in run(*flags, status=2, out="refused", **networks)


def test_the_bank_on_the_command_line_grows_and_is_balanced(run, demo_data, tmp_path):
    bank = ("--masks", "bank", "--bank_data", demo_data)
    run(*bank, "--num_samples", 3)
    rows = run(*bank, "--num_samples", 6)
    run(*bank, "--num_samples", 6, out="whole")
    for path in (Path(row[key]) for row in rows for key in ("image", "index_mask")):
        parts, whole = (np.array(Image.open(tmp_path / out / path)).astype(int) for out in ("out", "whole"))
        assert np.abs(parts - whole).max() <= 1
    assert [sum(name in row["types"] for row in rows) for name in ("scratch", "stain", "pit")] == [2, 2, 2]
    assert rows[0]["settings"]["conditions"]["masks"] == "bank"


def test_the_bank_draws_the_types_that_are_given(demo_data):
    label_map = {"scratch": 1, "stain": 2, "pit": 3}
    config = load_config(tiny_config("large", **{"data.dir": str(demo_data), "data.label_map": label_map}))
    asked = {"masks": "bank", "num_samples": 6, "defects": ["pit", "scratch,stain"]}
    conditions = find_conditions(config, Settings(image_size=(32, 32)), **asked)
    assert [set(np.unique(mask)) - {0} for mask in conditions.masks] == [{3}, {1, 2}] * 3
    assert conditions.about["types_per_image"] == [[3], [1, 2]]
    with pytest.raises(InputError, match="give one of the two"):
        find_conditions(config, Settings(image_size=(32, 32)), **asked, types_per_image=2)
