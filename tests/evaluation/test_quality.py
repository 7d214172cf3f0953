"""evaluate.py quality: labels, blocks, what was asked for, and a run from files to files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import drawn_boxes
import numpy as np
import pytest
from drawn_boxes import draw, image_set, write_real, write_samples
from PIL import Image
from random_extractor import random_extractor
from scipy import ndimage

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import asked, quality
from guided_diffusion.evaluation.fidelity import Seen, compare
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.labels import is_speck_mask, measure_labels, speck_thresholds
from guided_diffusion.evaluation.scores import agreement
from guided_diffusion.evaluation.tables import number

TYPES = (*drawn_boxes.TYPES, "dent")  # no image shows the last


def of_masks(masks: np.ndarray, groups: list | None = None, images: np.ndarray | None = None) -> ImageSet:
    return image_set(np.zeros((*masks.shape, 3), np.uint8) if images is None else images, masks, groups, TYPES)


def boxes(count: int, sides: tuple[int, int], index: int = 1, seed: int = 0, number: int = 1) -> np.ndarray:
    """Masks [count, 32, 32] with `number` boxes each of a type; the sides are drawn from a range."""
    masks, draws = np.zeros((count, 32, 32), np.uint8), np.random.default_rng(seed)
    for mask in masks:
        for place in range(number):
            height, width = draws.integers(*sides, 2)
            mask[16 * (place // 2) : 16 * (place // 2) + height, 16 * (place % 2) : 16 * (place % 2) + width] = index
    return masks


def far(masks: np.ndarray) -> np.ndarray:
    """Pixels further than 4 from a defect, bool [N, H, W]."""
    return ~ndimage.maximum_filter(masks > 0, (1, 9, 9))


def test_specks_are_smaller_than_any_real_region() -> None:
    real = np.zeros((3, 8, 8), np.uint8)
    real[0, :2, :5], real[1, :3, :2], real[1, 7, 7], real[2, 0, 0] = 1, 1, 1, 2
    thresholds = speck_thresholds(real, 3)
    assert list(thresholds) == [0, 3, 0.5, 0]  # half of 6, not of the 1 beside it; half of 1; type 3 is not there
    empty, specks, whole = np.zeros((3, 8, 8), np.uint8)
    specks[0, 0] = specks[0, 4] = whole[0, 0] = 1
    whole[7, 7] = 2  # as large as real ones of this type
    assert [is_speck_mask(mask, thresholds) for mask in (empty, specks, whole)] == [False, True, False]


def test_label_statistics_tell_what_was_planted() -> None:
    real = of_masks(boxes(20, (6, 7)), [k // 2 for k in range(20)])
    masks = np.concatenate([boxes(10, (3, 4), number=3), boxes(5, (6, 7), index=2), boxes(3, (1, 2)), boxes(2, (0, 1))])
    train = of_masks(np.concatenate([real.masks, boxes(1, (5, 6), 3)]))
    labels = measure_labels({"samples": of_masks(masks), "real": real}, train)
    assert labels["empty"]["samples"]["value"] == 2 / 20 and labels["empty"]["real"]["value"] == 0
    assert labels["speck"]["samples"]["value"] == 13 / 20
    assert labels["trained"] == ["dark", "dent"]
    assert labels["missing"] == labels["missing_in_real"] == ["dent"]
    dark = labels["per_type"]["dark"]
    assert dark["share"]["samples"]["value"] == 13 / 20 and dark["share"]["real"]["value"] == 1
    assert dark["regions"]["samples"]["value"] == pytest.approx((10 * 3 + 3 * 1) / 13)
    assert dark["regions"]["real"] == {"value": 1, "interval": [1, 1]}
    assert dark["area"] == {side: {"value": n / 1024, "interval": None} for side, n in (("samples", 9), ("real", 36))}
    bright = labels["per_type"]["bright"]
    assert bright["area"]["real"] is None and bright["share"]["samples"]["value"] == 0.25


def test_blocks_overall_and_per_type() -> None:
    """Samples drawn like the real images, but for those of type 2, which are dark; of type 3 there are too few."""
    masks = np.concatenate([boxes(12, (4, 12), 1), boxes(10, (4, 12), 2, 1), boxes(3, (4, 12), 3, 2)])

    def draw(seed: int) -> np.ndarray:
        draws = np.random.default_rng(seed)
        ground = np.clip(draws.normal(100, 30, (25, 1, 1, 1)) + draws.normal(0, 4, (25, 32, 32, 3)), 0, 255)
        return np.where(masks[..., None] > 0, 220, ground).astype(np.uint8)

    ours = draw(1)
    ours[12:22] //= 3
    extractor = random_extractor()
    real = of_masks(masks, [k // 3 for k in range(25)], draw(0))
    samples, real_seen = (Seen.look(images, extractor) for images in (of_masks(masks, images=ours), real))
    blocks = compare(samples, real_seen, TYPES)
    assert blocks["per_type"]["dent"] == {
        "counts": {"samples": 3, "real": 3, "real_groups": 2},
        "too_few": "3 against 3",
    }
    kid = {name: blocks["per_type"][name]["kid"] for name in ("dark", "bright")}
    assert kid["dark"]["interval"][0] < 0 < kid["dark"]["interval"][1] < kid["bright"]["interval"][0]
    assert set(blocks["per_type"]["bright"]) == {"counts", "kid"} and blocks["overall"]["diversity"]["interval"]
    assert blocks["per_type"]["bright"]["counts"] == {"samples": 10, "real": 10, "real_groups": 4}

    own = compare(None, real_seen, TYPES)["overall"]
    assert own["counts"]["samples"] + own["counts"]["real"] == 25 and own["counts"]["real_groups"] < 9
    assert own["kid"]["interval"][0] < 0 < own["kid"]["interval"][1]
    alone = compare(real_seen, samples, TYPES)["overall"]
    assert own["diversity"]["value"] == alone["diversity"]["value"]


def test_one_altered_pixel_outside_of_the_margin_is_found() -> None:
    photographs, masks = draw(3, 0)[0], draw(3, 1)[1]
    kept = far(masks)
    images = np.where(kept[..., None], photographs, 0)
    found = asked.measure_outside(image_set(images, masks), photographs, 4)
    assert found == {"pixels": int(kept.sum()), "largest": 0, "differ": 0, "names": []}
    y, x = np.argwhere(kept[1])[7]
    images[1, y, x, 2] ^= 3
    found = asked.measure_outside(image_set(images, masks), photographs, 4)
    assert (found["differ"], found["names"]) == (1, ["000001"]) and 1 <= found["largest"] <= 3


def predict(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """In a segmenter's place: calls what is far from grey dark defects."""
    return [(np.abs(image.mean(axis=2) - 120) > 80).astype(np.uint8) for image in images]


SEGMENTER = SimpleNamespace(provenance={"encoder": "threshold"}, predict=predict)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Training, held-out and generated images; the first sample is a training image, the last mask is empty."""
    root = tmp_path_factory.mktemp("quality")
    write_real(root / "train", 12, 10, class_names=TYPES)
    write_real(root / "real", 20, 20, class_names=TYPES)
    names = [f"{TYPES[k % 2]}/{name}{k:03d}" for name, count in (("train", 12), ("real", 20)) for k in range(count)]
    (root / "groups.csv").write_text("".join(f"{name}.png,object {k // 2}\n" for k, name in enumerate(names)))
    write_samples(root / "samples", *drawn_samples(), TYPES)

    images, masks = draw(16, 30)
    conditions = [{"types": [TYPES[k % 2]]} for k in range(16)]
    conditions[2] = {"types": [TYPES[1]]}  # but it shows the other
    write_samples(root / "types", images, masks, TYPES, conditions)
    photographs = draw(16, 31, types=[0])[0]
    (root / "good").mkdir()
    for k, photograph in enumerate(photographs):
        Image.fromarray(photograph).save(root / "good" / f"{k:02d}.png")
    kept = far(masks)
    conditions = [{"mask": f"{k:03d}.png", "background": f"{k:02d}.png"} for k in range(16)]
    held = {"conditions": {"masks": 16, "margin": 4}}
    write_samples(root / "inserted", np.where(kept[..., None], photographs, images), masks, TYPES, conditions, **held)
    return {path.stem: str(path) for path in root.iterdir()}


def drawn_samples() -> tuple[np.ndarray, np.ndarray]:
    images, masks = draw(16, 30)
    images[0], masks[0] = (array[0] for array in draw(12, 10))
    masks[-1] = 0
    return images, masks


@pytest.fixture
def run(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict]:
    """quality.json of a run into tmp_path / out; what is named is a folder of `folders` where there is one."""
    monkeypatch.setattr(quality, "load_extractor", lambda name, device: random_extractor())

    def train(*args, held_out: ImageSet | None, **_):
        return SEGMENTER, held_out and agreement(SEGMENTER, held_out)[1]

    monkeypatch.setattr(quality, "train_agreement_segmenter", train)
    parser = argparse.ArgumentParser()
    quality.add_arguments(parser)

    def run(*more: str, **named: str | None) -> dict:
        flags = {"train": "train", "real": "real", "samples": "samples"} | named
        given = [part for flag, value in flags.items() if value for part in (f"--{flag}", folders.get(value, value))]
        quality.main(parser.parse_args([*given, "--out", str(tmp_path / "out"), "--device", "cpu", *more]))
        return json.loads((tmp_path / "out/quality.json").read_text())

    return run


def test_from_files_to_files(run: Callable[..., dict], capsys, tmp_path: Path) -> None:
    result = run(groups="groups")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("closest_pairs.png", "quality.json", "quality.md", "samples.jsonl")
    ]
    assert result["counts"] == {
        **{"samples": 16, "real_images": 20, "real_groups": 10, "real_views": 20},
        **{"train_images": 12, "train_views": 12, "good_images": 0},
    }
    assert result["provenance"]["extractor"] == "random" and result["provenance"]["samples"]["seed"] == 0
    for part in (result, result["reference"]["real"], result["reference"]["train"]):
        assert set(part["per_type"]) == set(TYPES)
        assert part["overall"]["kid"]["interval"][0] <= part["overall"]["kid"]["value"]
    assert result["overall"]["counts"] == {"samples": 16, "real": 20, "real_groups": 10}
    assert result["per_type"]["dent"]["too_few"] == "0 against 0"
    assert result["labels"]["empty"]["samples"]["value"] == 1 / 16 and result["labels"]["missing"] == []
    assert result["memorization"]["copies"]["value"] >= 1 / 16 and result["asked"] is None
    masks, drawn = drawn_samples()[1], draw(16, 30)[1]
    drawn[0] = masks[0]
    share = (masks == 1).sum() / (drawn > 0).sum()  # bright ones, and the last sample's, are called dark
    assert result["agreement"]["per_type"]["dark"]["value"] == pytest.approx(share)

    rows = [json.loads(line) for line in (tmp_path / "out" / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 16 and rows[-1]["empty"] and rows[-1]["agreement"] == 0
    assert rows[0]["nearest_train"]["name"] == "dark/train000" and rows[0]["nearest_train"]["copy"]
    text = (tmp_path / "out" / "quality.md").read_text()
    assert text in capsys.readouterr().out
    assert f"KID x 1000 | {number(result['overall']['kid'], 1000, 1)} |" in " ".join(text.split())

    assert run(groups="groups") == result
    other = run("--no_agreement", groups="groups", seed="1")
    assert other["overall"]["kid"]["value"] == result["overall"]["kid"]["value"]
    assert other["overall"]["kid"]["interval"] != result["overall"]["kid"]["interval"]
    assert other["agreement"] is None and other["provenance"]["segmenter"] is None


def test_without_training_images_and_a_type_it_says_what_that_means(run: Callable[..., dict], tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", *draw(16, 30, types=[1]), TYPES)
    result = run("--no_agreement", train=None, samples=samples)
    assert result["reference"]["train"] is None and result["settings"]["train"] is None
    assert "Without --train" in result["notes"][0] and "group of its own" in result["notes"][1]
    assert result["labels"]["missing"] == ["bright"] and result["per_type"]["bright"]["too_few"] == "0 against 10"


def test_windows_are_compared_with_windows(run: Callable[..., dict], tmp_path: Path) -> None:
    images, masks = (part[:, 4:28, 4:28] for part in draw(16, 30))
    crops = {"crop_from": [32, 32], "crop_defect": 0.5}
    samples = write_samples(tmp_path / "samples", images, masks, TYPES, crops=crops)
    result = run("--no_agreement", samples=samples, windows="3")
    assert result["counts"]["real_images"] == 20 and result["counts"]["real_views"] == 60
    assert result["overall"]["counts"] == {"samples": 16, "real": 60, "real_groups": 20}


def test_samples_are_held_against_what_was_asked_for(run: Callable[..., dict], tmp_path: Path) -> None:
    found = run("--no_agreement", samples="types")["asked"]
    assert found["masks"] is None and found["photographs"] is None
    bright, dent = found["types"]["bright"], found["types"]["dent"]
    assert (bright["asked"], bright["present"], bright["obeyed"]["value"]) == (9, 8, pytest.approx(8 / 9))
    assert dent == {"asked": 0, "present": 0, "obeyed": None}
    assert "| dark | 7 | 8 | 100.0 [" in " ".join((tmp_path / "out/quality.md").read_text().split())

    result = run(samples="inserted", background="good")
    found = result["asked"]
    assert found["types"] is None and found["masks"]["samples"] == 16
    assert found["masks"]["agreement"] == {
        **{"samples": result["agreement"]["mean"], "real": result["agreement"]["reference"]["mean"]}
    }
    assert found["masks"]["agreement"]["real"]["value"] == 0.5  # every second square is dark
    assert found["photographs"]["margin"] == 4 and found["photographs"]["outside"]["largest"] == 0
    assert "the largest difference from the photograph is 0 of 255" in (tmp_path / "out/quality.md").read_text()
    found = run("--no_agreement", samples="inserted")["asked"]
    assert found["photographs"]["outside"] is None and found["masks"]["agreement"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": "train/test/dark"}, r"--samples .*"),
        ({"samples": "unknown"}, r"unknown condition.types 'drak' \(did you mean 'dark'\?\)"),
        ({"windows": "0"}, "--windows 0: must be at least 1"),
        ({"seed": "-1"}, "--seed -1: must be at least 0"),
        ({"real": "nowhere"}, "--real .*nowhere"),
        ({"train": "few"}, "--train .*few: its types are .*, but those of --samples"),
        ({"real": "one"}, "--real .*one: holds 1 images; measures need 8"),
        ({"groups": "one.csv"}, "--real .*: all images are of one group, but intervals need at least 2"),
        ({"background": "good"}, "--background: no sample of .* was drawn into a photograph; leave it out"),
        ({"samples": "inserted", "background": "train/test/dark"}, "--background .*: has no 00.png"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_written(
    run: Callable[..., dict], folders: dict[str, str], tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    write_real(tmp_path / "one", 1, 0, class_names=TYPES)
    write_real(tmp_path / "few", 4, 0)
    write_samples(tmp_path / "unknown", *draw(8, 1), TYPES, [{"types": ["drak"]}] * 8)
    names = Path(folders["groups"]).read_text().splitlines()
    (tmp_path / "one.csv").write_text("".join(f"{line.partition(',')[0]},same\n" for line in names))
    (tmp_path / "train").symlink_to(folders["train"])
    named = {value: str(tmp_path / value) for value in changes.values() if (tmp_path / value).exists()}
    with pytest.raises(InputError, match=message) as caught:
        run(**{flag: named.get(value, value) for flag, value in changes.items()})
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
