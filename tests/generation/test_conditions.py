"""Given masks, photographs and types: what is given comes out to the bit, whatever the sampler."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import save_untrained, tiny_config, told
from PIL import Image

from guided_diffusion import DefectGen, InputError, load_config
from guided_diffusion.diffusion.samplers import SAMPLERS
from guided_diffusion.generation.conditions import Conditions, parse_defects, read_conditions
from guided_diffusion.generation.insertion import read_insertions
from guided_diffusion.generation.settings import Settings

QUICK = {"num_steps": 4}
NO_DEFECTS = np.zeros((1, 16, 16), np.uint8)
GREY = np.full((1, 16, 16, 3), 80, np.uint8)


def some_masks(count, size=(32, 32), types=3):
    """Index masks uint8 [count, H, W] with a rectangle each, of types in turn."""
    masks = np.zeros((count, *size), np.uint8)
    for k in range(count):
        masks[k, 4 + 2 * k : 14 + 2 * k, 6 : 12 + 3 * k] = 1 + k % types
    return masks


def some_photographs(count, size=(32, 32)):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


def far_from(mask, margin, scale=(1, 1)):
    """bool [H, W]: further than `margin`, times the scale, along an axis from every defect pixel. By brute force."""
    far, (down, across) = np.ones(mask.shape, bool), (int(margin * factor) for factor in scale)
    for y, x in np.argwhere(mask):
        far[max(0, y - down) : y + down + 1, max(0, x - across) : x + across + 1] = False
    return far


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


@pytest.mark.parametrize(("size", "margin"), [((32, 32), 0), ((32, 47), 3)])  # one window, and two
def test_sample_i_takes_what_is_given_in_turn_whatever_the_batch(generator, size, margin):
    given = {"masks": some_masks(3, size), "backgrounds": some_photographs(3, size), "margin": margin}
    options = {"image_size": size, "windows": "on", "sampler": "ddpm", **given, **QUICK}
    whole, parts = (generator.generate(rows, batch_size=n, **options) for rows, n in ((5, 5), ([3, 1], 1)))
    turns = [0, 1, 2, 0, 1]
    assert np.array_equal(whole.masks, given["masks"][turns]) and np.array_equal(parts.masks, whole.masks[[3, 1]])
    far = np.stack([far_from(mask, margin) for mask in whole.masks])
    assert np.array_equal(whole.images[far], given["backgrounds"][turns][far])
    assert np.abs(parts.images.astype(int) - whole.images[[3, 1]]).max() <= 1
    free = generator.generate(3, **{**options, "backgrounds": None})
    assert np.array_equal(free.masks, given["masks"]) and free.images.std(axis=(1, 2)).min() > 0


@pytest.mark.parametrize(
    ("networks", "arguments", "words"),
    [
        ("plain", {"masks": NO_DEFECTS}, r"masks: uint8 \[1, 16, 16\], expected uint8 \[1, 32, 32\]"),
        ("plain", {"masks": some_masks(1) * 1.0}, r"masks: float64 \[1, 32, 32\]; expected whole numbers"),
        ("plain", {"masks": [some_masks(1)[0], NO_DEFECTS[0]]}, "masks: object .* or a list of"),
        ("plain", {"masks": "banks"}, "masks: <U5"),
        ("plain", {"masks": some_masks(1) > 0}, "masks: bool does not tell which of 3 types; multiply it"),
        ("plain", {"masks": some_masks(1) * 9}, "hold type 9, but the networks know 3"),
        ("plain", {"masks": some_masks(1).astype(int) - 1}, "hold type -1, but"),
        ("plain", {"masks": some_masks(1)[:0]}, "expected whole numbers"),
        ("plain", {"masks": some_masks(2), "backgrounds": some_photographs(1)}, "backgrounds: .* expected uint8"),
        ("plain", {"defects": "pit"}, "without model.class_cond"),
        ("plain", {"guidance_scale": 2.0, "masks": some_masks(1)}, "without model.class_cond"),
        ("told", {"defects": ["crack", "holes"]}, "did you mean 'hole'"),
        ("told", {"defects": []}, "names no type"),
        ("told", {"defects": "hole", "masks": NO_DEFECTS}, "the masks tell the types already"),
        ("told", {"guidance_scale": 2.0}, "nothing to guide by"),
        ("told", {"guidance_scale": float("nan"), "defects": "hole"}, "must be a number from -1000"),
    ],
)
def test_conditions_that_cannot_be(generator, pair, networks, arguments, words):
    with pytest.raises(InputError, match=words):
        (generator if networks == "plain" else load(pair)).generate(1, **arguments, **QUICK)


def watch(generator):
    """The inputs (x, types or None) of each network's calls from now on: {"large": [...], "small": [...]}."""
    seen = {"large": [], "small": []}
    for name, rows in seen.items():
        network = generator.networks[name]

        def noting(x, t, *types, rows=rows, forward=network.forward):
            rows.append((x.clone(), *(types or (None,))))
            return forward(x, t, *types)

        generator.networks[name] = replace(network, forward=noting)
    return seen


@pytest.mark.parametrize("small", ["small", "plain"])
@pytest.mark.parametrize(
    ("count", "options", "expected"),
    [
        (5, {"defects": "balanced"}, told([1], [2], [3], [1], [2])),
        ([4, 1], {"defects": ["dent, crack", "none"], "guidance_scale": 2.0}, told([1, 3], [], [0], [0])),
        (2, {"masks": np.stack([np.eye(16, dtype=np.uint8) * 2, NO_DEFECTS[0]])}, told([2], [])),
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
    masks, images = NO_DEFECTS.copy(), GREY
    masks[0, 4:9, 4:9] = 2
    batch = generator.generate(1, masks=masks, backgrounds=images, margin=1, **QUICK)
    clean = generator.layout.encode(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks))
    large, small = seen["large"][0][0], seen["small"][0][0]
    assert torch.equal(large[:, 3:], clean[:, 3:]) and torch.equal(large[0, :3, 0], clean[0, :3, 0])
    assert (large[0, :3, 5, 5] - clean[0, :3, 5, 5]).abs().min() > 1e-3  # what is drawn is noise
    assert (small[:, 3:] - clean[:, 3:]).abs().max() > 0.1  # this one was not
    assert np.array_equal(batch.masks, masks) and (batch.images[0, 0] == 80).all()


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
            lines = [line for line in result.stderr.splitlines() if line.strip() and "photograph/s" not in line]
            assert len(lines) == 1 and (tmp_path / out).exists() == there
            return lines[0]
        return [json.loads(line) for line in (tmp_path / out / "manifest.jsonl").open()]

    return run_here


def read_row(tmp_path, row, out="out"):
    return (np.array(Image.open(tmp_path / out / row[key])) for key in ("image", "index_mask"))


def test_files_go_in_and_the_manifest_says_which(run, tmp_path):
    tag = Image.Exif()
    tag[0x0112] = 3  # upside down: photographs are taken the way up that they are shown
    Image.fromarray(np.ascontiguousarray(some_photographs(2)[1, ::-1, ::-1])).save(tmp_path / "photos/y.png", exif=tag)
    rows = run("--masks", tmp_path / "masks", "--background", tmp_path / "photos", "--margin", 1)
    names = [{"mask": f"{mask}.png", "background": f"{photo}.png"} for mask, photo in ("ax", "by", "cx")]
    assert [row["condition"] for row in rows] == names
    assert rows[0]["settings"]["conditions"].items() >= {"masks": 3, "margin": 1, "scale": [1.0, 1.0]}.items()
    masks, photographs = some_masks(3), some_photographs(2)[[0, 1, 0]]
    for k, row in enumerate(rows):
        image, mask = read_row(tmp_path, row)
        far = far_from(masks[k], 1)
        assert np.array_equal(mask, masks[k]) and np.array_equal(image[far], photographs[k][far])
    others = save(tmp_path / "others", some_masks(3)[:, ::-1], "abc")
    given = ("--masks", others, "--background", tmp_path / "photos", "--margin", 1)
    assert "made with conditions.sha256" in run(*given, status=2)
    named = save(tmp_path / "named", some_photographs(3), "cba")
    rows = run("--masks", tmp_path / "masks", "--background", named, out="of_their_names")
    assert all(row["condition"]["mask"] == row["condition"]["background"] for row in rows)
    (named / "a.png").rename(named / "z.png")  # the others still belong to their masks
    rows = run("--masks", tmp_path / "masks", "--background", named, out="of_some_names")
    pairs = [(row["condition"]["mask"], row["condition"]["background"]) for row in rows]
    assert pairs == [("a.png", "z.png"), ("b.png", "b.png"), ("c.png", "c.png")]
    save(named, some_photographs(1), "x")
    rows = run("--masks", tmp_path / "masks", "--background", named, "--num_samples", 4, out="too_few_masks")
    assert [row["condition"]["background"] for row in rows] == ["x.png", "b.png", "c.png", "x.png"]
    (named / "c.png").write_bytes(b"")  # is told before anything is made
    for masks in (tmp_path / "masks", "bank"):
        words = f"{named / 'c.png'}: is not an image"
        assert words in run("--masks", masks, "--background", named, "--batch_size", 1, status=2, out="broken")


def test_photographs_of_any_size_get_defects_where_they_may(run, tmp_path):
    shapes = {"a": (50, 90), "b": (120, 64), "c": (40, 40)}
    photographs = {name: some_photographs(1, shape)[0] for name, shape in shapes.items()}
    folder = save(tmp_path / "good", photographs.values(), shapes)
    allowed = [np.zeros((*shape, 3), np.uint8) for shape in shapes.values()]
    for channel, area in enumerate(allowed):  # in any colour
        area[:, area.shape[1] // 3 :, channel] = 255
    where = save(tmp_path / "where", allowed, shapes)
    flags = ("--masks", "bank", "--background", folder, "--defects_per_image", "1-2", "--where", where)
    Image.fromarray(photographs["b"]).save(folder / "b.jpg", quality=100, subsampling=0)  # whose mask b.png is then
    photographs["b"] = np.array(Image.open(folder / "b.jpg"))
    rows = run(*flags, "--num_samples", 5, "--margin", 1)
    assert [row["condition"]["background"] for row in rows] == "a.png b.jpg c.png a.png b.jpg".split()
    for row, name in zip(rows, "abcab", strict=True):
        image, mask = read_row(tmp_path, row)
        outside = far_from(mask, 2)
        assert mask.shape == shapes[name] and mask.any() and not mask[:, : mask.shape[1] // 3].any()
        assert np.array_equal(image[outside], photographs[name][outside]) and (image != photographs[name]).any()
        assert sum(row["types"].values()) == (mask > 0).sum()
    before = (tmp_path / "out/images/000001.png").read_bytes()
    assert len(run(*flags, "--num_samples", 6, "--margin", 1)) == 6
    assert (tmp_path / "out/images/000001.png").read_bytes() == before
    whole = (*flags[:4], "--defects", "pit", "scratch,stain", "--where", "anywhere", "--scale", 0.5, 0.5)
    rows = run(*whole, "--num_samples", 2, out="told")
    assert [set(row["types"]) for row in rows] == [{"pit"}, {"scratch", "stain"}]
    Image.fromarray(np.zeros((120, 64), np.uint8)).save(where / "b.png")  # no room: the others are made
    rows = run(*flags, "--num_samples", 5, out="no_room")
    assert [row["index"] for row in rows] == [0, 2, 3]
    save(where, [np.zeros(shape, np.uint8) for shape in shapes.values()], shapes)
    assert "--background: no photograph has room for a defect" in run(*flags, status=2, out="none")


def test_bad_conditions_end_in_one_line(run, tmp_path, demo_data):
    small = save(tmp_path / "small", some_masks(1, (16, 16)), "a")
    wide = save(tmp_path / "wide", some_photographs(1, (32, 48)), "a")
    into = ("--masks", "bank", "--background", wide)
    for flags, words in (
        (("--masks", small), f"--masks {small / 'a.png'}: is 16 x 16"),
        (("--masks", small, "--background", wide), f"its photograph {wide / 'a.png'} is 32 x 48; draw it at that size"),
        (("--background", wide), "--background: needs --masks"),
        (("--masks", small, "--where", wide), "--where: needs --background"),
        (("--masks", small, "--background", wide, "--where", wide), "--where: the masks tell that already"),
        ((*into, "--where", tmp_path / "photos"), f"holds no file for {wide / 'a.png'}; give one of its name, or one"),
        ((*into, "--defects_per_image", "0-2"), "--defects_per_image 0-2: must be from 1 to 64"),
        ((*into, "--defects_per_image", "few"), "--defects_per_image few: should be a number, or two"),
        ((*into, "--defects", "pit", "--defects_per_image", 2), "--defects says which types"),
        ((*into, "--types_per_image", 2), "--types_per_image: goes without --background"),
        ((*into, "--scale", 0), "--scale [0.0]: must be one number or two"),
        ((*into, "--sample_dir", wide), f"--sample_dir {wide}: lies in --background {wide}; name another"),
        (("--sample_dir", demo_data), f"{demo_data}: holds a data set or samples; name another folder"),
        (("--masks", tmp_path / "gone"), "is not a folder that holds image files"),
        (("--masks", small, "--margin", -1), "--margin -1"),
        (("--masks", small, "--margin", 10**9), "--margin 1000000000: must be from 0 to 65,536"),
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


def test_the_bank_draws_the_types_that_are_given(demo_data):
    label_map = {"scratch": 1, "stain": 2, "pit": 3}
    config = load_config(tiny_config("large", **{"data.dir": str(demo_data), "data.label_map": label_map}))
    asked = {"masks": "bank", "num_samples": 6, "defects": ["pit", "scratch,stain"]}
    conditions = read_conditions(config, Settings(image_size=(32, 32)), **asked)
    assert [set(np.unique(mask)) - {0} for mask in conditions.masks] == [{3}, {1, 2}] * 3
    assert conditions.about["types_per_image"] == [[3], [1, 2]]
    with pytest.raises(InputError, match="give one of the two"):
        read_conditions(config, Settings(image_size=(32, 32)), **asked, types_per_image=2)
    other = load_config(tiny_config("large", **{"data.label_map": {"stain": 1, "scratch": 2, "pit": 3}}))
    matched = read_conditions(other, Settings(image_size=(32, 32)), **asked, bank_data=str(demo_data))
    assert [set(np.unique(mask)) - {0} for mask in matched.masks] == [{3}, {2, 1}] * 3


def test_types_as_training_has_seen_them(demo_data):
    label_map, seen = {"scratch": 1, "stain": 2, "pit": 3}, [["scratch", "pit"], "stain", "none"]
    config = load_config(tiny_config("large", **{"data.label_map": label_map, "data.types_seen": seen}))
    settings, shown = Settings(image_size=(32, 32)), [{1, 3}, {2}, set()]
    for defects in (None, "training"):
        held = read_conditions(config, replace(settings, defects=defects))
        told = held.told(range(4), (0, 0), (32, 32))
        assert [{*row.nonzero().flatten().tolist()} for row in told] == [*shown, shown[0]]
        assert held.names_of([4]) == [{"types": ["stain"]}]
    alone = replace(settings, step_inference=config.diffusion.num_timestep)  # the large network has no step to be told
    assert not read_conditions(config, alone).names
    bank = {"masks": "bank", "bank_data": str(demo_data), "num_samples": 6, "defects": ["training"]}
    assert [set(np.unique(mask)) - {0} for mask in read_conditions(config, settings, **bank).masks] == shown * 2
    odd = {"data.label_map": {"training": 1, "none": 2, "a, b": 3}, "data.types_seen": ["training", "none", "a, b"]}
    held = read_conditions(load_config(tiny_config("large", **odd)), settings)
    assert held.types.argmax(dim=1).tolist() == [1, 2, 3]
    names = {"data.label_map": {"a": 1, "b": 2, "a,b": 3, "none": 4}, "data.types_seen": [["a", "b"], ["a,b"], []]}
    assert parse_defects(["training"], load_config(tiny_config("large", **names))) == ({1, 2}, {3}, set())
    commas = load_config(tiny_config("large", **{"data.label_map": {"scratch, deep": 1, "hole": 2}}))
    assert parse_defects(["hole,scratch, deep", "scratch, deep"], commas) == ({1, 2}, {1})
    with pytest.raises(InputError, match="defects none,hole: none stands for itself"):
        parse_defects(["none,hole"], commas)
    unsaid = load_config(tiny_config("large", **{"data.label_map": label_map}))
    with pytest.raises(InputError, match="defects training: the checkpoint does not say which types it saw; name some"):
        read_conditions(unsaid, replace(settings, defects="training"))


def test_masks_of_a_data_set_are_matched_by_name(tmp_path, capsys):
    config = load_config(tiny_config("large", **{"data.label_map": {"pit": 1, "dent": 2}}))
    settings, folder = Settings(image_size=(32, 32)), tmp_path / "converted_ground_truth" / "dent"
    drawn = some_masks(4, types=2)
    save(folder, drawn, "0123")
    (tmp_path / "dataset.json").write_text(json.dumps({"label_map": {"dent": 1, "pit": 2}}))
    held = read_conditions(config, settings, masks=f"{folder}/").masks
    assert (held == np.array([0, 2, 1])[drawn]).all()
    said = f"label map of {folder}: types are matched by name: dent 1 is 2, pit 2 is 1 here\n"
    assert capsys.readouterr().out == said
    (tmp_path / "dataset.json").write_text(json.dumps({"label_map": {"dent": 1, "pits": 2}}))
    with pytest.raises(InputError, match=r"unknown type 'pits' \(did you mean 'pit'"):
        read_conditions(config, settings, masks=str(folder))


@pytest.fixture
def insertions(demo_data, tmp_path):
    """insertions(**given) -> read_insertions of three photographs of 64 px at the training's scale."""
    label_map = {"scratch": 1, "stain": 2, "pit": 3}
    config = load_config(tiny_config("large", **{"data.dir": str(demo_data), "data.label_map": label_map}))
    photos = save(tmp_path / "photos", some_photographs(3, (64, 64)), "xyz")
    return lambda **given: read_insertions(config, Settings(margin=1), background=str(photos), scale=[1], **given)


def test_each_photograph_gets_a_mask_and_is_told_by_its_content(insertions, tmp_path):
    masks = str(save(tmp_path / "one", some_masks(1, (64, 64)), "m"))
    held = insertions(masks=masks)
    assert [file[-5:] for file in held.files] == ["x.png", "y.png", "z.png"]
    for given in ({"where": masks}, {"defects": ["pit"]}, {"defects_per_image": (1, 2)}, {"bank_data": masks}):
        with pytest.raises(InputError, match=f"{next(iter(given))}.*: the masks tell that already"):
            insertions(masks=masks, **given)
    Image.new("RGB", (64, 64)).save(tmp_path / "photos/y.png")
    assert insertions(masks=masks).about["backgrounds"] != held.about["backgrounds"]


def test_one_area_for_all_photographs_is_stretched_the_way_up_that_it_is_shown(insertions, tmp_path):
    area, tag = np.zeros((16, 16), np.uint8), Image.Exif()
    area[8:], tag[0x0112] = 255, 3  # upside down: shown, it is the upper half
    (tmp_path / "where").mkdir()
    Image.fromarray(area).save(tmp_path / "where/all.png", exif=tag)
    held = insertions(masks="bank", where=str(tmp_path / "where"), defects=["pit"])
    for index, photograph in enumerate(some_photographs(3, (64, 64))):
        mask = held.mask(index, photograph)
        assert mask.any() and not mask[32:].any()


def test_other_photographs_under_the_same_masks_are_other_conditions():
    config = load_config(tiny_config("large", **{"data.label_map": {"a": 1, "b": 2, "c": 3}}))
    settings = Settings(image_size=(32, 32), margin=1)
    one, other = (Conditions(config, settings, some_masks(2), some_photographs(2)[::way].copy()) for way in (1, -1))
    assert one.about != other.about and one.about["margin"] == 1
