"""Preparing data sets: exact pixels, splits without leaks, all or nothing, going on after a kill, bad input."""

import json
from pathlib import Path

import drawn_textures
import numpy as np
import pytest
from drawn_formats import save as write
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.data.prepared import find_samples, read_label_map
from guided_diffusion.errors import run_cli

TYPES = ("crack", "hole")
# Killed at the N-th write of a file.
KILL = """
import os, signal
from guided_diffusion import file_io
counts = iter(range({n}))
whole = file_io.write_atomic
def write_atomic(path, data):
    if next(counts, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(path, data)
import guided_diffusion.data.prepared as released
file_io.write_atomic = released.write_atomic = write_atomic
"""


def photograph(seed, size=(40, 60)):
    return drawn_textures.photograph(seed, size)


def blob(seed, size=(40, 60)):
    """uint8 [H, W], 0 or 255: a rectangle that leaves most of the image free."""
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, side // 2)) for side in size)
    mask = np.zeros(size, np.uint8)
    mask[top : top + size[0] // 4, left : left + size[1] // 4] = 255
    return mask


def soft_mask(size=(20, 30)):
    """A mask with compression residue: values 0, 9, 127 (still background), 128 and 255."""
    mask = np.zeros(size, np.uint8)
    mask[5:12, 5:20] = 255
    mask[4, :10], mask[3, :10], mask[2, :10] = 128, 127, 9
    return mask


def read(path):
    return np.array(Image.open(path))


def names(root):
    return [sample.name for sample in find_samples(str(root))]


def contents(root):
    return {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}


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
            write(root / f"test/{name}/{stem}.png", photograph((t, k // 2)))
            write(root / f"ground_truth/{name}/{stem}_mask.png", blob((t, k)))
    for k in range(2):
        write(root / f"train/good/{k:03}.png", photograph((7, k)))
        write(root / f"test/good/{k:03}.png", photograph((8, k)))
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
            write((source / path).with_suffix(".png"), soft_mask() * (name != "good"))
            files[path] = {"type": name, "part": "train_good" if name == "good" else "train5" if index < 10 else "dev"}
    (source / "split.json").write_text(json.dumps({"label_map": {"hole": 1, "crack": 2}, "files": files}))
    return source


def test_split_file_parts_label_map_and_pixels(run, tiles, tmp_path):
    before = contents(tiles)
    shown = run("tiles", "out", "--keep_good")
    assert "out/train5: 4 images (crack 2, hole 2)" in shown and "out/dev: 2 images (crack 1, hole 1)" in shown
    assert "out/train_good: 3 images (defect-free 3)" in shown and contents(tiles) == before
    out = tmp_path / "out/train5"
    assert read_label_map(str(out)) == {"hole": 1, "crack": 2}
    assert names(out) == ["crack/exp1", "crack/exp2", "hole/exp1", "hole/exp2"]
    assert np.array_equal(read(out / "converted_ground_truth/crack/exp1.png"), np.where(soft_mask() > 127, 2, 0))
    assert np.array_equal(read(out / "test/crack/exp1.png"), read(tiles / "MT_Crack/Imgs/exp1.jpg"))
    run("tiles", "two", "--part", "dev", "train_good", "--keep_good", "--mask_threshold", 200)
    assert len(names(tmp_path / "two")) == 2 and len(list((tmp_path / "two/test/good").iterdir())) == 3
    assert not (tmp_path / "two/converted_ground_truth/good").exists()
    assert np.array_equal(read(tmp_path / "two/converted_ground_truth/crack/exp10.png"), 2 * (soft_mask() > 200))
    assert "another data set" in run("tiles", "two", "--part", "train5", status=2)


def test_converted_pairs_and_their_records(run, bottle, tmp_path):
    assert "out: 16 images (crack 6, hole 6, defect-free 4)" in run("bottle", "out", "--keep_good")
    data = DefectDataset.load("out", 2, (40, 60))
    stems = [f"{name}/part{3 * t + k // 2}_shot{k % 2}" for t, name in enumerate(TYPES) for k in range(6)]
    assert data.names == stems
    for place, (image, mask) in enumerate(zip(data.images, data.masks, strict=True)):
        t, k = divmod(place, 6)
        assert np.array_equal(image.permute(1, 2, 0), photograph((t, k // 2)))
        assert np.array_equal(mask, (blob((t, k)) > 0) * (t + 1))
    content = json.loads((tmp_path / "out/dataset.json").read_text())
    record = content["images"][0]
    assert record["source"] == "test/crack/part0_shot0.png" and record["types"] == {"crack": 150}
    assert content["source"]["format"] == "mvtec" and record["size"] == [40, 60]
    assert len({record["image_sha256"] for record in content["images"]}) < 16  # two shots of a part are one picture


def test_shots_by_group_and_a_leak_that_is_warned_of(run, bottle, tmp_path):
    shown = run("bottle", "out", "--shots", 3, "--group_regex", r"(part\d+)")
    # The fourth photograph shows the part of the third, which trains; it may not validate.
    assert names(tmp_path / "out/train") == [
        f"{t}/part{p}_shot{s}" for t, a in (("crack", 0), ("hole", 3)) for p, s in ((a, 0), (a, 1), (a + 1, 0))
    ]
    assert names(tmp_path / "out/val") == [
        f"{t}/part{p}_shot{s}" for t, p in (("crack", 2), ("hole", 5)) for s in (0, 1)
    ]
    assert "left out: 2 images that show a part of another side" in shown and "look alike" not in shown
    shown = run("bottle", "leaky", "--shots", 3)
    assert "train and val: 2 pairs" in shown and "part1_shot0" in shown


def test_fraction_with_groups_from_a_file(run, bottle, tmp_path):
    rows = [f"{p.parent.name}/{p.name},{p.stem.split('_')[0]}" for p in bottle.glob("test/[ch]*/*.png")]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    run("bottle", "out", "--val_fraction", 0.34, "--group_csv", "groups.csv")
    sides = [{name.split("/")[1].split("_")[0] for name in names(tmp_path / "out" / part)} for part in ("train", "val")]
    assert len(sides[0]) == 4 and len(sides[1]) == 2 and not sides[0] & sides[1]
    records = json.loads((tmp_path / "out/val/dataset.json").read_text())
    assert {record["group"] for record in records["images"]} == sides[1]
    assert records["split"] == {"part": "val", "by": "val_fraction 0.34, seed 0"}


def test_fit_and_tiles(run, bottle, tmp_path):
    run("bottle", "out", "--fit", "pad", "--size", 32)
    assert {Image.open(sample.image).size for sample in find_samples("out")} == {(32, 32)}
    flags = ("bottle", "tiled", "--tile", 16, "--overlap", 4, "--keep_empty", 0)
    run(*flags)
    masks = [read(sample.mask.path) for sample in find_samples("tiled")]
    assert len(masks) > 12 and all(mask.shape == (16, 16) and mask.any() for mask in masks)
    mask = np.zeros((40, 60), np.uint8)
    mask[38, 58] = 255
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", mask)
    assert "removed" in run(*flags)  # no tile of the former mask stays
    assert [n for n in names(tmp_path / "tiled") if n.startswith("hole/part3_shot0")] == ["hole/part3_shot0_y24_x44"]


def test_overlaps_are_counted_and_decided(run, tmp_path):
    first, second = np.zeros((2, 20, 20), np.uint8)
    first[:10], second[5:15] = 255, 255
    for path, array in (("images", photograph(0, (20, 20))), ("masks/crack", first), ("masks/hole", second)):
        write(tmp_path / "set" / path / "a.png", array)
    for out, flags, winner in (("a", (), 2), ("b", ("--priority", "crack"), 1), ("c", ("--priority", "hole,crack"), 2)):
        assert ("100 pixels are called crack and hole at once" in run("set", out, *flags)) == (not flags)
        mask = read(tmp_path / out / "converted_ground_truth/a.png")
        assert (mask[5:10] == winner).all() and (mask[:5] == 1).all() and (mask[10:15] == 2).all()
    assert "did you mean 'hole'" in run("set", "bad", "--priority", "hol", status=2)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 26])
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(run, run_script, bottle, tmp_path, n):
    run("bottle", "whole")
    assert run_script("prepare_data.py", bottle, tmp_path / "out", prelude=KILL.format(n=n)).returncode == -9
    if n > 1:
        with pytest.raises(ValueError, match="did not finish"):
            find_samples("out")
    run("bottle", "out")
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")
    assert "no files written" in run("bottle", "out")


def test_what_changed_in_the_source_or_broke_is_made_anew_and_what_was_edited_is_kept(run, bottle, tmp_path):
    run("bottle", "out")
    path = tmp_path / "out/converted_ground_truth/crack/part0_shot0.png"
    write(path, np.full((40, 60), 2, np.uint8))
    edited = path.read_bytes()
    shown = run("bottle", "out", status=2)
    assert "crack/part0_shot0.png: was changed after it was prepared" in shown and path.read_bytes() == edited
    path.write_bytes(edited[:50])  # broken, not edited
    (tmp_path / "out/test/hole/part3_shot1.png").unlink()
    assert "2 files written" in run("bottle", "out")
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", np.full((40, 60), 255, np.uint8))
    assert "2 files written" in run("bottle", "out")  # the mask and dataset.json
    assert (read(tmp_path / "out/converted_ground_truth/hole/part3_shot0.png") == 2).all()
    for path in bottle.glob("*/crack/part0_shot0*"):
        path.unlink()
    assert "11 images (crack 5, hole 6), 1 files written, 2 removed" in run("bottle", "out")
    assert "crack/part0_shot0" not in names(tmp_path / "out") and "no files written" in run("bottle", "out")


def test_an_image_that_changes_sides_is_on_one_only(run, bottle, tmp_path):
    """With another image the first shots are others; what no longer trains must not stay among them."""
    run("bottle", "out", "--shots", 3)
    write(bottle / "test/crack/a.png", photograph((9, 9)))
    write(bottle / "ground_truth/crack/a_mask.png", blob((9, 9)))
    run("bottle", "out", "--shots", 3)
    train, val = (set(names(tmp_path / "out" / part)) for part in ("train", "val"))
    assert "crack/a" in train and len(train) == 6 and not train & val and "crack/part1_shot0" in val


def test_no_part_is_written_where_another_cannot_be(run, bottle, tmp_path):
    write(tmp_path / "out/val/test/other/x.png", photograph(0, (8, 8)))
    assert "another data set" in run("bottle", "out", "--shots", 3, status=2)
    assert not (tmp_path / "out/train").exists()


def truncate_image(root):
    path = root / "MT_Crack/Imgs/exp2.jpg"
    path.write_bytes(path.read_bytes()[:200])


def zero_one_masks(root):
    for index in (1, 2, 10):
        write(root / f"MT_Hole/Imgs/exp{index}.png", (soft_mask() > 127).astype(np.uint8))


def unlist_type(root):
    path = root / "split.json"
    path.write_text(path.read_text().replace('"type": "hole"', '"type": "hloe"'))


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        (lambda root: (root / "MT_Hole/Imgs/exp1.png").unlink(), [], ["MT_Hole/Imgs/exp1.jpg", "no mask"]),
        (truncate_image, [], ["MT_Crack/Imgs/exp2.jpg", "truncated"]),
        (zero_one_masks, [], ["masks of hole", "--mask_threshold 0"]),
        (unlist_type, [], ["split.json", "a hloe, its folder hole"]),
        (lambda root: (root / "split.json").write_text('{"label_map": {}}'), [], ["split.json", "files"]),
        (None, ["--part", "tran5"], ["--part", "did you mean 'train5'"]),
        (None, ["--mask_threshold", 300], ["--mask_threshold 300: must be at most 254"]),
        (None, ["--part", "train_good"], ["defect-free", "--keep_good"]),
        (None, ["--shots", 1, "--val_fraction", 0.2], ["--shots and --val_fraction", "exclude"]),
        (None, ["--shots", 0], ["--shots 0: must be at least 1"]),
        (None, ["--val_fraction", 1.5], ["--val_fraction", "1.5"]),
        (None, ["--fit", "pad"], ["--fit and --size"]),
        (None, ["--tile", 16, "--overlap", 16], ["--overlap", "16"]),
        (None, ["--group_regex", "part"], ["--group_regex", "group"]),
        (None, ["--group_regex", "(part"], ["--group_regex", "regular expression"]),
        (None, ["--group_regex", r"(crack\d)"], ["--group_regex", "finds nothing", "exp1"]),
        (None, ["--group_csv", "gone.csv"], ["--group_csv", "gone.csv"]),
        (None, ["--label_map", "crack,dent"], ["unknown type 'hole'", "label map"]),
        (None, ["--label_map", "crack=1,hole=3"], ["--label_map", "1, 2"]),
        (None, ["--label_map", "gone.json"], ["--label_map gone.json", "cannot be read"]),
        (None, ["--colormap", "crack=1,2"], ["--colormap", "NAME=R,G,B", "levels 0..255"]),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_is_written(run, tiles, tmp_path, spoil, flags, words):
    if spoil:
        spoil(tiles)
    shown = run("tiles", "out", *flags, status=2)
    assert all(word in shown for word in words), shown
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("source", "out"), [("gone", "out"), ("empty", "out"), ("tiles", "tiles/out"), ("tiles", "f")])
def test_bad_folders(run, tiles, tmp_path, source, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "f").write_text("")
    run(source, out, status=2)
    assert not (tmp_path / "out").exists() and not (tiles / "out").exists()


def test_real_magnetic_tiles(run, shared_dir):
    source = shared_dir / "data" / "magnetic_tile"
    if not source.is_dir():
        pytest.skip("the shared magnetic tile photographs are not here")
    shown = run(source, "out", "--keep_good")
    parts = {"train5": 25, "dev": 64, "report": 59, "unused": 92, "train_good": 55, "report_good": 42}
    assert all(f"out/{part}: {count} images" in shown for part, count in parts.items())
    assert "dev and train5: 9 pairs" in shown and "report and train5" not in shown  # tile 30 is tile 27, 28 and 29
    label_map = read_label_map("out/train5")
    assert label_map == {"blowhole": 1, "break": 2, "crack": 3, "fray": 4, "uneven": 5}
    files = json.loads((source / "split.json").read_text())["files"]
    pixels = {Path(path).stem: entry["defect_pixels"] for path, entry in files.items()}
    for sample in find_samples("out/train5"):
        mask = read(sample.mask.path)
        assert set(np.unique(mask)) <= {0, label_map[sample.folder]}
        assert np.count_nonzero(mask) == pixels[Path(sample.mask.path).stem]
