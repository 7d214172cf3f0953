"""evaluate.py sweep: its rule on made-up points, and the command on a tiny pair with stubs for what has weights."""

from __future__ import annotations

import argparse
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import TrainedPair, tiny_config
from PIL import Image
from runs import QUICK, tree
from torch import nn

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import lift, sweep, sweep_checkpoints, sweep_measures
from guided_diffusion.evaluation.bootstrap import Resampling, interval
from guided_diffusion.evaluation.features import Extractor
from guided_diffusion.evaluation.image_sets import View, read_samples, read_whole, read_windows
from guided_diffusion.evaluation.kid import kid, kid_resampled
from guided_diffusion.evaluation.sample_scores import score_samples
from guided_diffusion.evaluation.sweep_report import draw_plot, draw_sheet, markdown
from guided_diffusion.evaluation.sweep_rule import (
    CHECKPOINT_RULE,
    MEASURES,
    STEP_RULE,
    Estimate,
    Point,
    Recommendation,
    Rule,
    difference,
    recommend,
)
from guided_diffusion.evaluation.sweep_series import read_steps
from guided_diffusion.generation.api import DefectGen
from guided_diffusion.generation.class_names import class_names_of

T = 20
KEYS = {measure.key: measure for measure in MEASURES}


# --- the rule ----------------------------------------------------------------------------------------------------

SHARED, OWN = 1.0, 0.1  # spread over resamples: what all points share, and what each has of its own


def made_up(steps: list[int], **values: list[float | None]) -> list[Point]:
    """Points at these steps; values of a measure differ by less than 0.2 if they are not to be told apart."""
    draws = np.random.default_rng(0)
    shared = draws.normal(0, SHARED, 1000)
    points = [Point(f"s{step}", step, f"S={step}", {}) for step in steps]
    for key, column in values.items():
        for point, value in zip(points, column, strict=True):
            resampled = None if value is None else value + shared + draws.normal(0, OWN, 1000)
            point.estimates[key] = Estimate(value, resampled)
    return points


def judged(points: list[Point], rule: Rule = STEP_RULE) -> tuple[int, dict[int, list[str]], Recommendation]:
    found = recommend(points, rule)
    return found.point.at, {point.at: list(point.beaten) for point in points if point.beaten}, found


def test_where_nothing_separates_the_default_stays() -> None:
    at, beaten, found = judged(made_up([0, 400, 1000], kid=[5.0, 5.1, 5.05], copies=[0.0, 0.1, 0.05]))
    assert (at, beaten, found.separated) == (400, {}, False)
    assert found.sentence == "Nothing separates these points in KID, near-copies. S=400, the default, is kept."


def test_without_the_default_the_fewest_copies_and_then_the_greatest_diversity_decide() -> None:
    values = {"kid": [5.0, 5.1, 5.05], "copies": [0.1, 0.0, 0.0], "diversity": [3.0, 1.0, 2.0]}
    at, _, found = judged(made_up([0, 50, 100], **values))
    assert at == 100 and not found.separated
    assert found.sentence.endswith("S=100 is recommended, the best of those left in near-copies.")
    values["copies"] = [0.0, 0.0, 0.0]
    at, _, found = judged(made_up([0, 50, 100], **values))
    assert at == 0 and "the best of those left in diversity" in found.sentence
    at, _, found = judged(made_up([0, 50, 100], kid=[5.0, 5.0, 5.0]))
    assert at == 0 and found.sentence.endswith("S=0 is recommended, the first.")


def test_the_default_is_kept_where_others_are_worse() -> None:
    at, beaten, found = judged(made_up([0, 400, 1000], kid=[5.0, 5.1, 8.0], diversity=[9.0, 1.0, 1.0]))
    assert (at, beaten, found.separated) == (400, {1000: ["kid"]}, True)
    assert found.sentence == "S=400, the default, is kept. Shown to be worse: S=1000 in KID. Not told apart: S=0."


def test_the_default_goes_where_it_is_worse() -> None:
    values = {"kid": [5.0, 5.1, 8.0], "copies": [0.1, 0.0, 0.0], "diversity": [2.0, 1.0, 3.0]}
    at, beaten, found = judged(made_up([50, 200, 400], **values))
    assert (at, beaten) == (200, {400: ["kid"]})
    assert found.sentence == (
        "S=200 is recommended, the best of those left in near-copies. "
        "Shown to be worse: S=400 in KID. Not told apart: S=50."
    )


def test_stages_come_one_after_another() -> None:
    # S=0 agrees best and copies least, but is out by then: S=50 is the best of those left.
    values = {"kid": [9.0, 5.0, 5.0, 5.0], "agreement": [9.0, 5.0, 2.0, 5.0], "copies": [0.0, 5.0, 0.0, 7.0]}
    points = made_up([0, 50, 100, 400], **values)
    at, beaten, found = judged(points)
    assert (at, beaten) == (50, {0: ["kid"], 100: ["agreement"], 400: ["copies"]})
    assert points[2].beaten["agreement"]["by"] in ("s50", "s400") and points[3].beaten["copies"]["by"] == "s50"
    assert "the only one not shown to be worse than another" in found.sentence
    assert found.sentence.endswith("S=0 in KID; S=100 in agreement; S=400 in near-copies.")


def test_what_is_not_defined_is_worse_than_what_is() -> None:
    points = made_up([0, 400], agreement=[0.5, None])
    assert judged(points)[:2] == (0, {400: ["agreement"]})
    assert points[1].beaten["agreement"] == {"by": "s0", "difference": None}
    assert judged(made_up([0, 400], agreement=[None, None]))[:2] == (400, {})


def test_of_checkpoints_the_lowest_held_out_loss_decides() -> None:
    points = made_up([1000, 2000, 3000, 4000], kid=[9.0, 5.1, 5.0, 5.05])
    for point, loss in zip(points, (1.0, 3.0, 2.0, 4.0), strict=True):
        point.estimates["held_out_loss"] = Estimate(loss)
    at, beaten, found = judged(points, CHECKPOINT_RULE)
    assert (at, beaten) == (3000, {1000: ["kid"]}) and "the best of those left in held-out loss" in found.sentence


def test_the_difference_is_a_paired_one() -> None:
    near, far = made_up([0, 50], kid=[5.0, 5.4], agreement=[5.0, 5.4])
    found, worse = difference(far, near, KEYS["kid"])
    paired = far.estimates["kid"].resampled - near.estimates["kid"].resampled
    assert found == {"value": pytest.approx(0.4), "interval": pytest.approx(np.quantile(paired, [0.025, 0.975]))}
    assert worse and not difference(near, far, KEYS["kid"])[1] and difference(near, far, KEYS["agreement"])[1]
    # What one draw has of its own is not taken off: the same means, but resampled apart.
    far.estimates["kid"] = Estimate(5.4, np.random.default_rng(1).permutation(far.estimates["kid"].resampled))
    assert not difference(far, near, KEYS["kid"])[1]


# --- what a person reads -----------------------------------------------------------------------------------------


def result_of(points: list[Point], kind: str = "steps", **reference: float) -> dict[str, Any]:
    series = SimpleNamespace(rule=STEP_RULE, checkpoints=[])
    samples = {p.name: SimpleNamespace(masks=np.array([[0, 1]]), class_names=("pit", "stain")) for p in points}
    concluded = sweep.conclude(series, points, samples, ["a note"])
    return {"kind": kind, "axis": "step_inference", "reference": reference, **concluded}


def test_the_table_says_what_is_recommended_and_what_was_dropped() -> None:
    points = made_up([0, 400, 1000], kid=[0.5, 0.51, 9.0], agreement=[0.5, None, 0.5], diversity=[1.0, 2.0, 3.0])
    for point in points:
        point.estimates["types"] = Estimate(2.0)
    result = result_of(points, diversity=2.5)
    lines = markdown(result).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| step_inference | KID x 1000 (-) | diversity (+) | agreement (+) | types covered (+) |"
    assert len({line.count("|") for line in table}) == 1
    low, high = (f"{1000 * bound:.1f}" for bound in interval(points[0].estimates["kid"].resampled))
    assert table[2].startswith(f"| **S=0** | 500.0 [{low}, {high}] | 1.000 [") and table[2].endswith(" | 2 |")
    assert " | - x | 2 |" in table[3] and "] x | 3.000 [" in table[4]
    assert lines[2] == result["recommendation"]["sentence"] and "- a note" in lines
    assert result["points"][1]["types"] == ["pit"]
    json.dumps(result, allow_nan=False)


@pytest.mark.parametrize("kind", ["steps", "checkpoints"])
def test_the_plot_is_drawn(kind: str) -> None:
    keys = ["kid", "diversity", "types"] if kind == "steps" else list(KEYS)
    points = made_up([0, 400, 1000], **{key: [0.5, 0.6, 9.0] for key in keys})
    for point, value in zip(points, (0.5, None, 0.6), strict=True):
        point.estimates["agreement"] = Estimate(value)  # undefined, and without interval
    picture = Image.open(io.BytesIO(draw_plot(result_of(points, kind, diversity=0.5, agreement=0.4))))
    assert picture.width > 1500 and picture.height > 500
    red = (np.asarray(picture.convert("RGB")) == (209, 73, 91)).all(axis=2)
    assert red.sum() > 200  # the mark of the recommended one


def test_the_sheet_shows_the_same_seeds_below_each_other() -> None:
    points = made_up([0, 400], kid=[0.5, 9.0], diversity=[1.0, 1.0])
    images = {point.name: np.zeros((12, 64, 64, 3), np.uint8) for point in points}
    for k, image in enumerate(images.values()):
        image[:] = [[[[60 + 10 * seed, 200, 30 * k]]] for seed in range(12)]
    masks = np.zeros((12, 64, 64), np.uint8)
    sheet = np.asarray(draw_sheet(result_of(points), {name: (image, masks) for name, image in images.items()}))
    places = {}
    for k in range(2):
        for seed in range(10):
            rows, columns = np.nonzero((sheet == (60 + 10 * seed, 200, 30 * k)).all(axis=2))
            places[k, seed] = columns.min(), columns.max() - columns.min() + 1, rows.min()
        assert not (sheet == (160, 200, 30 * k)).all(axis=2).any()  # no more than ten
    for seed in range(10):
        assert places[0, seed][:2] == places[1, seed][:2] and places[0, seed][1] == 128
        assert places[0, seed][2] + 256 < places[1, seed][2] + 20


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(run_script: Callable, demo_data: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedPair:
    """Networks of T = 20 steps, with checkpoints after 2 and 4 updates, and held-out losses of both."""
    folder = tmp_path_factory.mktemp("sweep_pair")
    for size in ("large", "small"):
        config = tiny_config(size, **{"diffusion.num_timestep": T, "data.val_dir": str(demo_data)})
        (folder / f"{size}.yml").write_text(yaml.safe_dump(config))
        arguments = ("--config", folder / f"{size}.yml", "--data_dir", demo_data, "--work_dir", folder / size)
        result = run_script("train.py", *arguments, prelude=QUICK)
        assert result.returncode == 0, result.stderr
    return TrainedPair(folder / "large", folder / "small")


class Bright:
    """In a segmenter's place: calls the bright pixels of a sample type 1."""

    provenance = {"encoder": "stub"}
    reference = {"mean": {"value": 0.5, "interval": None}}

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return [(image.mean(axis=2) > 128).astype(np.uint8) for image in images]


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> Extractor:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()).requires_grad_(
        False
    )
    half = (0.5, 0.5, 0.5)
    extractor = Extractor("stub", "0" * 64, network, ("0", "1"), 32, half, half, torch.device("cpu"))
    monkeypatch.setattr(sweep_measures, "load_extractor", lambda name, device: extractor)
    monkeypatch.setattr(sweep_measures, "train_agreement_segmenter", lambda *args, **keywords: Bright())
    monkeypatch.setattr(sweep, "draw_plot", lambda result: b"plot")
    return extractor


@pytest.fixture
def arguments(pair: TrainedPair, demo_data: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "large": pair.large,
        "small": pair.small,
        "real": demo_data,
        "train": demo_data,
        "out": tmp_path / "out",
        "steps": "0,8,20",
        "num_samples": 8,
        "num_steps": "4",
        "batch_size": 5,
        "device": "cpu",
    }


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """What sweep.json holds after a run in this process."""
    parser = argparse.ArgumentParser()
    sweep.add_arguments(parser)
    flags = [
        f"--{key}" if value is True else f"--{key}={value}" for key, value in arguments.items() if value is not None
    ]
    sweep.main(parser.parse_args(flags))
    return json.loads((Path(arguments["out"]) / "sweep.json").read_text())


def features_of(extractor: Extractor, folder: Path) -> np.ndarray:
    return extractor(np.stack([np.asarray(Image.open(file)) for file in sorted((folder / "images").iterdir())]))


def copies_in(extractor: Extractor, folder: Path, root: Path) -> float:
    """The share of near-copies that evaluate.py quality would name."""
    names = class_names_of(str(root))
    view = View((32, 32))
    real, train = read_windows(str(root), names, view), read_whole(str(root), names, view)
    rows = score_samples(read_samples(str(folder), names), train, real, extractor).rows
    return float(np.mean([row["nearest_train"]["copy"] for row in rows]))


def test_a_sweep_over_steps(
    arguments: dict, pair: TrainedPair, stubs: Extractor, demo_data: Path, capsys: pytest.CaptureFixture
) -> None:
    result = run(arguments)
    out = arguments["out"]
    assert {path.name for path in out.iterdir()} == {"cells", "sweep.json", "sweep.md", "sweep.png", "sweep_sheet.png"}
    assert (out / "sweep.md").read_text() in capsys.readouterr().out
    points = result["points"]
    assert [p["label"] for p in points] == ["S=0 (large only)", "S=8", "S=20 (small only)"]
    assert [p["folder"] for p in points] == [f"cells/s{S}_seed0" for S in (0, 8, 20)]
    keys = [measure["key"] for measure in result["measures"]]
    assert set(keys) == set(KEYS) - {"lift", "held_out_loss"} and all(list(p["values"]) == keys for p in points)

    # The same seeds at each point: a cell is what generate() makes of seeds 0..7.
    generator = DefectGen.load(str(pair.large), str(pair.small), device="cpu", precision="fp32")
    masks = {}
    for point in points:
        folder = out / point["folder"]
        expected = generator.generate(8, point["at"], 0, num_steps=4, batch_size=5)
        made = [np.asarray(Image.open(file)) for file in sorted((folder / "images").iterdir())]
        assert np.array_equal(np.stack(made), expected.images)
        masks[point["name"]] = expected.masks
        row = json.loads((folder / "manifest.jsonl").read_text().splitlines()[7])
        assert (row["index"], row["seed"], row["settings"]["step_inference"]) == (7, 0, point["at"])

    # The numbers, from the files.
    data = DefectDataset.load(str(demo_data), 3, (32, 32))
    real = stubs(np.stack([image.permute(1, 2, 0).numpy() for image in data.images]))
    for point in points:
        values = {key: value["value"] for key, value in point["values"].items()}
        assert values["kid"] == pytest.approx(kid(features_of(stubs, out / point["folder"]), real), rel=1e-4)
        empty = (masks[point["name"]] == 0).all(axis=(1, 2)).mean()
        assert values["empty"] == empty and values["types"] == len(point["types"])
        assert set(point["types"]) == {
            name for k, name in enumerate(result["class_names"], 1) if (masks[point["name"]] == k).any()
        }
        assert values["copies"] == copies_in(stubs, out / point["folder"], demo_data) and values["diversity"] > 0
    assert result["counts"] == {"samples": 8, "real_images": 12, "real_groups": 12, "train_images": 12}
    assert result["provenance"]["weights_sha256"] == "0" * 64 and result["reference"]["agreement"] == 0.5
    assert result["provenance"]["checkpoints"]["large"] == generator.large.sha256
    assert result["settings"]["num_steps"] == 4 and result["settings"]["view"]["size"] == [32, 32]
    chosen = next(p for p in points if p["name"] == result["recommendation"]["name"])
    assert not chosen["beaten"] and result["recommendation"]["at"] == chosen["at"]


def test_copies_of_training_images_are_counted(
    arguments: dict, run_script: Callable, demo_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = DefectGen.generate
    train = DefectDataset.load(str(demo_data), 3, (32, 32)).images

    def copying(self: DefectGen, indices: list[int], *args: Any, **keywords: Any) -> Any:
        batch = generate(self, indices, *args, **keywords)
        for image, index in zip(batch.images, indices, strict=True):
            if keywords["step_inference"] == 20 and index < 5:
                image[:] = train[index].permute(1, 2, 0).numpy()[:, ::-1]
        return batch

    monkeypatch.setattr(DefectGen, "generate", copying)
    assert run_script("draw_demo_data.py", tmp_path / "held_out", "--size", 32, "--seed", 1).returncode == 0
    result = run(arguments | {"real": tmp_path / "held_out", "no_agreement": True, "steps": "0,20"})
    shares = [point["values"]["copies"] for point in result["points"]]
    assert [share["value"] for share in shares] == [0, 5 / 8]
    assert shares[0]["interval"][1] > 0 and shares[1]["interval"][0] > 0.2
    assert result["counts"]["real_images"] == 24


def test_points_are_resampled_together(arguments: dict, stubs: Extractor, demo_data: Path) -> None:
    result = run(arguments | {"no_agreement": True, "train": None})
    assert not {"copies", "agreement"} & {measure["key"] for measure in result["measures"]}
    assert any("near-copies were not measured" in note for note in result["notes"])
    data = DefectDataset.load(str(demo_data), 3, (32, 32))
    real = stubs(np.stack([image.permute(1, 2, 0).numpy() for image in data.images]))
    of_seeds, of_real = (
        Resampling.draw(groups, 2_000, sweep_measures.numpy_generator("sweep", side))
        for groups, side in ((range(8), "seeds"), (data.names, "real"))
    )
    resampled = {
        point["name"]: kid_resampled(features_of(stubs, arguments["out"] / point["folder"]), real, of_seeds, of_real)
        for point in result["points"]
    }
    for point in result["points"]:
        assert point["values"]["kid"]["interval"] == pytest.approx(interval(resampled[point["name"]]), rel=1e-4)
    best = min(result["points"], key=lambda point: point["values"]["kid"]["value"])["name"]
    for point in result["points"]:
        low, high = interval(resampled[point["name"]] - resampled[best])
        assert ("kid" in point["beaten"]) == (low > 0)
        if low > 0:
            gap = point["beaten"]["kid"]
            assert gap["by"] == best and gap["difference"]["interval"] == pytest.approx((low, high), rel=1e-3)


def test_a_sweep_goes_on_after_a_stop(arguments: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = run(arguments | {"out": tmp_path / "whole"})
    generate, calls = DefectGen.generate, []

    def stopping(self: DefectGen, indices: list[int], *args: Any, **keywords: Any) -> Any:
        calls.append((keywords["step_inference"], list(indices)))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return generate(self, indices, *args, **keywords)

    monkeypatch.setattr(DefectGen, "generate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(arguments)
    assert calls == [(0, [0, 1, 2, 3, 4]), (0, [5, 6, 7]), (8, [0, 1, 2, 3, 4]), (8, [5, 6, 7])]
    assert not (arguments["out"] / "sweep.json").exists()
    result = run(arguments)
    assert calls[4:] == [(8, [5, 6, 7]), (20, [0, 1, 2, 3, 4]), (20, [5, 6, 7])]
    assert result == whole

    # A finer grid later takes the cells that are there; other settings are refused.
    run(arguments | {"steps": "0,4,8,20"})
    assert {step for step, _ in calls[7:]} == {4}
    before = tree(arguments["out"])
    with pytest.raises(InputError, match="--out: .* holds samples made with num_steps 4, not 5; "):
        run(arguments | {"num_steps": "5"})
    assert tree(arguments["out"]) == before


def test_windows_are_compared_with_windows(arguments: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks trained on windows: real images are cut alike, and the cells' manifests say so."""
    load = DefectGen.load

    def trained_on_windows(*args: Any, **keywords: Any) -> DefectGen:
        generator = load(*args, **keywords)
        for key, value in (("fit", "random_crop"), ("crop_from", (48, 48)), ("crop_defect", 0.5)):
            object.__setattr__(generator.config.data, key, value)
        return generator

    monkeypatch.setattr(DefectGen, "load", trained_on_windows)
    result = run(arguments | {"steps": "0,20"})
    assert result["settings"]["view"] == {
        "size": [32, 32],
        "windows": True,
        "crop_from": [48, 48],
        "crop_defect": 0.5,
    }
    assert result["counts"]["real_images"] == 48 and result["counts"]["real_groups"] == 12
    row = json.loads((arguments["out"] / "cells" / "s0_seed0" / "manifest.jsonl").read_text().splitlines()[0])
    assert row["settings"]["crops"] == {"crop_from": [48, 48], "crop_defect": 0.5}


@pytest.mark.parametrize("size", ["large", "small"])
def test_a_sweep_over_checkpoints(
    arguments: dict, pair: TrainedPair, demo_data: Path, tmp_path: Path, size: str
) -> None:
    work = getattr(pair, size)
    wanted = arguments | {"large": None, "small": None, "steps": None, "checkpoints": work}
    result = run(wanted)
    S = 0 if size == "large" else T
    assert [(p["at"], p["name"]) for p in result["points"]] == [(n, f"step{n:06d}_s{S}_seed0") for n in (2, 4)]
    assert result["settings"]["step_inference"] == S and result["axis"] == "training step"
    rows = [line.split(",") for line in (work / "progress.csv").read_text().splitlines()]
    logged = {int(row[0]): float(row[rows[0].index("val")]) for row in rows[1:]}
    assert {p["at"]: p["values"]["held_out_loss"]["value"] for p in result["points"]} == logged
    assert result["notes"][-2:] == [
        f"S={S} at every point, this network alone",
        "held-out loss: progress.csv (its data.val_dir)",
    ]
    last = result["recommendation"]["at"] == 4
    assert result["recommendation"]["sentence"].endswith("longer training may do better still.") == last

    # Without a log it is computed, here on the set that the training used.
    copied = tmp_path / "copied"
    shutil.copytree(work / "checkpoint", copied / "checkpoint")
    steps = sweep_checkpoints.read_checkpoints(str(copied))
    losses, source = sweep_checkpoints.held_out_losses(str(copied), steps, str(demo_data), torch.device("cpu"))
    assert losses == pytest.approx(list(logged.values()), rel=1e-4) and source == f"computed on {demo_data}"


def test_checkpoints_as_part_of_a_pair(arguments: dict, pair: TrainedPair) -> None:
    own = {"large": None, "small": None, "checkpoints": pair.small, "other": pair.large, "steps": "8"}
    result = run(arguments | own)
    assert [p["name"] for p in result["points"]] == ["step000002_s8_seed0", "step000004_s8_seed0"]
    generator = DefectGen.load(
        str(pair.large), str(pair.small / "checkpoint" / "diffusion_000002.pt"), device="cpu", precision="fp32"
    )
    first = np.asarray(Image.open(arguments["out"] / "cells" / "step000002_s8_seed0" / "images" / "000003.png"))
    assert np.array_equal(first, generator.generate(4, 8, 0, num_steps=4, batch_size=5).images[3])
    assert result["provenance"]["checkpoints"] == {"large": generator.large.sha256}


def test_lift_is_asked_once_for_all_points(arguments: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stub(args: argparse.Namespace) -> None:
        asked.append(args)
        names = [value.partition("=")[0] for value in args.samples]
        gains = [{"value": 1.0 * k, "interval": [k - 1.0, k + 1.0]} for k in range(len(names))]
        arms = {
            "real": {"kind": "real", "samples": None, "difference_to_real": None},
            **{
                f"{name}_x1": {"kind": "synthetic", "samples": name, "difference_to_real": {"miou": gain}}
                for name, gain in zip(names, gains, strict=True)
            },
        }
        Path(args.out).mkdir()
        (Path(args.out) / "lift.json").write_text(json.dumps({"arms": arms}))

    monkeypatch.setattr(lift, "main", stub)
    result = run(arguments | {"lift": True})
    assert [p["values"]["lift"]["value"] for p in result["points"]] == [0, 1, 2]
    assert result["points"][2]["values"]["lift"]["interval"] == [1, 3]
    (args,) = asked
    assert args.quick and args.val == args.train == str(arguments["real"]) and args.ratios == "0.666667"
    assert args.samples[1] == f"s8_seed0={arguments['out']}/cells/s8_seed0"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": "0,21"}, "--steps 21: must be from 0 (large network only) to 20 (small network only)"),
        ({"steps": "-1,8"}, "--steps -1: must be from 0"),
        ({"steps": "8"}, "--steps 8: name at least 2 different steps"),
        ({"steps": "8;9"}, "--steps 8;9: must be whole numbers"),
        ({"small": None}, "--small: missing, but --steps 8 needs it; name it, or leave that step out"),
        ({"large": None}, "--large: missing, but --steps 0 needs it"),
        ({"large": "nowhere"}, "--large nowhere: no such checkpoint file"),
        ({"num_steps": "2", "steps": "8,20"}, "--num_steps 2: must be from 3 to 20 with --step_inference 8"),
        ({"num_steps": "x"}, "--num_steps x: must be a whole number"),
        ({"num_samples": 7}, "--num_samples 7: must be at least 8"),
        ({"other": "work"}, "--other work: goes with --checkpoints"),
        ({"real": "nowhere"}, "--real nowhere: does not exist"),
        ({"train": "nowhere"}, "--train nowhere: does not exist"),
        ({"groups": "nowhere.csv"}, "--groups nowhere.csv: cannot be read"),
        ({"train": None, "lift": True}, "--lift: needs the real images to train with; name them by --train"),
        ({"checkpoints": "work"}, "--large: does not go with --checkpoints"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_nothing(arguments: dict, changes: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        run(arguments | changes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not arguments["out"].exists()


def test_bad_checkpoints_get_one_line(arguments: dict, pair: TrainedPair, tmp_path: Path) -> None:
    own = arguments | {"large": None, "small": None, "steps": None}
    (tmp_path / "empty").mkdir()
    one = tmp_path / "one" / "checkpoint"
    one.mkdir(parents=True)
    shutil.copy(pair.large / "checkpoint" / "diffusion_000002.pt", one)
    for changes, message in (
        ({"checkpoints": tmp_path / "empty"}, "empty: 0 checkpoints in "),
        ({"checkpoints": one.parent}, "one: 1 checkpoint in .* but a comparison needs at least 2"),
        ({"checkpoints": pair.large, "steps": "8"}, "--steps 8: one network alone has no switch step"),
        ({"checkpoints": pair.large, "other": pair.small, "steps": "20"}, "--steps 20: with --other name one step"),
        (
            {"checkpoints": pair.large, "other": pair.large, "steps": "8"},
            "--other .*large: this is a global network, which",
        ),
    ):
        with pytest.raises(InputError, match=message):
            run(own | changes)
    (one / "diffusion_000004.pt").write_bytes((one / "diffusion_000002.pt").read_bytes()[:1000])
    with pytest.raises(InputError, match="--checkpoints .*diffusion_000004.pt: truncated or not a checkpoint"):
        run(own | {"checkpoints": one.parent})
    assert not arguments["out"].exists()


def test_other_types_are_refused(arguments: dict, demo_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(demo_data, other)
    known = json.loads((other / "dataset.json").read_text())
    names = list(known["label_map"])
    known["label_map"] = {name: k for k, name in enumerate(names[::-1], start=1)}
    (other / "dataset.json").write_text(json.dumps(known))
    for flag in ("real", "train"):
        with pytest.raises(InputError, match=f"--{flag} {other}: its types are .*, but the networks' are"):
            run(arguments | {flag: other})
    groups = tmp_path / "groups.json"
    groups.write_text(json.dumps({name: "one" for name in DefectDataset.load(str(demo_data), 3, (32, 32)).names}))
    with pytest.raises(InputError, match=f"--real {demo_data}: an interval needs images of at least 2 groups"):
        run(arguments | {"groups": groups})
    assert not arguments["out"].exists()


def test_the_command_line_exits_with_2(run_script: Callable, arguments: dict) -> None:
    flags = [f"--{key}={value}" for key, value in (arguments | {"steps": "0,1001"}).items()]
    result = run_script("evaluate.py", "sweep", *flags)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("error: --steps 1001: must be from 0") and result.stderr.count("\n") == 1
    assert not arguments["out"].exists()


def test_steps_are_sorted_and_named_once() -> None:
    assert read_steps("400,0,50,400") == [0, 50, 400]
