"""Checking a data set: every planted fault is found, clean sets give nothing, and text, JSON and pictures agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guided_diffusion.cli.check import main
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.errors import run_cli
from guided_diffusion.pictures import palette
from guided_diffusion.prepare import data_check_pictures
from guided_diffusion.prepare.check import check, training_warnings
from guided_diffusion.prepare.data_check_duplicates import find_duplicates
from guided_diffusion.prepare.data_check_facts import Record, TypeFacts, View, candidate_sizes, look_at, look_at_types
from guided_diffusion.prepare.data_check_pictures import choose
from guided_diffusion.prepare.layouts import read_layout

LABELS = {"crack": 1, "hole": 2}


def photograph(seed: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """uint8 [H, W, 3] of soft noise that is another one for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def box(index: int, *bounds: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Index mask with a box: top, bottom, left, right."""
    mask = np.zeros(size, np.uint8)
    top, bottom, left, right = bounds
    mask[top:bottom, left:right] = index
    return mask


def write_pair(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    for part, array in (("test", image), ("converted_ground_truth", mask)):
        path = root / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four clean images of each of two types, 48 x 64."""
    root = tmp_path / "data"
    for k in range(4):
        write_pair(root, f"crack/{k}", photograph(k), box(1, 10, 12, 5 + k, 45))
        write_pair(root, f"hole/{k}", photograph(10 + k), box(2, 20, 30 + k, 20, 30))
    (root / "dataset.json").write_text(json.dumps({"label_map": LABELS}))
    return root


@pytest.fixture
def run(run_drawing: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """As run_drawing, but without the pictures."""
    monkeypatch.setattr(data_check_pictures, "draw_pictures", lambda *args: None)
    return run_drawing


@pytest.fixture
def run_drawing(tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable:
    """run_drawing(root, *flags) -> status, stdout, JSON."""

    def call(root: Path, *flags: object) -> tuple[int, str, dict[str, Any]]:
        path = tmp_path / "found.json"
        status = main([*map(str, (root, "--json", path, *(flags or ("--resolution", 48, 64))))])
        return status, capsys.readouterr().out, json.loads(path.read_text())

    return call


def rules(found: Mapping[str, Any], severity: str | None = None) -> list[str]:
    return [row["rule"] for row in found["findings"] if severity in (None, row["severity"])]


def finding(found: Mapping[str, Any], rule: str) -> dict[str, Any]:
    rows = [row for row in found["findings"] if row["rule"] == rule]
    assert len(rows) == 1, rules(found)
    return rows[0]


def test_a_clean_set_gives_figures_and_no_finding(data: Path, run: Callable) -> None:
    status, text, found = run(data)
    assert status == found["status"] == 0 and found["findings"] == []
    assert "warning" not in text and "error" not in text and "note" not in text
    crack = found["types"]["crack"]
    assert (crack["images"], crack["regions"]) == (4, 4)
    areas = [2 * (40 - k) for k in range(4)]
    assert crack["pixels"]["min"] == crack["trained"]["pixels"]["min"] == min(areas)
    assert crack["pixels"]["median"] == crack["region_pixels"]["median"] == np.median(areas)
    assert crack["share"]["max"] == pytest.approx(80 / (48 * 64))
    assert found["sizes"]["median"] == [48, 64] and found["sizes"]["distortion"]["max"] == 1
    assert found["suggestions"]["in_channels"] == {"with_background": 6, "without": 5}
    assert found["modes"] == {"RGB": 8}


def test_the_drawn_demo_data_are_clean(demo_data: Path, run: Callable, tmp_path: Path) -> None:
    status, _, found = run(demo_data, "--resolution", 32, "--out", tmp_path / "out")
    assert (status, found["findings"]) == (0, [])


def test_regions_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    mask = (rng.random((30, 40)) < 0.3) * rng.integers(1, 3, (30, 40)).astype(np.uint8)
    size = (17, 23)
    found = look_at_types(mask, View(size, candidates=((8, 8), (30, 40))))
    # Pillow's nearest: the pixel under the middle of each new one
    rows = ((np.arange(size[0]) + 0.5) * 30 / size[0]).astype(int)
    columns = ((np.arange(size[1]) + 0.5) * 40 / size[1]).astype(int)
    for index in (1, 2):
        regions = flood(mask == index)
        kept = [sum(r in rows and c in columns for r, c in region) for region in regions]
        assert expand(found[index].regions) == sorted(map(len, regions))
        assert expand(found[index].kept) == sorted(kept) and 0 in kept
        assert found[index].pixels == found[index].candidates[1] == (mask == index).sum()
        assert found[index].trained == sum(kept) == (mask[np.ix_(rows, columns)] == index).sum()


def flood(where: np.ndarray) -> list[list[tuple[int, int]]]:
    """8-connected regions, pixel by pixel."""
    left = set(map(tuple, np.argwhere(where).tolist()))
    regions = []
    while left:
        region, front = [], [left.pop()]
        while front:
            r, c = front.pop()
            region.append((r, c))
            near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            front += near
        regions.append(region)
    return regions


def expand(histogram: Mapping[int, int]) -> list[int]:
    return sorted(value for value, count in histogram.items() for _ in range(count))


def test_what_vanishes_is_counted_as_training_would_see_it(data: Path, run: Callable) -> None:
    write_pair(data, "hole/9", photograph(99), box(2, 0, 1, 0, 1))
    status, text, found = run(data, "--resolution", 24, 32)
    trained = DefectDataset.load(str(data), 2, (24, 32))
    for name, index in LABELS.items():
        pixels = [int((mask == index).sum()) for mask in trained.masks]
        shown = sorted(n for n, sample in zip(pixels, trained.names, strict=True) if sample.startswith(name))
        assert found["types"][name]["trained"]["pixels"]["max"] == shown[-1]
        assert found["types"][name]["trained"]["vanished_images"] == sum(n == 0 for n in shown)
    gone = finding(found, "vanishes")
    assert status == 0 and gone["severity"] == "warning"
    assert gone["files"] == [str(data / "converted_ground_truth/hole/9.png")]
    assert "hole vanishes at 24 x 32 from 1 of 5 images" in text


def test_a_type_that_vanishes_everywhere_is_an_error(data: Path, run: Callable) -> None:
    for k in range(4):
        write_pair(data, f"crack/{k}", photograph(k), box(1, 9, 10, 5, 45))  # of 16 rows none samples row 9
    status, text, found = run(data, "--resolution", 16, 64)
    assert status == 1 and finding(found, "vanishes")["severity"] == "error"
    assert len(finding(found, "vanishes")["files"]) == 4
    assert "error: " in text and "crack vanishes at 16 x 64 from all 4 images" in text
    assert found["types"]["crack"]["trained"]["vanished_regions"] == 4


def test_the_resolution_suggested_keeps_every_type(data: Path, run: Callable, tmp_path: Path) -> None:
    config = tmp_path / "small.yml"
    config.write_text(
        "model: {target: models.unet.unet_receptive.UNetModel, params: {channel_mult: [1, 2], model_channels: 32}}\n"
        "data: {params: {resolution: [16, 16], num_image_train: 3}}\n"
    )
    for k in range(4):
        write_pair(data, f"crack/{k}", photograph(k, (200, 400)), box(1, 10, 13, 5, 45, size=(200, 400)))
    _, text, found = run(data, "--config", config)
    assert found["images"] == 6 and found["first"] == 3 and "the first 3 of each type" in text
    size = found["suggestions"]["resolution"]["size"]
    assert found["suggestions"]["resolution"]["vanished"] == 0
    assert f"resolution: [{size[0]}, {size[1]}]" in text and not any(side % 2 for side in size)
    assert "vanishes" in rules(found) and "vanishes" not in rules(run(data, "--resolution", *size)[2])


def test_candidates_have_the_median_proportions(data: Path) -> None:
    sizes = candidate_sizes(read_layout(str(data)).samples, 8)
    assert sizes == ((48, 64),)  # nothing smaller than the shortest side that is suggested
    assert candidate_sizes([], 8) == ()


noise = box(1, 30, 40, 5, 45)
noise[2:11:2, 2] = 1  # five specks

FAULTS: dict[str, tuple[np.ndarray, str]] = {
    "empty": (np.zeros((48, 64), np.uint8), "its mask is empty"),
    "full": (box(1, 0, 48, 1, 64), "calls 98% of the image defective"),
    "inverted": (np.where(box(1, 20, 30, 20, 30) > 0, 0, 1).astype(np.uint8), "background and defect exchanged?"),
    "speck": (box(1, 5, 6, 5, 7), "crack is a speck of 2 px here, against 76 in"),
    "noise": (noise, "crack has 5 specks of 2 pixels or fewer"),
}


@pytest.mark.parametrize("rule", FAULTS)
def test_odd_masks(rule: str, data: Path, run: Callable) -> None:
    mask, words = FAULTS[rule]
    if rule == "inverted":
        mask[0] = 0  # also where an edge is free of it
    write_pair(data, "crack/odd", photograph(77), mask)
    status, text, found = run(data)
    assert status == 0 and rules(found) == [rule]
    assert finding(found, rule)["files"] == [str(data / "converted_ground_truth/crack/odd.png")]
    lines = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and "crack/odd.png: " in lines[0] and words in lines[0]


def test_an_inverted_mask_may_be_told_by_the_others_alone(data: Path, run: Callable) -> None:
    write_pair(data, "crack/odd", photograph(77), box(1, 4, 44, 4, 60))  # touches no border
    assert rules(run(data)[2]) == ["inverted"]


def test_stray_labels(tmp_path: Path, run: Callable) -> None:
    root = tmp_path / "data"
    for k in range(6):
        mask = box(1, 10, 20, 10, 40)
        if k == 3:
            mask[10, 10:12] = 2
        write_pair(root, f"crack/{k}", photograph(k), mask)
    _, _, found = run(root, "--num_defect", 2, "--resolution", 48, 64)
    stray = finding(found, "stray")
    assert stray["files"] == [str(root / "converted_ground_truth/crack/3.png")]
    assert stray["text"].startswith("defect_2 occurs in 1 of 6 masks, with at most 2 pixels")
    assert set(rules(found)) == {"stray", "few_pixels"}


def test_absent_types_and_uneven_counts(data: Path, run: Callable) -> None:
    (data / "dataset.json").write_text(json.dumps({"label_map": {**LABELS, "dent": 3}}))
    for k in (1, 2, 3):
        (data / f"test/hole/{k}.png").unlink()
        (data / f"converted_ground_truth/hole/{k}.png").unlink()
    status, text, found = run(data)
    assert status == 0 and "no mask shows dent, which" in finding(found, "absent")["text"]
    assert found["types"]["dent"] == {"index": 3, "images": 0, "regions": 0}
    assert found["suggestions"]["num_image_train"] == {"images": 1, "most": 4} and "num_image_train: 1" in text
    assert not (data.parent / "data_check/3_dent.png").exists()


def test_overlaps_are_added_up_by_pair_of_types(tmp_path: Path, run: Callable) -> None:
    root = tmp_path / "data"
    (root / "images").mkdir(parents=True)
    for k in range(3):
        Image.fromarray(photograph(k)).save(root / f"images/{k}.png")
        for name, mask in (("crack", box(255, 10, 20, 10, 30)), ("hole", box(255, 19 - k, 30, 20, 40))):
            (root / "masks" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / f"masks/{name}/{k}.png")
    _, _, found = run(root)
    overlap = finding(found, "overlap")
    assert overlap["text"].startswith("30 pixels are called crack and hole at once") and len(overlap["files"]) == 3


def test_all_that_training_would_refuse_is_listed(data: Path, run: Callable) -> None:
    truth = data / "converted_ground_truth"
    (truth / "crack/0.png").unlink()
    (data / "test/crack/1.png").write_bytes(b"no image")
    Image.fromarray(box(255, 3, 9, 3, 9)).save(truth / "hole/0.png")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(truth / "hole/1.png")
    status, text, found = run(data)
    assert status == 1 and sorted(rules(found, "error")) == ["layout", "unreadable", "unreadable", "unreadable"]
    assert found["images"] == 4 and found["unreadable"] == 3
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 4 and all(len(line.split(": ")) > 2 and (";" in line or "?" in line) for line in errors)
    assert f"{data}/test/crack/1.png: is not an image" in text and "0.png: holds value 255" in text


def test_all_masks_empty_and_broken_good_images(data: Path, run: Callable) -> None:
    (data / "test/good").mkdir()
    (data / "test/good/0.png").write_bytes(b"")
    for path in data.glob("converted_ground_truth/*/*.png"):
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    status, _, found = run(data)
    assert status == 1 and rules(found, "error") == ["all_empty"] and rules(found, "warning") == ["unreadable"]
    assert len(finding(found, "all_empty")["files"]) == 8


def test_copies_and_leaks(data: Path, run: Callable, tmp_path: Path) -> None:
    shutil.copy(data / "test/crack/0.png", data / "test/crack/copy.png")
    shutil.copy(data / "converted_ground_truth/crack/0.png", data / "converted_ground_truth/crack/copy.png")
    val = tmp_path / "val"
    darker = (0.8 * photograph(11)).astype(np.uint8)  # another exposure of hole/1
    write_pair(val, "hole/a", darker, box(2, 20, 30, 20, 30))
    write_pair(val, "hole/b", photograph(50), box(2, 20, 30, 20, 30))
    status, _, found = run(data, "--val_dir", val, "--resolution", 48, 64)
    assert status == 0 and rules(found, "warning") == ["equal_files", "leak"]
    assert finding(found, "equal_files")["files"] == [str(data / "test/crack/copy.png")]
    leak = finding(found, "leak")
    assert leak["files"] == [str(val / "test/hole/a.png")]
    assert f"as {data}/test/hole/1.png in part train" in leak["text"]
    assert "alike" not in rules(found)
    note = finding(run(data)[2], "alike")
    assert "2 images have such a double" in note["text"]
    assert sorted(note["files"]) == [str(data / f"test/crack/{name}.png") for name in ("0", "copy")]
    assert found["images"] == 9  # held-out images are compared, not counted


def test_where_most_images_look_alike_there_is_one_note_and_no_leak(data: Path) -> None:
    samples = read_layout(str(data)).samples
    facts = look_at(samples[0], 2, View((48, 64))).facts
    records = [
        Record(f"{k}", f"{k}.png", f"{k}.png", replace(facts, sha256=str(k)), part=part)
        for k, part in enumerate(["train", "val"] * 8)
    ]
    assert [found.rule for found in find_duplicates(records, "data")] == ["all_alike"]


def test_training_prints_the_warnings_that_need_no_files(data: Path) -> None:
    write_pair(data, "crack/8", photograph(80), np.zeros((48, 64), np.uint8))
    write_pair(data, "hole/8", photograph(81), np.full((48, 64), 2, np.uint8))
    names = ["crack", "hole", "dent"]
    dataset = DefectDataset.load(str(data), 3, (48, 64))
    lines = training_warnings(dataset, names)
    assert [line.split(": ")[1] for line in lines] == ["training set", "crack/8", "hole/8"]
    assert all(line.startswith("warning: ") for line in lines)
    view = View((48, 64))
    records = [look_at(sample, 3, view) for sample in read_layout(str(data)).samples]
    same = check(records, dict(enumerate(names, 1)), view, "training set")
    lost = ", or train at a higher resolution where 48 x 64 has lost it"
    assert [found.text for found in same] == [line.split(": ", 2)[2].replace(lost, "") for line in lines]
    assert [lost in line for line in lines] == [True, True, False]
    reduced = training_warnings(DefectDataset.load(str(data), 3, (16, 4)), names)
    assert any("crack keeps 3 px in its median image at 16 x 4" in line for line in reduced)
    clean = DefectDataset([torch.zeros(3, 8, 8)], [torch.ones(8, 8, dtype=torch.uint8).triu()], ["a"], (8, 8))
    assert training_warnings(clean, ["crack"]) == []


def test_text_and_json_say_the_same(data: Path, run: Callable) -> None:
    write_pair(data, "hole/9", photograph(99), box(2, 0, 1, 0, 1) + box(1, 40, 44, 40, 44))
    _, text, found = run(data, "--resolution", 24, 32)
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line[:5] in ("crack", "hole ")}
    for name, cells in lines.items():
        row = found["types"][name]
        trained = row["trained"]
        shown = [row["images"], row["regions"]]
        shown += [f"{100 * row['share'][key]:.3g}" for key in ("p5", "median", "p95")]
        shown += [f"{row['pixels'][key]:,.0f}" for key in ("p5", "median", "p95")]
        shown += [f"{trained['pixels']['median']:,.0f}"]
        shown += [f"{trained['region_pixels'][key]:,.0f}" for key in ("min", "median")]
        shown += [trained["vanished_images"], trained["vanished_regions"]]
        assert cells == list(map(str, shown))
    header = next(line for line in text.splitlines() if line.startswith("type "))
    assert all(len(line) <= len(header) for line in text.splitlines() if line[:5] in ("crack", "hole "))
    for row in found["findings"]:
        assert f"{row['severity']}: {row['files'][0]}: {row['text']}" in text
    assert f"{found['images']:,} with a mask" in text


def test_pictures_show_each_type_in_its_colour(data: Path, run_drawing: Callable) -> None:
    for k in range(10):  # fourteen cracks: not all are shown
        write_pair(data, f"crack/n{k}", photograph(30 + k), box(1, 10, 14 + k, 5, 45))
    run_drawing(data)
    out = data.parent / "data_check"
    assert sorted(path.name for path in out.iterdir()) == ["1_crack.png", "2_hole.png", "histograms.png"]
    assert Image.open(out / "histograms.png").size == (1400, 900)
    for name, width in (("1_crack", 1485), ("2_hole", 1190)):  # three columns of twelve, two of four
        sheet = np.asarray(Image.open(out / f"{name}.png"))
        for colour in palette(2)[1:]:
            assert (sheet[:160] == colour).all(axis=2).sum() > 200  # both swatches of the legend
        assert sheet.shape[1] == width
    assert choose(14) == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11, 12, 13] and choose(0) == []


def test_names_may_be_of_any_script(tmp_path: Path, run_drawing: Callable) -> None:
    root = tmp_path / "Prüfdaten"
    for k in range(3):
        write_pair(root, f"Haarriß/Ölfleck {k}", photograph(k), box(1, 10, 20, 10, 30))
    (root / "dataset.json").write_text(json.dumps({"label_map": {"Haarriß/quer": 1}}), encoding="utf-8")
    status, text, found = run_drawing(root)
    assert status == 0 and found["types"]["Haarriß/quer"]["images"] == 3 and "Haarriß/quer" in text
    assert (tmp_path / "Prüfdaten_check/1_Haarriß_quer.png").exists()


def test_several_processes_give_the_same(demo_data: Path, run: Callable, tmp_path: Path) -> None:
    root = tmp_path / "many"
    for k in range(66):
        write_pair(root, f"a/{k}", photograph(k, (16, 16)), box(1 + k % 2, 2, 9, 2, 9, size=(16, 16)))
    one, two = (run(root, "--workers", n, "--resolution", 16)[2] for n in (1, 2))
    assert one == two and one["images"] == 66


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["."], "holds no data set"),
        (["data", "--out", "data/pictures"], "--out data/pictures: lies in data, which is only read"),
        (["data", "--json", "data/found.json"], "--json data/found.json: lies in data"),
        (["data", "--resolution", "0"], "--resolution 0: must be one number or two"),
        (["data", "--resolution", "1", "2", "3"], "--resolution 1 2 3: must be one number or two"),
        (["data", "--workers", "-1"], "--workers -1: must be at least 0"),
        (["data", "--num_defect", "5"], "--num_defect 5: the label map names 2 types"),
        (["data", "--format", "coca"], "--format: unknown format 'coca' (did you mean 'coco'?)"),
        (["data", "--config", "none.yml"], "none.yml: cannot read the configuration file"),
        (["data", "--val_dir", "gone"], "gone: does not exist"),
    ],
)
def test_wrong_usage_is_one_line(
    flags: list[str], words: str, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(data.parent)
    before = sorted(data.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run_cli(lambda _: main(flags))
    shown = capsys.readouterr()
    assert stop.value.code == 2 and words in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert sorted(data.rglob("*")) == before


def test_a_set_without_any_readable_sample(data: Path, run: Callable) -> None:
    for path in data.glob("test/*/*.png"):
        path.write_bytes(b"")
    status, text, found = run(data)
    assert status == 1 and rules(found).count("unreadable") == 8 and "no_samples" in rules(found)
    assert found["types"]["crack"]["images"] == 0 and not list((data.parent / "data_check").iterdir())
    assert f"error: {data}: holds no image with a mask" in text


def test_windows_keep_what_stretching_would_lose(data: Path, run: Callable, tmp_path: Path) -> None:
    config = tmp_path / "windows.yml"
    config.write_text(
        "model: {target: models.unet.unet_receptive.UNetModel, params: {channel_mult: [1], model_channels: 32}}\n"
        "data: {fit: random_crop, params: {resolution: 16}}\n"
    )
    _, text, found = run(data, "--config", config)
    assert found["findings"] == [] and "resolution" not in found["suggestions"]
    assert found["types"]["crack"]["trained"]["pixels"] == found["types"]["crack"]["pixels"]
    assert "windows of 16 x 16 from images of their size" in text


def test_type_facts_of_noise_stay_small() -> None:
    mask = (np.random.default_rng(0).random((256, 256)) < 0.2).astype(np.uint8)
    facts: TypeFacts = look_at_types(mask, View((128, 128)))[1]
    assert sum(facts.regions.values()) > 2000 and len(facts.regions) < 100


def test_the_real_tiles(shared_dir: Path, run: Callable, tmp_path: Path) -> None:
    tiles = shared_dir / "data" / "magnetic_tile"
    if not tiles.is_dir():
        pytest.skip("../shared/data/magnetic_tile is not there")
    status, _, found = run(tiles, "--resolution", 256, "--out", tmp_path / "out")
    assert status == 0 and (found["images"], found["good"]) == (240, 97)
    images = {name: row["images"] for name, row in found["types"].items()}
    assert images == {"blowhole": 69, "break": 50, "crack": 38, "fray": 22, "uneven": 58}
    assert rules(found) == ["empty", "speck", "alike"]  # true ones: three empty masks, two of 1 and 3 px
    assert len(finding(found, "empty")["files"]) == 3
    specks = [Path(file).stem for file in finding(found, "speck")["files"]]
    assert specks == ["exp3_num_24829", "exp4_num_24843"]
