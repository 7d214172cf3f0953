"""evaluate.py quality: what masks hold, and runs from files to files."""

import json
from collections.abc import Callable
from pathlib import Path

import evaluating
import numpy as np
import pytest
from evaluating import SEGMENTER, draw, evaluate, image_set, random_extractor, write_real, write_samples

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import quality
from guided_diffusion.evaluation.image_sets import ImageSet
from guided_diffusion.evaluation.sample_scores import measure_labels, speck_thresholds

TYPES = (*evaluating.TYPES, "dent")  # no image shows the last


def test_specks_are_smaller_than_any_real_region() -> None:
    real = np.zeros((3, 8, 8), np.uint8)
    real[0, :2, :5], real[1, :3, :2], real[1, 7, 7], real[2, 0, 0] = 1, 1, 1, 2
    thresholds = speck_thresholds(image_set(np.zeros(0), real, names=TYPES))
    assert list(thresholds.values()) == [3, 0.5, 0]  # half of 6, not of the 1 beside it; half of 1; none of type 3


def test_label_statistics_tell_what_was_planted() -> None:
    """Real images have one box of 6 x 6 px; half of the samples three of 3, others another type, specks, nothing."""

    def boxes(*kinds: tuple[int, int, int, int]) -> ImageSet:
        """Of each kind so many masks, with so many boxes of this side and type."""
        masks = np.zeros((sum(count for count, *_ in kinds), 32, 32), np.uint8)
        for mask, (_, number, side, index) in zip(masks, np.repeat(kinds, [k[0] for k in kinds], axis=0), strict=True):
            for y, x in ((0, 0), (0, 16), (16, 0))[:number]:
                mask[y : y + side, x : x + side] = index
        return image_set(np.zeros(0), masks, names=TYPES)

    real, samples = boxes((20, 1, 6, 1)), boxes((10, 3, 3, 1), (5, 1, 6, 2), (3, 1, 1, 1), (2, 0, 0, 0))
    labels = measure_labels({"samples": samples, "real": real}, {"dark": 18, "bright": 0, "dent": 12.5})
    assert labels["empty"]["samples"]["value"] == 2 / 20 and labels["empty"]["real"]["value"] == 0
    assert labels["speck"]["samples"]["value"] == 13 / 20
    assert labels["missing"] == labels["missing_in_real"] == ["dent"]
    dark, bright = labels["per_type"]["dark"], labels["per_type"]["bright"]
    assert dark["share"]["samples"]["value"] == 13 / 20 and dark["share"]["real"]["value"] == 1
    assert dark["regions"]["samples"]["value"] == pytest.approx((10 * 3 + 3 * 1) / 13)
    assert dark["regions"]["real"] == {"value": 1, "interval": [1, 1]}
    assert dark["area"] == {side: {"value": n / 1024, "interval": None} for side, n in (("samples", 9), ("real", 36))}
    assert bright["area"]["real"] is None and bright["share"]["samples"]["value"] == 0.25


@pytest.mark.parametrize(
    ("precision", "recall", "power", "looks"),
    [
        (0.61, 0.21, -9, "real"),
        (0.3, 0.19, -9, "partly"),
        (0.1, 0.5, -2, "blurry"),
        (0.1, 0, 2, "wrong"),
        (None, 0, 0, None),
    ],
)
def test_the_verdict_holds_precision_and_recall_against_those_of_real_halves(precision, recall, power, looks) -> None:
    real = {"precision": {"value": 0.8}, "recall": {"value": 0.8}, "kid": {"value": 0.001}}
    own = {"precision": precision and {"value": precision}, "kid": {"value": 0.05}, "spectrum": {"value": power}}
    own |= {"recall": {"value": recall}}
    result = {"overall": own, "reference": {"real": {"overall": real}}}
    verdict = quality.judge(result | {"labels": {"empty": {"samples": {"value": 0.9}}}})
    assert verdict["looks"] == looks and ("train longer" in verdict["sentence"]) == (looks not in ("real", None))
    shown = f"(precision {precision or 0:.2f}, recall {recall:.2f}, KID x 1000 50.0; real ones among themselves: "
    shown += "precision 0.80, recall 0.80, KID x 1000 1.0)"
    assert (shown in verdict["sentence"]) == (looks is not None)
    assert ("add photographs" in verdict["sentence"]) == (looks is not None and recall < 0.2)
    verdict = quality.judge(result | {"labels": {"empty": {"samples": {"value": 1}}}})
    assert verdict == {"looks": "wrong", "sentence": "All masks of the samples are empty: train longer."}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Training, held-out and generated images; the first sample is a training image, the last mask is empty."""
    root = tmp_path_factory.mktemp("quality")
    write_real(root / "train", 12, 10, class_names=TYPES)
    write_real(root / "real", 20, 20, class_names=TYPES)
    write_real(root / "one", 1, 0, class_names=TYPES)
    write_real(root / "few", 4, 0)
    names = [f"{TYPES[k % 2]}/{name}{k:03d}" for name, count in (("train", 12), ("real", 20)) for k in range(count)]
    (root / "groups.csv").write_text("".join(f"{name}.png,object {k // 2}\n" for k, name in enumerate(names)))
    (root / "same.csv").write_text("".join(f"{name}.png,same\n" for name in names))
    images, masks = draw(16, 30)
    asked = [{"types": [TYPES[k % 2]]} for k in range(16)]
    asked[2] = {"types": [TYPES[1]]}  # but it shows the other
    write_samples(root / "asked", images, masks, TYPES, asked)
    crops = {"crop_from": [32, 32], "crop_defect": 0.5}
    write_samples(root / "windows", images[:, 4:28, 4:28], masks[:, 4:28, 4:28], TYPES, crops=crops)
    write_samples(root / "dark", *draw(16, 30, types=[1]), TYPES)
    images[0], masks[0] = (array[0] for array in draw(12, 10))
    masks[-1] = 0
    write_samples(root / "samples", images, masks, TYPES)
    return {path.stem: str(path) for path in root.iterdir()}


@pytest.fixture
def run(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict]:
    """quality.json of a run into tmp_path / out; what is named is a folder of `folders` where there is one."""
    monkeypatch.setattr(quality, "load_extractor", lambda device: random_extractor())
    monkeypatch.setattr(quality, "train_agreement_segmenter", lambda *_: SEGMENTER)

    def run(*more: str, **named: str | None) -> dict:
        flags = {"train": "train", "real": "real", "samples": "samples", **named, "out": tmp_path / "out"}
        evaluate(quality, *more, **{flag: folders.get(value, value) for flag, value in flags.items()}, device="cpu")
        return json.loads((tmp_path / "out/quality.json").read_text())

    return run


def test_from_files_to_files(run: Callable[..., dict], capsys, tmp_path: Path) -> None:
    result, out = run(groups="groups"), tmp_path / "out"
    written = ["closest_pairs.png", "quality.json", "quality.md", "samples.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == written
    counts = {"samples": 16, "real_images": 20, "real_groups": 10, "train_images": 12, "good_images": 0}
    assert result["counts"] == counts
    assert result["provenance"]["extractor"] == "random" and result["provenance"]["samples"]["seed"] == 0
    assert set(result["per_type"]) == set(TYPES)
    for part in (result, result["reference"]["real"], result["reference"]["train"]):
        for measure in ("kid", "spectrum"):
            low, high = part["overall"][measure]["interval"]
            assert low <= part["overall"][measure]["value"] <= high
    assert any("KID x 1000 of the samples is" in note for note in result["notes"])
    assert result["overall"]["counts"] == {"samples": 16, "real": 20, "real_groups": 10}
    assert result["overall"]["diversity"]["interval"] and result["per_type"]["dent"]["too_few"] == "0 against 0"
    assert result["labels"]["empty"]["samples"]["value"] == 1 / 16 and result["labels"]["missing"] == []
    assert result["asked"] is None
    assert result["reference"]["real"]["overall"]["counts"] == {"samples": 10, "real": 10, "real_groups": 5}  # halves
    assert result["agreement"]["reference"]["mean"]["value"] == result["agreement"]["per_type"]["dark"]["value"] == 1
    bright = [(mask > 0).sum() for mask in draw(16, 30)[1][1::2]]
    assert result["agreement"]["per_type"]["bright"]["value"] == pytest.approx(sum(bright[:-1]) / sum(bright))
    rows = list(map(json.loads, (out / "samples.jsonl").read_text().splitlines()))
    assert len(rows) == 16 and rows[-1]["empty"] and rows[-1]["agreement"] == 0
    assert result["memorization"]["copies"]["value"] == sum(row["nearest_train"]["copy"] for row in rows) / 16 < 1
    assert rows[0]["nearest_train"]["name"] == "dark/train000" and rows[0]["nearest_train"]["copy"]
    said = capsys.readouterr().out
    assert (out / "quality.md").read_text() in said and said.endswith(f"{result['verdict']['sentence']}\n")
    assert run(groups="groups") == result
    other = run("--no_agreement", groups="groups", seed="1")
    assert other["overall"]["kid"]["value"] == result["overall"]["kid"]["value"]
    assert other["overall"]["kid"]["interval"] != result["overall"]["kid"]["interval"]
    assert other["agreement"] is None and other["provenance"]["segmenter"] is None


def test_without_training_images_and_a_type_it_says_what_that_means(run: Callable[..., dict]) -> None:
    result = run("--no_agreement", train=None, samples="dark")
    assert result["reference"]["train"] is None and result["settings"]["train"] is None
    assert "Without --train" in result["notes"][0] and "group of its own" in result["notes"][1]
    assert result["labels"]["missing"] == ["bright"] and result["per_type"]["bright"]["too_few"] == "0 against 10"


def test_windows_are_compared_with_windows(run: Callable[..., dict]) -> None:
    result = run("--no_agreement", samples="windows")
    assert result["counts"]["real_images"] == 20
    assert result["overall"]["counts"] == {"samples": 16, "real": 80, "real_groups": 20}


def test_samples_are_held_against_what_was_asked_for(run: Callable[..., dict]) -> None:
    asked = run("--no_agreement", samples="asked")["asked"]
    assert asked["bright"]["obeyed"].pop("value") == pytest.approx(8 / 9)
    assert (asked["bright"]["asked"], asked["bright"]["present"]) == (9, 8)
    assert asked["dent"] == {"asked": 0, "present": 0, "obeyed": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "-1"}, "--seed -1: must be from 0 to"),
        ({"train": "few"}, "--train .*few: its types are .*, but those of --samples"),
        ({"real": "one"}, "--real .*one: holds 1 images; measures need 8"),
        ({"real": "train"}, "--real .*train: 12 of its images are in --train .* too, such as .*; test on"),
        ({"groups": "same"}, "--real .*: intervals need images of at least 2 groups"),
    ],
)
def test_bad_input_gets_one_line_before_anything_is_written(run, tmp_path, changes, message) -> None:
    with pytest.raises(InputError, match=message) as caught:
        run(**changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
