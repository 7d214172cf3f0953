"""Labels, crops inside the masks, and the command: planted answers, and a run from files to files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="the packages of requirements-eval.txt are not installed")

from random_extractor import random_extractor  # noqa: E402

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import quality
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.labels import is_speck_mask, measure_labels, regions, speck_thresholds
from guided_diffusion.evaluation.seen import CONTEXT, MOST_CROPS, compare, compare_halves, look, look_inside, sources
from guided_diffusion.evaluation.tables import number
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.prepare.layouts import write_released

TYPES = ("crack", "pit", "dent")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def image_set(masks: np.ndarray, groups: list | None = None, images: np.ndarray | None = None) -> ImageSet:
    images = rng().integers(0, 256, (*masks.shape, 3), np.uint8) if images is None else images
    names = [f"{k:06d}" for k in range(len(masks))]
    return ImageSet(images, masks, names, list(map(str, groups or names)), TYPES, "set")


def boxes(count: int, sides: tuple[int, int], index: int = 1, seed: int = 0, number: int = 1) -> np.ndarray:
    """Masks [count, 32, 32] with `number` boxes each of a type; the sides are drawn from a range."""
    masks, draws = np.zeros((count, 32, 32), np.uint8), rng(seed)
    for mask in masks:
        for place in range(number):
            height, width = draws.integers(*sides, 2)
            mask[16 * (place // 2) : 16 * (place // 2) + height, 16 * (place % 2) : 16 * (place % 2) + width] = index
    return masks


# --- labels ------------------------------------------------------------------------------------------------------


def test_regions_are_connected_parts_of_one_type() -> None:
    mask = np.array([[1, 0, 0, 2, 2], [0, 1, 0, 2, 0], [0, 0, 0, 1, 0], [3, 0, 0, 1, 1]], np.uint8)
    found = [(region.type, region.pixels, region.box) for region in regions(mask)]
    assert found == [(1, 3, (2, 3, 4, 5)), (1, 2, (0, 0, 2, 2)), (2, 3, (0, 3, 2, 5)), (3, 1, (3, 0, 4, 1))]
    assert regions(np.zeros((4, 4), np.uint8)) == []


def test_specks_are_smaller_than_any_real_region() -> None:
    real = [np.zeros((8, 8), np.uint8) for _ in range(3)]
    real[0][:2, :5], real[1][:3, :2], real[1][7, 7], real[2][0, 0] = 1, 1, 1, 2
    thresholds = speck_thresholds(real, 3)
    assert list(thresholds) == [0, 3, 0.5, 0]  # half of 6, not of the 1 beside it; half of 1; type 3 is not there
    mask = np.zeros((8, 8), np.uint8)
    assert not is_speck_mask(mask, thresholds)
    mask[0, 0] = mask[0, 4] = 1
    assert is_speck_mask(mask, thresholds)
    mask[7, 7] = 2  # as large as real ones of this type
    assert not is_speck_mask(mask, thresholds)


def test_label_statistics_tell_what_was_planted() -> None:
    real = image_set(boxes(20, (6, 7)), [k // 2 for k in range(20)])
    masks = np.concatenate([boxes(10, (3, 4), number=3), boxes(5, (6, 7), index=2), boxes(3, (1, 2)), boxes(2, (0, 1))])
    train = image_set(np.concatenate([real.masks, boxes(1, (5, 6), 3)]))
    labels = measure_labels(image_set(masks), real, train, 8)
    assert labels["empty"]["samples"]["value"] == 2 / 20 and labels["empty"]["real"]["value"] == 0
    assert labels["speck"]["samples"]["value"] == 13 / 20
    assert labels["speck"]["threshold"] == {"crack": 18, "dent": 12.5}
    assert labels["trained"] == ["crack", "dent"]
    assert labels["missing"] == labels["missing_in_real"] == ["dent"]
    crack = labels["per_type"]["crack"]
    assert crack["share"]["samples"]["value"] == 13 / 20 and crack["share"]["real"]["value"] == 1
    assert crack["regions"]["samples"]["value"] == pytest.approx((10 * 3 + 3 * 1) / 13)
    assert crack["regions"]["real"] == {"value": 1, "interval": [1, 1]}
    assert crack["regions"]["wasserstein"]["value"] == pytest.approx((10 * 3 + 3 * 1) / 13 - 1)
    log = np.log2([9] * 30 + [1] * 3)
    assert crack["area"]["samples"]["value"] == pytest.approx(2 ** log.mean() / 1024)
    assert crack["area"]["real"]["value"] == pytest.approx(36 / 1024)
    assert crack["area"]["shift"]["value"] == pytest.approx(log.mean() - np.log2(36))
    low, high = crack["area"]["shift"]["interval"]
    assert low < crack["area"]["shift"]["value"] < high < 0
    assert labels["per_type"]["pit"]["area"] is None and labels["per_type"]["pit"]["share"]["samples"]["value"] == 0.25


def test_the_interval_of_the_distance_has_the_spread_of_true_new_draws() -> None:
    def areas(seed: int) -> tuple[dict, float]:
        sets = [image_set(boxes(24, sides, seed=2 * seed + k)) for k, sides in enumerate(((2, 9), (5, 13)))]
        return measure_labels(*sets, sets[1], 8)["per_type"]["crack"]["area"]["wasserstein"]

    results = [areas(seed) for seed in range(40)]
    true = np.std([result["value"] for result in results])
    width = np.mean([high - low for low, high in (result["interval"] for result in results)])
    assert width == pytest.approx(3.92 * true, rel=0.3)


# --- what the extractor sees -------------------------------------------------------------------------------------


def test_crops_hold_the_region_and_its_surroundings() -> None:
    """Red regions on blue ground: the share of red tells how much of a crop its region fills."""
    masks = np.zeros((3, 48, 48), np.uint8)
    masks[0, 10:30, 12:16] = 1  # a crop of 30 px
    masks[1, 44:48, 44:48] = 2  # in the corner: moved inside, 16 px
    masks[2, :4, :48:6] = 3  # eight regions, of which four are taken
    images = np.zeros((3, 48, 48, 3), np.uint8)
    images[..., 2], images[masks > 0] = 255, (255, 0, 0)
    extractor = random_extractor()
    shown = []
    extractor.network.register_forward_pre_hook(lambda module, inputs: shown.append(inputs[0]))
    inside = look_inside(image_set(masks, ["a", "b", "c"], images), extractor)
    assert inside.groups == ["a", "b"] + ["c"] * MOST_CROPS
    assert inside.sources == ["000000", "000001"] + ["000002"] * MOST_CROPS
    assert inside.has.argmax(axis=1).tolist() == [1, 2, 3, 3, 3, 3] and inside.features.shape == (6, 48)
    red = ((next(x for x in shown if len(x) == 6)[:, 0] + 1) / 2).mean(dim=(1, 2)).numpy()
    side = 20 * CONTEXT
    expected = [20 * 4 / side**2, 16 / 16**2]
    np.testing.assert_allclose(red[:2], expected, rtol=0.05)
    assert len(look_inside(image_set(np.zeros((2, 48, 48), np.uint8)), extractor)) == 0


def test_windows_of_one_image_are_of_one_source() -> None:
    images = image_set(boxes(3, (4, 5)))
    object.__setattr__(images, "names", ["pit/a#0", "pit/a#1", "pit/b#2 c"])
    assert sources(images) == ["pit/a", "pit/a", "pit/b#2 c"]


def test_blocks_overall_and_per_type() -> None:
    """Samples drawn like the real images, but for those of type 2, which are dark; of type 3 there are too few."""
    masks = np.concatenate([boxes(12, (4, 12), 1), boxes(10, (4, 12), 2, 1), boxes(3, (4, 12), 3, 2)])

    def draw(seed: int) -> np.ndarray:
        draws = rng(seed)
        ground = np.clip(draws.normal(100, 30, (25, 1, 1, 1)) + draws.normal(0, 4, (25, 32, 32, 3)), 0, 255)
        return np.where(masks[..., None] > 0, 220, ground).astype(np.uint8)

    ours = draw(1)
    ours[12:22] //= 3
    extractor = random_extractor()
    real = image_set(masks, [k // 3 for k in range(25)], draw(0))
    samples, real_seen = (look(images, extractor) for images in (image_set(masks, images=ours), real))
    blocks = compare(samples, real_seen, real_seen, TYPES)
    assert blocks["per_type"]["dent"] == {
        "counts": {"samples": 3, "real": 3, "real_groups": 2},
        "too_few": "3 against 3",
    }
    kid = {name: blocks["per_type"][name]["kid"] for name in ("crack", "pit")}
    assert kid["crack"]["interval"][0] < 0 < kid["crack"]["interval"][1] < kid["pit"]["interval"][0]
    assert blocks["overall"]["cluster_diversity"]["of"] == 25 and blocks["overall"]["diversity"]["interval"]
    assert blocks["per_type"]["pit"]["counts"] == {"samples": 10, "real": 10, "real_groups": 4}

    own = compare_halves(real_seen, None, TYPES)["overall"]
    assert own["counts"]["samples"] + own["counts"]["real"] == 25 and own["counts"]["real_groups"] < 9
    assert own["kid"]["interval"][0] < 0 < own["kid"]["interval"][1] and own["cluster_diversity"] is None
    alone = compare(real_seen, samples, None, TYPES)["overall"]
    assert own["diversity"]["value"] == alone["diversity"]["value"]


# --- the command -------------------------------------------------------------------------------------------------


class Threshold:
    """In a segmenter's place: calls bright pixels cracks."""

    provenance = {"encoder": "threshold"}
    reference = None

    def predict(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [(image.mean(axis=2) > 150).astype(np.uint8) for image in images]


def write_set(root: Path, count: int, seed: int) -> list[str]:
    """Real images of 32 px: light cracks and pits on grey ground. Returns their names."""
    images, masks = draw_set(count, seed)
    names = [f"{TYPES[mask.max() - 1]}/{root.name}{k:03d}" for k, mask in enumerate(masks)]
    label_map = {name: k for k, name in enumerate(TYPES, start=1)}
    write_released(str(root), names, zip(images, masks, strict=True), label_map, {})
    return names


def draw_set(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    half = count // 2
    masks = np.concatenate([boxes(count - half, (4, 12), 1, seed), boxes(half, (4, 12), 2, seed + 1)])
    ground = rng(seed).normal(100, 12, (count, 4, 4, 1)).repeat(8, axis=1).repeat(8, axis=2)
    images = np.where(masks[..., None] > 0, 200, ground).repeat(3, axis=3) + rng(seed).normal(0, 3, (*masks.shape, 3))
    return images.clip(0, 255).astype(np.uint8), masks


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Training, held-out and generated images; the first sample is a training image, the last mask is empty."""
    root = tmp_path_factory.mktemp("quality")
    names = write_set(root / "train", 12, 10) + write_set(root / "real", 20, 20)
    images, masks = draw_set(16, 30)
    images[0], masks[0] = (array[0] for array in draw_set(12, 10))
    masks[-1] = 0
    SampleFolder(str(root / "samples"), TYPES, {"seed": 0}).add(range(16), images, masks)
    (root / "groups.csv").write_text("".join(f"{name}.png,object {k // 2}\n" for k, name in enumerate(names)))
    return {name.partition(".")[0]: str(root / name) for name in ("train", "real", "samples", "groups.csv")}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(quality, "load_extractor", lambda name, device: random_extractor())
    monkeypatch.setattr(quality, "train_agreement_segmenter", lambda *args, **keywords: Threshold())
    parser = argparse.ArgumentParser()
    quality.add_arguments(parser)
    quality.main(parser.parse_args([*arguments, "--device", "cpu"]))


def test_from_files_to_files(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path) -> None:
    flags = [part for name in ("train", "real", "samples", "groups") for part in (f"--{name}", folders[name])]
    run(monkeypatch, *flags, "--out", str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("closest_pairs.png", "quality.json", "quality.md", "samples.jsonl")
    ]
    result = json.loads((tmp_path / "quality.json").read_text())
    assert result["counts"] == {
        **{"samples": 16, "real_images": 20, "real_groups": 10, "real_views": 20},
        **{"train_images": 12, "train_views": 12, "good_images": 0},
    }
    assert result["provenance"]["extractor"] == "random" and result["provenance"]["samples"]["seed"] == 0
    for part in (result, result["reference"]["real"], result["reference"]["train"]):
        assert set(part["per_type"]) == set(part["inside_masks"]["per_type"]) == set(TYPES)
        assert part["overall"]["kid"]["interval"][0] <= part["overall"]["kid"]["value"]
    assert result["overall"]["counts"] == {"samples": 16, "real": 20, "real_groups": 10}
    assert result["per_type"]["dent"]["too_few"] == "0 against 0"
    assert result["labels"]["empty"]["samples"]["value"] == 1 / 16 and result["labels"]["missing"] == []
    assert result["memorization"]["copies"]["value"] >= 1 / 16
    masks, bright = draw_set(16, 30)[1][:-1], draw_set(16, 30)[1]
    masks[0], bright[0] = draw_set(12, 10)[1][0], draw_set(12, 10)[1][0]
    share = (masks == 1).sum() / (bright > 0).sum()  # pits, and the last sample's, are called cracks
    assert result["agreement"]["per_type"]["crack"]["value"] == pytest.approx(share)

    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and rows[-1]["empty"] and rows[-1]["agreement"] == 0
    assert rows[0]["nearest_train"]["name"] == "crack/train000" and rows[0]["nearest_train"]["copy"]
    text = (tmp_path / "quality.md").read_text()
    assert text in capsys.readouterr().out
    assert f"| KID x 1000 | {number(result['overall']['kid'], 1000, 1)} |" in text
    assert "| dent | 0 / 0 in 0 groups | too few |" in text

    again = tmp_path / "again"
    run(monkeypatch, *flags, "--out", str(again))
    assert json.loads((again / "quality.json").read_text()) == result
    run(monkeypatch, *flags, "--out", str(again), "--seed", "1", "--no_agreement")
    other = json.loads((again / "quality.json").read_text())
    assert other["overall"]["kid"]["value"] == result["overall"]["kid"]["value"]
    assert other["overall"]["kid"]["interval"] != result["overall"]["kid"]["interval"]
    assert other["agreement"] is None and other["provenance"]["segmenter"] is None


def test_without_training_images_it_says_what_that_means(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run(monkeypatch, "--real", folders["real"], "--samples", folders["samples"], "--out", str(tmp_path))
    result = json.loads((tmp_path / "quality.json").read_text())
    assert result["reference"]["train"] is None and result["settings"]["train"] is None
    assert "Without --train" in result["notes"][0] and "group of its own" in result["notes"][1]
    assert result["overall"]["cluster_diversity"]["of"] == 20


def test_a_type_that_no_sample_has_is_named(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, masks = draw_set(16, 30)
    masks[masks == 2] = 1
    SampleFolder(str(tmp_path / "samples"), TYPES, {"seed": 0}).add(range(16), images, masks)
    flags = ["--real", folders["real"], "--samples", str(tmp_path / "samples"), "--no_agreement"]
    run(monkeypatch, *flags)
    result = json.loads((tmp_path / "samples/quality/quality.json").read_text())
    assert result["labels"]["missing"] == ["pit"] and any(
        note.startswith("pit: was trained") for note in result["notes"]
    )
    assert result["per_type"]["pit"]["too_few"] == "0 against 10"


def test_windows_are_compared_with_windows(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, masks = draw_set(16, 30)
    settings = {"seed": 0, "crops": {"crop_from": [32, 32], "crop_defect": 0.5}}
    SampleFolder(str(tmp_path / "samples"), TYPES, settings).add(range(16), images[:, 4:28, 4:28], masks[:, 4:28, 4:28])
    flags = [part for name in ("train", "real") for part in (f"--{name}", folders[name])]
    run(monkeypatch, *flags, "--samples", str(tmp_path / "samples"), "--windows", "3", "--no_agreement")
    result = json.loads((tmp_path / "samples/quality/quality.json").read_text())
    assert result["counts"]["real_images"] == 20 and result["counts"]["real_views"] == 60
    assert result["overall"]["counts"] == {"samples": 16, "real": 60, "real_groups": 20}
    assert result["overall"]["cluster_diversity"]["of"] == 12
    assert any("3 windows of each real image" in note for note in result["notes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--samples": "train/test/crack"}, r"--samples .*"),
        ({"--windows": "0"}, "--windows 0: must be at least 1"),
        ({"--seed": "-1"}, "--seed -1: must be at least 0"),
        ({"--real": "nowhere"}, "--real .*nowhere"),
        ({"--train": "few"}, "--train .*few: its types are .*, but those of --samples"),
        ({"--real": "one"}, "--real .*one: holds 1 images; measures need 8"),
        ({"--groups": "one.csv"}, "--real .*: all images are of one group, but intervals need at least 2"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_written(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    write_set(tmp_path / "one", 1, 0)
    write_released(
        str(tmp_path / "few"), ["crack/0"], [(np.zeros((9, 9), np.uint8), np.eye(9, dtype=np.uint8))], {"crack": 1}, {}
    )
    names = [f"{TYPES[k // 10]}/real{k:03d}" for k in range(20)] + [f"{TYPES[k // 6]}/train{k:03d}" for k in range(12)]
    (tmp_path / "one.csv").write_text("".join(f"{name}.png,same\n" for name in names))
    (tmp_path / "train").symlink_to(folders["train"])
    flags = {"--real": folders["real"], "--train": folders["train"], "--samples": folders["samples"]}
    for flag, value in changes.items():
        flags[flag] = value if flag in ("--windows", "--seed") else str(tmp_path / value)
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message) as caught:
        run(monkeypatch, *(part for pair in flags.items() for part in pair), "--out", str(out))
    assert "\n" not in str(caught.value) and not out.exists()


def test_the_command_line(run_script: Callable, folders: dict[str, str]) -> None:
    result = run_script("evaluate.py", "quality", "--real", folders["real"], "--samples", folders["real"] + "/none")
    assert result.returncode == 2 and result.stderr.startswith("error: --samples") and result.stderr.count("\n") == 1
