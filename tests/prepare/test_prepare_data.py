"""Preparing data sets: exact pixels, splits without leaks, all or nothing, going on after a kill, bad input."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from drawn_formats import photograph, pixels
from drawn_formats import save as write
from PIL import Image
from runs import interrupt, tree

from guided_diffusion.cli.prepare import main
from guided_diffusion.data.prepared import find_samples, read_label_map
from guided_diffusion.errors import run_cli
from guided_diffusion.file_io import lock_folder

TYPES = ("crack", "hole")
SIZE = (40, 60)
SOFT = np.zeros((20, 30), np.uint8)  # with compression residue: 9, 127 (still background), 128
SOFT[5:12, 5:20], SOFT[4, :10], SOFT[3, :10], SOFT[2, :10] = 255, 128, 127, 9


def blob(seed):
    """uint8 [H, W], 0 or 255: a rectangle of 10 x 15 pixels."""
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, side // 2)) for side in SIZE)
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + 10, left : left + 15] = 255
    return mask


def names(root):
    return [sample.name for sample in find_samples(str(root))]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """run(*arguments, status=0) -> what the command prints, in tmp_path; errors are one line."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments, status=0):
        with pytest.raises(SystemExit) as stop:
            run_cli(lambda _: main([*map(str, arguments)]))
        shown = capsys.readouterr()
        assert stop.value.code == status, shown
        assert not status or shown.err.count("\n") == 1
        return shown.err if status else shown.out

    return call


@pytest.fixture
def bottle(tmp_path):
    """MVTec AD: 6 photographs of each type, of 3 objects (part<k>_shot<s>), and 4 defect-free ones."""
    root = tmp_path / "bottle"
    for t, name in enumerate(TYPES):
        for k in range(6):
            stem = f"part{t * 3 + k // 2}_shot{k % 2}"
            write(root / f"test/{name}/{stem}.png", photograph((t, k // 2), SIZE))
            write(root / f"ground_truth/{name}/{stem}_mask.png", blob((t, k)))
    for k in range(2):
        write(root / f"train/good/{k:03}.png", photograph((7, k), SIZE))
        write(root / f"test/good/{k:03}.png", photograph((8, k), SIZE))
    return root


@pytest.fixture
def tiles(tmp_path):
    """A stand-in for the magnetic tile folder, with split.json."""
    source, files = tmp_path / "tiles", {}
    image = np.random.default_rng(0).integers(90, 160, (20, 30), dtype=np.uint8)
    for folder, name in (("MT_Hole", "hole"), ("MT_Crack", "crack"), ("MT_Free", "good")):
        for index in (1, 2, 10):
            path = f"{folder}/Imgs/exp{index}.jpg"
            write(source / path, image)
            write((source / path).with_suffix(".png"), SOFT * (name != "good"))
            files[path] = {"type": name, "part": "train_good" if name == "good" else "train5" if index < 10 else "dev"}
    (source / "split.json").write_text(json.dumps({"label_map": {"hole": 1, "crack": 2}, "files": files}))
    return source


def test_split_file_parts_label_map_and_pixels(run, tiles, tmp_path):
    before = tree(tiles)
    shown = run("tiles", "out", "--keep_good")
    assert "out/train5: 4 images (crack 2, hole 2)" in shown and "out/dev: 2 images (crack 1, hole 1)" in shown
    assert "out/train_good: 3 images (defect-free 3)" in shown and tree(tiles) == before
    out = tmp_path / "out/train5"
    assert read_label_map(str(out)) == {"hole": 1, "crack": 2}
    assert names("out/train5") == ["crack/exp1", "crack/exp2", "hole/exp1", "hole/exp2"]
    assert np.array_equal(pixels(out / "converted_ground_truth/crack/exp1.png"), np.where(SOFT > 127, 2, 0))
    assert np.array_equal(pixels(out / "test/crack/exp1.png"), pixels(tiles / "MT_Crack/Imgs/exp1.jpg"))
    content = json.loads((out / "dataset.json").read_text())
    record = content["images"][0]
    assert record["source"] == "MT_Crack/Imgs/exp1.jpg" and record["types"] == {"crack": int((SOFT > 127).sum())}
    assert content["source"]["format"] == "type_folders" and record["size"] == [*SOFT.shape]
    run("tiles", "two", "--part", "dev", "train_good", "--keep_good", "--mask_threshold", 200)
    assert len(names("two")) == 2 and len(list((tmp_path / "two/test/good").iterdir())) == 3
    assert not (tmp_path / "two/converted_ground_truth/good").exists()
    assert np.array_equal(pixels(tmp_path / "two/converted_ground_truth/crack/exp10.png"), 2 * (SOFT > 200))
    assert "another data set" in run("tiles", "two", "--part", "train5", status=2)
    before = tree(tmp_path)
    assert "OUT two: is a data set without parts" in run("tiles", "two", status=2)
    assert "OUT out: holds the data set" in run("tiles", "out", "--part", "dev", status=2)
    files = json.loads((tiles / "split.json").read_text())
    files["files"] = {path: entry | {"part": "train5"} for path, entry in files["files"].items()}
    (tmp_path / "all.json").write_text(json.dumps(files))  # its dev would stand in train5 too
    assert "the data set dev, which" in run("tiles", "out", "--keep_good", "--split", "all.json", status=2)
    (tmp_path / "all.json").unlink()
    assert tree(tmp_path) == before
    assert "note: tiles/split.json is not used" in run("tiles", "drawn", "--shots", 1)


def test_shots_by_group_and_a_leak_that_is_warned_of(run, bottle, tmp_path):
    shown = run("bottle", "out", "--shots", 3, "--group_regex", r"(part\d+)")
    # The fourth photograph shows the part of the third, which trains; it may not validate.
    shots = {"crack": (0, 0, 1), "hole": (3, 3, 4)}
    assert names("out/train") == [f"{t}/part{p}_shot{k % 2}" for t, own in shots.items() for k, p in enumerate(own)]
    assert names("out/val") == [f"{t}/part{p}_shot{s}" for t, p in (("crack", 2), ("hole", 5)) for s in (0, 1)]
    assert "left out: 2 images that show a part of another side" in shown and "look alike" not in shown
    shown = run("bottle", "leaky", "--shots", 3)
    assert "2 pairs of images of train and val look alike" in shown and "part1_shot0" in shown


def test_good_images_alone_and_images_that_a_split_leaves_out(run, bottle, tiles):
    for folder in ("test/crack", "test/hole", "ground_truth"):
        shutil.rmtree(bottle / folder)
    (bottle / "ground_truth").mkdir()
    for written in ("5 files", "no files"):  # again, as the set can be read
        assert f"out: 4 images (defect-free 4), {written} written" in run("bottle", "out", "--keep_good")
    content = json.loads((tiles / "split.json").read_text())
    content["files"] = {path: entry for path, entry in content["files"].items() if "exp10" not in path}
    (tiles / "split.json").write_text(json.dumps(content))
    told = "left out: 2 images with a mask that it does not list, such as MT_Crack/Imgs/exp10.jpg"
    assert told in run("tiles", "listed")
    (tiles / "MT_Hole").rename(tiles / "MT_3")
    text = (tiles / "split.json").read_text().replace("MT_Hole", "MT_3").replace('"type": "hole"', '"type": 3')
    (tiles / "split.json").write_text(text.replace('"hole": 1', '"3": 1'))
    assert "3 2" in run("tiles", "numbered")  # a number is the name of its folder


def test_names_that_disks_do_not_take_are_refused_first(run, bottle):
    (bottle / "train/good/000.png").rename(bottle / f"train/good/{'x' * 250}.png")
    assert "would be longer than 255 bytes" in run("bottle", "out", "--keep_good", status=2)
    assert not Path("out").exists()


def test_fit_and_tiles(run, bottle, tmp_path):
    run("bottle", "out", "--fit", "pad", "--size", 32)
    assert {Image.open(sample.image).size for sample in find_samples("out")} == {(32, 32)}
    records = json.loads(Path("out/dataset.json").read_text())["images"]  # 40 x 60 became 21 x 32 before the padding
    assert {tuple(record["scale"]) for record in records} == {(1.9048, 1.875)}
    flags = ("bottle", "tiled", "--tile", 16, "--overlap", 4, "--keep_empty", 0)
    run(*flags)
    masks = [pixels(sample.mask.path) for sample in find_samples("tiled")]
    assert len(masks) > 12 and all(mask.shape == (16, 16) and mask.any() for mask in masks)
    mask = np.zeros(SIZE, np.uint8)
    mask[38, 58] = 255
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", mask)
    assert "removed" in run(*flags)  # no tile of the former mask stays
    assert [n for n in names("tiled") if n.startswith("hole/part3_shot0")] == ["hole/part3_shot0_y24_x44"]


def test_that_boxes_were_filled_is_said_in_dataset_json(run, tmp_path):
    content = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "crack"}]}
    content["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": [4, 6, 16, 10]}]
    write(tmp_path / "in/_annotations.coco.json", content)
    write(tmp_path / "in/a.png", photograph(1, SIZE))
    assert "1 annotations in in/_annotations.coco.json are boxes" in run("in", "out", "--boxes", "fill")
    assert json.loads((tmp_path / "out/dataset.json").read_text())["source"]["boxes"] == "fill"


def test_overlaps_are_told_unless_a_priority_decides(run, tmp_path):
    first = np.repeat(np.array([255, 255, 0, 0], np.uint8), 5)[:, None].repeat(20, 1)
    drawn = {"images": photograph(0, (20, 20)), "masks/crack": first, "masks/hole": np.roll(first, 5, 0)}
    for path, array in drawn.items():
        write(tmp_path / "set" / path / "a.png", array)
    assert "100 pixels are called crack and hole at once" in run("set", "out")
    assert "at once" not in run("set", "two", "--priority", "crack")
    for out, winner in (("out", 2), ("two", 1)):
        mask = pixels(tmp_path / out / "converted_ground_truth/a.png")
        assert np.array_equal(mask, np.repeat([1, winner, 2, 0], 5)[:, None].repeat(20, 1))
    assert "did you mean 'hole'" in run("set", "bad", "--priority", "hol", status=2)


@pytest.mark.parametrize(("n", "updated"), [(0, False), (1, False), (2, False), (10, False), (26, False), (8, True)])
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(run, run_script, bottle, tmp_path, n, updated):
    """Also where it was to replace what an earlier run had written."""
    if updated:
        run("bottle", "out")
        for k, path in enumerate(bottle.glob("ground_truth/*/*.png")):
            write(path, blob(k + 50))
    run("bottle", "whole")
    kill = f"left = iter(range({n}))" + interrupt("os.replace", "next(left, None) is None")  # at the n-th write
    killed = run_script("prepare_data.py", bottle, tmp_path / "out", prelude=kill)
    assert killed.returncode == -9
    if n > 2:
        with pytest.raises(ValueError, match="did not finish"):
            find_samples("out")
    run("bottle", "out")
    assert tree(tmp_path / "whole") == tree(tmp_path / "out")
    assert "no files written" in run("bottle", "out")


def test_what_changed_in_the_source_or_broke_is_made_anew_and_what_was_edited_is_kept(run, bottle, tmp_path):
    run("bottle", "out")
    path = tmp_path / "out/converted_ground_truth/crack/part0_shot0.png"
    write(path, np.full(SIZE, 2, np.uint8))
    edited = path.read_bytes()
    shown = run("bottle", "out", status=2)
    assert "crack/part0_shot0.png: was changed after it was prepared" in shown and path.read_bytes() == edited
    path.unlink()
    (tmp_path / "out/test/hole/part3_shot1.png").unlink()
    assert "2 files written" in run("bottle", "out")
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", np.full(SIZE, 255, np.uint8))
    assert "2 files written" in run("bottle", "out")  # the mask and dataset.json
    assert (pixels(tmp_path / "out/converted_ground_truth/hole/part3_shot0.png") == 2).all()
    for path in bottle.glob("*/crack/part0_shot0*"):
        path.unlink()
    assert "11 images (crack 5, hole 6), 1 files written, 2 removed" in run("bottle", "out")
    assert "crack/part0_shot0" not in names("out") and "no files written" in run("bottle", "out")


def plant(path, image):
    """Have a dataset.json list another image."""
    content = json.loads(path.read_text())
    digest = hashlib.sha256(b"victim").hexdigest()
    path.write_text(json.dumps({**content, "images": [*content["images"], {"image": image, "image_sha256": digest}]}))


LED_OUT = {  # what is planted into OUT or written into split.json
    "record": lambda out, away: plant(out / "train/dataset.json", "../../away/v.png"),
    "absolute": lambda out, away: plant(out / "train/dataset.json", str(away / "v.png")),
    "record through a link": lambda out, away: (
        (out / "train/test/more").symlink_to(away), plant(out / "train/dataset.json", "test/more/v.png")
    ),
    "folder": lambda out, away: (shutil.rmtree(out / "train/test/hole"), (out / "train/test/hole").symlink_to(away)),
    "part": lambda out, away: (shutil.rmtree(out / "val"), (out / "val").symlink_to(away)),
    "file": lambda out, away: (
        (f := out / "train/test/hole/part3_shot0.png").unlink(), f.symlink_to(away / "v.png")
    ),
    "dataset.json": lambda out, away: (
        (f := out / "train/dataset.json").rename(away / "d.json"), f.symlink_to(away / "d.json")
    ),
    "unfinished": lambda out, away: (out / "train/dataset.unfinished.json").symlink_to(away / "d.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", LED_OUT)
def test_nothing_outside_out_is_read_written_or_deleted(run, bottle, tmp_path, case):
    (away := tmp_path / "away").mkdir()
    run("bottle", "out", "--shots", 3)
    (away / "v.png").write_bytes(b"victim")
    (away / "d.json").write_text("{}")
    LED_OUT[case](tmp_path / "out", away)
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", blob(99))  # something to do
    before = tree(away)
    assert "out" in run("bottle", "out", "--shots", 3, status=2) and tree(away) == before


@pytest.mark.parametrize("part", ["../x", "/x", "a/b", "..", "", " ", ".x", "x.", "a\\b", "a\n", None, ["a"], {}, 1.5])
def test_parts_of_a_split_file_are_folders_in_out(run, tiles, tmp_path, part):
    split = tiles / "split.json"
    split.write_text(json.dumps(json.loads(split.read_text()), indent=0).replace('"dev"', json.dumps(part), 1))
    assert "split.json: the part" in run("tiles", "out/deep", status=2) and not (tmp_path / "out").exists()


def test_a_second_process_is_kept_out(run, bottle):
    with lock_folder("out", "OUT"):
        assert f"OUT out: process {os.getpid()} on " in run("bottle", "out", status=2)
    run("bottle", "out")


def test_the_fraction_keeps_look_alikes_together_unless_groups_are_given(run, bottle, tmp_path):
    """Both shots of a part are one picture here; --group_csv and --group_regex know better."""
    rows = [f"{p.parent.name}/{p.name},{p.stem.split('_')[0]}" for p in bottle.glob("test/[ch]*/*.png")]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    flags = {"out": ("--seed", 3), "listed": ("--group_csv", "groups.csv")}
    for out, by in (("out", "seed 3, look-alikes kept together"), ("listed", "seed 0")):
        shown = run("bottle", out, "--val_fraction", 0.34, *flags[out])
        assert ("12 images look like others" in shown) == (out == "out") and "look alike" not in shown
        both = (names(tmp_path / out / part) for part in ("train", "val"))
        sides = [{name.split("/")[1].split("_")[0] for name in side} for side in both]
        assert len(sides[0]) == 4 and len(sides[1]) == 2 and not sides[0] & sides[1]
        content = json.loads((tmp_path / out / "val/dataset.json").read_text())
        assert content["split"] == {"part": "val", "by": f"val_fraction 0.34, {by}"}
        assert out == "out" or {record["group"] for record in content["images"]} == sides[1]
    flags = "--val_fraction", 0.34, "--seed", 3, "--group_regex", r"(part\d+_shot\d)"
    told = "split by is 'val_fraction 0.34, seed 3, look-alikes kept together' there, 'val_fraction 0.34, seed 3' in"
    assert told in run("bottle", "out", *flags, status=2)
    shown = run("bottle", "own", *flags)
    assert "look like others" not in shown and "look alike" in shown


def test_an_image_that_changes_sides_is_on_one_only(run, bottle, tmp_path):
    """With another image the first shots are others; what no longer trains must not stay among them."""
    run("bottle", "out", "--shots", 3)
    write(bottle / "test/crack/a.png", photograph((9, 9), SIZE))
    write(bottle / "ground_truth/crack/a_mask.png", blob((9, 9)))
    run("bottle", "out", "--shots", 3)
    train, val = (set(names(tmp_path / "out" / part)) for part in ("train", "val"))
    assert "crack/a" in train and len(train) == 6 and not train & val and "crack/part1_shot0" in val


def test_no_part_is_written_where_another_cannot_be(run, bottle, tmp_path):
    write(tmp_path / "out/val/test/other/x.png", photograph(0, (8, 8)))
    assert "another data set" in run("bottle", "out", "--shots", 3, status=2)
    assert not (tmp_path / "out/train").exists()


REFUSED = {
    "--part tran5": "--part|did you mean 'train5'",
    "--mask_threshold 300": "--mask_threshold 300: must be from 0 to 254",
    "--part train_good": "defect-free|--keep_good",
    "--shots 1 --val_fraction 0.2": "--shots and --val_fraction: exclude",
    "--shots 0": "--shots 0: must be from 1",
    "--val_fraction 1.5": "--val_fraction 1.5",
    "--fit pad": "--fit and --size",
    "--tile 16 --overlap 16": "--overlap: 16",
    "--group_regex part": "--group_regex|group",
    "--group_regex (part": "--group_regex|regular expression",
    "--group_regex (crack)": "--group_regex|finds nothing|exp1",
    "--group_csv gone.csv": "--group_csv|gone.csv",
    "--label_map crack,dent": "unknown type 'hole'|label map",
    "--label_map crack,hole,crack": "--label_map|each once",
    "--colormap crack=1,2": "--colormap|NAME=R,G,B|levels 0..255",
    "hloe": "split.json|a hloe, its folder hole",
    "file": "split.json|files",
    "--split .": "--split|no split file",
    "0/1": "MT_Hole|--mask_threshold of 0",
    "in": "OUT tiles/out: lies in SOURCE",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_bad_input_ends_in_one_line_before_anything_is_written(run, tiles, tmp_path, flags):
    split = tiles / "split.json"
    edits = {"hloe": ('"hole", "part"', '"hloe", "part"'), "file": ('"files"', '"file"')}
    split.write_text(split.read_text().replace(*edits.get(flags, ("", ""))))
    for path in tiles.glob("MT_Hole/*/*.png") if flags == "0/1" else ():
        write(path, SOFT // 128)
    shown = run("tiles", "tiles/out" if flags == "in" else "out", *(flags.split() if "--" in flags else ()), status=2)
    assert all(word in shown for word in REFUSED[flags].split("|")), shown
    assert not (tmp_path / "out").exists()


def test_real_magnetic_tiles(run, shared_dir):
    source = shared_dir / "data" / "magnetic_tile"
    if not source.is_dir():
        pytest.skip("the shared magnetic tile photographs are not here")
    shown = run(source, "out", "--keep_good")
    parts = {"train5": 25, "dev": 64, "report": 59, "unused": 92, "train_good": 55, "report_good": 42}
    assert all(f"out/{part}: {count} images" in shown for part, count in parts.items())
    assert "9 pairs of images of dev and train5 look" in shown  # tile 30 is tile 27, 28 and 29
    assert "report and train5" not in shown
    label_map = read_label_map("out/train5")
    assert label_map == {"blowhole": 1, "break": 2, "crack": 3, "fray": 4, "uneven": 5}
    files = json.loads((source / "split.json").read_text())["files"]
    counts = {Path(path).stem: entry["defect_pixels"] for path, entry in files.items()}
    for sample in find_samples("out/train5"):
        mask = pixels(sample.mask.path)
        assert set(np.unique(mask)) <= {0, label_map[sample.folder]}
        assert np.count_nonzero(mask) == counts[Path(sample.mask.path).stem]
