"""Checking a data set: every planted fault is found, clean sets give nothing, and text, JSON and pictures agree; the
look at the pixels: facts, what resizing keeps, and the perceptual hash."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_formats import photograph, save
from PIL import Image, ImageEnhance
from scipy import ndimage

from guided_diffusion.cli.check import main
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.image_files import View
from guided_diffusion.errors import run_cli
from guided_diffusion.pictures import palette
from guided_diffusion.prepare.check import (
    Record,
    alike,
    check,
    keeps_regions,
    look_at_types,
    perceptual_hash,
    training_warnings,
)

SIZE = (48, 64)
LABELS = {"crack": 1, "hole": 2}
SMALL_CONFIG = (
    "model: {target: models.unet.unet_receptive.UNetModel, params: {channel_mult: [1, 2], model_channels: 32}}\n"
)


def box(index, top, bottom, left, right, size=SIZE):
    """Index mask with a box."""
    mask = np.zeros(size, np.uint8)
    mask[top:bottom, left:right] = index
    return mask


def write_pair(root, name, image, mask):
    image = photograph(image, mask.shape) if isinstance(image, int) else image
    save(root / f"test/{name}.png", image)
    save(root / f"converted_ground_truth/{name}.png", mask)


@pytest.fixture
def data(tmp_path):
    """Four clean images of each of two types, 48 x 64."""
    root = tmp_path / "data"
    for k in range(4):
        write_pair(root, f"crack/{k}", k, box(1, 10, 12, 5 + k, 45))
        write_pair(root, f"hole/{k}", 10 + k, box(2, 20, 30 + k, 20, 30))
    (root / "dataset.json").write_text(json.dumps({"label_map": LABELS}))
    return root


@pytest.fixture
def run(tmp_path, capsys):
    """run(root, *flags) -> status, stdout, JSON."""

    def call(root, *flags):
        path = tmp_path / "found.json"
        status = main([*map(str, (root, "--json", path, *(flags or ("--resolution", *SIZE))))])
        found = json.loads(path.read_text())
        assert status == found["status"]
        return status, capsys.readouterr().out, found

    return call


def rules(found, severity=None):
    return [row["rule"] for row in found["findings"] if severity in (None, row["severity"])]


def finding(found, rule):
    (row,) = (row for row in found["findings"] if row["rule"] == rule)
    return row


def test_a_clean_set_gives_figures_and_no_finding(data, run):
    status, text, found = run(data)
    assert status == 0 and found["findings"] == []
    crack = found["types"]["crack"]
    areas = [2 * (40 - k) for k in range(4)]
    assert crack["pixels_0"] == crack["trained_0"] == min(areas) and crack["pixels_50"] == np.median(areas)
    assert crack["share_100"] == pytest.approx(100 * 80 / (48 * 64))
    row = next(line for line in text.splitlines() if line.startswith("crack")).split()
    assert row[1:] == ["4", "4", "2.42", "2.51", "2.59", "77", "77", "0", "0"] and "median 48 x 64" in text


def test_what_vanishes_is_counted_as_training_would_see_it(data, run):
    write_pair(data, "hole/9", 99, box(2, 0, 1, 0, 1))
    status, text, found = run(data, "--resolution", 24, 32)
    trained = DefectDataset.load(str(data), 2, View((24, 32)))
    for name, index in LABELS.items():
        pixels = [int((mask == index).sum()) for mask in trained.masks]
        shown = [n for n, sample in zip(pixels, trained.names, strict=True) if sample.startswith(name)]
        assert found["types"][name]["trained_100"] == max(shown)
        assert found["types"][name]["lost_images"] == shown.count(0)
    path = data / "converted_ground_truth/hole/9.png"
    assert status == 0 and finding(found, "vanishes")["files"] == [str(path)]
    assert f"warning: {path}: hole vanishes at 24 x 32 from 1 of 5 images" in text
    for k in range(4):
        write_pair(data, f"crack/{k}", k, box(1, 9, 10, 5, 6))  # a third of a pixel, and of 16 rows none samples row 9
    status, text, found = run(data, "--resolution", 16, 64)
    assert status == 1 and "error: " in text and found["types"]["crack"]["lost_regions"] == 4
    assert [row["severity"] for row in found["findings"] if row["rule"] == "vanishes"] == ["error", "warning"]


def test_the_resolution_suggested_keeps_every_type_and_windows_need_none(data, run, tmp_path):
    config = tmp_path / "small.yml"
    config.write_text(SMALL_CONFIG + "data: {params: {resolution: [16, 16], num_image_train: 3}}\n")
    for k in range(4):
        write_pair(data, f"crack/{k}", k, box(1, 10, 13, 5, 45, size=(200, 400)))
        write_pair(data, f"hole/{k}", 10 + k, box(2, 20, 30, 20, 30, size=(200, 400)))
    _, _, found = run(data, "--config", config)
    assert found["images"] == 6 and found["resolution"] == [64, 128] and "vanishes" in rules(found)
    assert "vanishes" not in rules(run(data, "--resolution", 64, 128)[2])
    config.write_text(SMALL_CONFIG + "data: {fit: random_crop, params: {resolution: 16}}\n")
    _, text, found = run(data, "--config", config)
    assert found["findings"] == [] and found["resolution"] is None
    assert found["types"]["crack"]["trained_5"] == found["types"]["crack"]["pixels_5"] == 120
    assert "16 x 16, windows (fit: random_crop) of images stretched to its own size" in text


def test_no_region_vanishes_at_the_resolution_suggested(tmp_path, run):
    """Images of any size and proportion, thin scratches in them: the size fits each, not the median alone."""
    sizes = []
    for seed in range(6):
        rng, root = np.random.default_rng(seed), tmp_path / f"{seed}"
        for k in range(5):
            size = tuple(rng.integers(70, 160 if seed < 4 else 400, 2).tolist())
            top, left, thick = *(int(rng.integers(0, side - 12)) for side in size), int(rng.integers(2, 6))
            write_pair(root, f"crack/{k}", k, box(1, top, top + thick, left, left + 12, size))
        figures = run(root, "--resolution", 64)[2]
        if size := figures["resolution"]:
            sizes.append(size)
            assert run(root, "--resolution", *size)[2]["types"]["defect_1"]["lost_regions"] == 0
    assert len(sizes) > 3


@pytest.mark.parametrize(
    ("rule", "mask", "words"),
    [
        ("empty", box(0, 0, 0, 0, 0), "its mask is empty"),
        ("inverted", box(1, 0, 48, 1, 64), "calls most of the image defective"),
        ("speck", box(1, 5, 6, 5, 7), "crack is a speck of at most 2 px here, against 76 in"),
    ],
)
def test_odd_masks(rule, mask, words, data, run):
    write_pair(data, "crack/odd", 77, mask)
    status, text, found = run(data)
    assert status == 0 and rules(found) == [rule]
    assert finding(found, rule)["files"] == [str(data / "converted_ground_truth/crack/odd.png")]
    lines = [line for line in text.splitlines() if line.startswith("warning: ")]
    assert len(lines) == 1 and "crack/odd.png: " in lines[0] and words in lines[0]


def test_all_that_training_would_refuse_is_listed(data, run):
    truth = data / "converted_ground_truth"
    (truth / "crack/0.png").unlink()
    (data / "test/crack/1.png").write_bytes(b"no image")
    save(truth / "hole/0.png", box(255, 3, 9, 3, 9))
    save(truth / "hole/1.png", np.zeros((9, 9), np.uint8))
    status, text, found = run(data)
    assert status == 1 and sorted(rules(found, "error")) == ["unlabelled", "unreadable", "unreadable", "unreadable"]
    assert found["images"] == 4 and found["unreadable"] == 3
    assert f"error: {data}/test/crack/1.png: is not an image" in text and "0.png: holds value 255" in text


def test_all_masks_empty_broken_good_images_and_nothing_readable(data, run):
    (data / "test/good").mkdir()
    (data / "test/good/0.png").write_bytes(b"")
    for path in data.glob("converted_ground_truth/*/*.png"):
        save(path, np.zeros(SIZE, np.uint8))
    found = run(data)[2]
    assert rules(found, "error") == ["empty"] and rules(found, "warning") == ["unreadable"]
    assert len(finding(found, "empty")["files"]) == 8 and found["status"] == 1
    for path in data.glob("test/*/*.png"):
        path.write_bytes(b"")
    found = run(data)[2]
    assert rules(found, "error").count("unreadable") == 8 and "no_samples" in rules(found)
    assert found["types"]["crack"]["images"] == 0 and not list((data.parent / "data_check").iterdir())


def test_copies_and_leaks(data, run, tmp_path):
    for path in data.glob("*/crack/0.png"):
        shutil.copy(path, path.with_stem("copy"))
    darker = (0.8 * photograph(11, SIZE)).astype(np.uint8)  # another exposure of hole/1
    write_pair(tmp_path / "val", "hole/a", darker, box(2, 20, 30, 20, 30))
    write_pair(tmp_path / "val", "hole/b", 50, box(2, 20, 30, 20, 30))
    _, text, found = run(data, "--val_dir", tmp_path / "val", "--resolution", *SIZE)
    assert "\nheld out        2 with a mask (crack 0, hole 2), 0 defect-free\n" in text
    assert rules(found) == ["equal_files", "leak"] and found["images"] == 9  # held-out images are not counted
    assert finding(found, "equal_files")["files"] == [str(data / "test/crack/copy.png")]
    assert finding(found, "leak")["files"] == [str(tmp_path / "val/test/hole/a.png")]
    assert f"as {data}/test/hole/1.png in part train" in finding(found, "leak")["text"]
    assert "a leak" not in finding(found, "equal_files")["text"]
    shutil.copy(data / "test/hole/3.png", tmp_path / "val/test/hole/b.png")
    text = finding(run(data, "--val_dir", tmp_path / "val", "--resolution", *SIZE)[2], "equal_files")["text"]
    assert f"same file as {data}/test/hole/3.png in part train, a leak;" in text


def test_levels_of_other_cameras_are_an_error(data, run):
    for k, top in enumerate((4000, 3000, 65535)):
        save(data / f"test/crack/{k}.png", np.linspace(0, top, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE))
    status, _, found = run(data)
    assert status == 1 and rules(found) == ["bits"]
    told = f"{data}/test/crack/0.png: has levels up to 4000, as of 12 bits, but {data}/test/crack/2.png to 65535"
    assert finding(found, "bits")["text"].startswith(told)


def test_where_most_images_look_alike_there_is_one_note_and_no_leak():
    seen = [Record("", "", "", sha256=f"{k}", perceptual_hash="12" * 16, size=(1, 1)) for k in range(8)]
    held = [Record("", "", "", part="val", sha256=f"v{k}", perceptual_hash="12" * 16) for k in range(8)]
    assert [found.rule for found in check(seen, held, {}, "", "data")] == ["empty", "all_alike"]


def test_training_prints_the_warnings_that_need_no_files(data, run):
    write_pair(data, "crack/8", 80, np.zeros(SIZE, np.uint8))
    write_pair(data, "hole/8", 81, np.full(SIZE, 2, np.uint8))
    (data / "dataset.json").write_text(json.dumps({"label_map": {**LABELS, "dent": 3}}))
    lines = training_warnings(DefectDataset.load(str(data), 3, View(SIZE)), ["crack", "hole", "dent"])
    assert [line.split(": ")[1] for line in lines] == ["training set", "crack/8", "hole/8"]
    found = run(data)[2]
    assert [f"{row['text']} (masks at 48 x 64)" for row in found["findings"]] == [x.split(": ", 2)[2] for x in lines]
    assert found["types"]["dent"] == {"images": 0, "regions": 0, "lost_images": 0, "lost_regions": 0}
    reduced = training_warnings(DefectDataset.load(str(data), 3, View((16, 4))), ["crack", "hole", "dent"])
    assert any("crack keeps 3 px in its median image at 16 x 4" in line for line in reduced)


def test_pictures_show_each_type_in_its_colour(data, run):
    for k in range(10):  # fourteen cracks: not all are shown
        write_pair(data, f"crack/n{k}", 30 + k, box(1, 10, 14 + k, 5, 45))
    (data / "dataset.json").write_text(json.dumps({"label_map": {"Haarriß/quer": 1, "hole": 2}}), encoding="utf-8")
    run(data)
    out = data.parent / "data_check"
    assert sorted(path.name for path in out.iterdir()) == ["1_Haarriß_quer.png", "2_hole.png"]
    for name, width in (("1_Haarriß_quer", 1513), ("2_hole", 1190)):  # three columns of twelve, two of four
        sheet = np.asarray(Image.open(out / f"{name}.png"))
        for colour in palette(2)[1:]:
            assert (sheet[:160] == colour).all(axis=2).sum() > 200  # both swatches of the legend
        assert sheet.shape[1] == width


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere"], "nowhere: does not exist"),
        (["data", "--out", "data/pictures"], "--out data/pictures: lies in data, which is only read"),
        (["data", "--json", "."], "--json .: is a folder"),
        (["data", "--resolution", "1", "2", "3"], "data.resolution: [1, 2, 3] must be one number or"),
        (["data", "--workers", "-1"], "--workers -1: must be from 0 to"),
        (["data", "--num_defect", "5"], "--num_defect 5: the label map names 2 types"),
        (["data", "--config", "none.yml"], "none.yml: cannot read the configuration file"),
        (["data", "--val_dir", "gone"], "gone: does not exist"),
    ],
)
def test_wrong_usage_is_one_line(flags, words, data, monkeypatch, capsys):
    monkeypatch.chdir(data.parent)
    before = sorted(data.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        run_cli(lambda _: main(flags))
    shown = capsys.readouterr()
    assert stop.value.code == 2 and words in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert sorted(data.rglob("*")) == before


def test_real_tiles_and_demo_data(shared_dir, demo_data, run, tmp_path):
    assert run(demo_data, "--resolution", 32, "--out", tmp_path / "out")[2]["findings"] == []
    tiles = shared_dir / "data" / "magnetic_tile"
    if not tiles.is_dir():
        pytest.skip("../shared/data/magnetic_tile is not there")
    status, _, found = run(tiles, "--resolution", 256, "--out", tmp_path / "out")
    assert status == 0 and (found["images"], found["good"]) == (240, 97)
    images = {name: row["images"] for name, row in found["types"].items()}
    assert images == {"blowhole": 69, "break": 50, "crack": 38, "fray": 22, "uneven": 58}
    assert rules(found) == ["speck", "empty"]  # true ones: three empty masks, two of 1 and 3 px
    assert len(finding(found, "empty")["files"]) == 3
    specks = [Path(file).stem for file in finding(found, "speck")["files"]]
    assert specks == ["exp3_num_24829", "exp4_num_24843"]


def test_what_resizing_keeps_of_specks():
    rng = np.random.default_rng(0)
    mask = (rng.random((90, 120)) < 0.03) * rng.integers(1, 3, (90, 120)).astype(np.uint8)
    found = look_at_types(mask, View((17, 23)))
    # of less than half a new pixel: the pixel under its middle, as Pillow's nearest
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in ((17, 90), (23, 120)))
    for index in (1, 2):
        numbered, count = ndimage.label(mask == index, np.ones((3, 3)))
        kept = [(numbered[np.ix_(rows, columns)] == k + 1).sum() for k in range(count)]
        assert found[index].regions == count and found[index].lost == kept.count(0) > 0
        assert found[index].pixels == (mask == index).sum() and found[index].trained == sum(kept)
    record = Record("", "", "", size=mask.shape, types=found)
    assert [keeps_regions(record, size) for size in ((17, 23), (90, 120))] == [False, True]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_view_is_alike_whatever_exposure_size_and_compression(seed):
    image, *others = (Image.fromarray(photograph(k, (60, 80))[..., 0]) for k in (seed, *range(100, 150)))
    same = [ImageEnhance.Brightness(image).enhance(0.6), ImageEnhance.Contrast(image).enhance(0.7)]
    same.append(image.resize((50, 41), Image.Resampling.BILINEAR))
    parts = {
        part: [Record(f"{k}", "", "", perceptual_hash=perceptual_hash(np.asarray(one))) for k, one in enumerate(some)]
        for part, some in {"own": [image], "same": same, "others": others}.items()
    }
    ((one, other, pairs),) = alike(parts)
    assert (one, other) == ("own", "same") and sorted(theirs.name for _, theirs in pairs) == ["0", "1", "2"]
    assert len(parts["own"][0].perceptual_hash) * 4 == 128
