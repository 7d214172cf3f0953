"""What prepare_data.py's options do to a set in MVTec AD's layout: splits, groups, fits, tiles, overlaps, restarts."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.prepare.layouts import find_samples, read_label_map

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


def photograph(seed, size):
    """Smooth noise, so that photographs of other seeds do not look alike."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC))


def blob(seed, size):
    """bool [H, W]: a rectangle that leaves most of the image free."""
    rng = np.random.default_rng(seed)
    top, left = (int(rng.integers(0, side // 2)) for side in size)
    mask = np.zeros(size, bool)
    mask[top : top + size[0] // 4, left : left + size[1] // 4] = True
    return mask


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def bottle(tmp_path):
    """6 photographs of each type, of 3 parts (part<k>_shot<s>), and 4 defect-free ones."""
    root = tmp_path / "bottle"
    for t, name in enumerate(TYPES):
        for k in range(6):
            stem = f"part{t * 3 + k // 2}_shot{k % 2}"
            write(root / f"test/{name}/{stem}.png", photograph((t, k // 2), (40, 60)))
            write(root / f"ground_truth/{name}/{stem}_mask.png", blob((t, k), (40, 60)).astype(np.uint8) * 255)
    for k in range(2):
        write(root / f"train/good/{k:03}.png", photograph((7, k), (40, 60)))
        write(root / f"test/good/{k:03}.png", photograph((8, k), (40, 60)))
    return root


@pytest.fixture
def prepare(run_script, bottle, tmp_path):
    """Run the command on the bottles; returns the result and OUT."""

    def run_here(*arguments, status=0, out="out", prelude=""):
        result = run_script("prepare_data.py", bottle, tmp_path / out, *arguments, prelude=prelude)
        assert result.returncode == status, result.stdout + result.stderr
        assert "Traceback" not in result.stderr
        return result, tmp_path / out

    return run_here


def names(root):
    return [sample.name for sample in find_samples(str(root))]


def test_converted_and_read_directly_are_the_same_samples(prepare, bottle):
    result, out = prepare("--keep_good")
    assert "out: 16 images (crack 6, hole 6, defect-free 4)" in result.stdout
    direct, converted = (DefectDataset.load(str(root), 2, (40, 60)) for root in (bottle, out))
    assert direct.names == converted.names and read_label_map(str(bottle)) == {"crack": 1, "hole": 2}
    for image, mask, other, other_mask in zip(
        direct.images, direct.masks, converted.images, converted.masks, strict=True
    ):
        assert image.equal(other) and mask.equal(other_mask)
    content = json.loads((out / "dataset.json").read_text())
    record = content["images"][0]
    assert record["source"] == "test/crack/part0_shot0.png" and record["types"] == {"crack": 150}
    assert content["source"]["format"] == "mvtec" and record["size"] == [40, 60]
    assert len({record["image_sha256"] for record in content["images"]}) < 16  # two shots of a part are one picture


def test_shots_by_group(prepare):
    result, out = prepare("--shots", 3, "--group_regex", r"(part\d+)")
    # The fourth photograph shows the part of the third, which trains; it may not validate.
    assert names(out / "train") == [
        f"{t}/part{p}_shot{s}" for t, a in (("crack", 0), ("hole", 3)) for p, s in ((a, 0), (a, 1), (a + 1, 0))
    ]
    assert names(out / "val") == [f"{t}/part{p}_shot{s}" for t, p in (("crack", 2), ("hole", 5)) for s in (0, 1)]
    assert "left out: 2 images that show a part of another side" in result.stdout
    assert "look alike" not in result.stdout


def test_a_leak_is_warned_of(prepare):
    result, _ = prepare("--shots", 3)
    assert "train and val: 2 pairs" in result.stdout and "part1_shot0" in result.stdout


def test_fraction_with_groups_from_a_file(prepare, bottle, tmp_path):
    rows = [f"{p.parent.name}/{p.name},{p.stem.split('_')[0]}" for p in bottle.glob("test/[ch]*/*.png")]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    _, out = prepare("--val_fraction", 0.34, "--group_csv", tmp_path / "groups.csv")
    sides = [{name.split("/")[1].split("_")[0] for name in names(out / part)} for part in ("train", "val")]
    assert len(sides[0]) == 4 and len(sides[1]) == 2 and not sides[0] & sides[1]
    records = json.loads((out / "val/dataset.json").read_text())
    assert {record["group"] for record in records["images"]} == sides[1]
    assert records["split"] == {"part": "val", "by": "val_fraction 0.34, seed 0"}


def test_fit_and_tiles(prepare):
    _, out = prepare("--fit", "pad", "--size", 32)
    assert {Image.open(sample.image).size for sample in find_samples(str(out))} == {(32, 32)}
    _, out = prepare("--tile", 16, "--overlap", 4, "--keep_empty", 0, out="tiles")
    samples = find_samples(str(out))
    assert len(samples) > 12
    for sample in samples:
        mask = np.asarray(Image.open(sample.mask.path))
        assert mask.shape == (16, 16) and mask.any()


def test_overlaps_are_counted_and_decided(run_script, tmp_path):
    """images/x.png with masks/<type>/x.png."""
    first, second = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    first[:10], second[5:15] = True, True
    write(tmp_path / "set/images/a.png", photograph(0, (20, 20)))
    write(tmp_path / "set/masks/crack/a.png", first.astype(np.uint8) * 255)
    write(tmp_path / "set/masks/hole/a.png", second.astype(np.uint8) * 255)
    for flags, winner in (((), 2), (("--priority", "crack"), 1), (("--priority", "hole,crack"), 2)):
        out = tmp_path / f"out{len(flags)}{winner}"
        result = run_script("prepare_data.py", tmp_path / "set", out, *flags)
        assert "overlap: crack and hole in 1 images, 100 pixels" in result.stdout, result.stderr
        mask = np.asarray(Image.open(out / "converted_ground_truth/a.png"))
        assert (mask[5:10] == winner).all() and (mask[:5] == 1).all() and (mask[10:15] == 2).all()
    bad = run_script("prepare_data.py", tmp_path / "set", tmp_path / "bad", "--priority", "hol")
    assert bad.returncode == 2 and "did you mean 'hole'" in bad.stderr


@pytest.mark.parametrize("n", [0, 1, 2, 3, 10, 26])
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(prepare, run_script, n):
    _, whole = prepare(out="whole")
    result, out = prepare(prelude=KILL.format(n=n), status=-9)
    if n > 1:
        stopped = run_script("train.py", "--config", "x.yml", "--data_dir", out, "--work_dir", out / "w")
        assert stopped.returncode == 2
        with pytest.raises(ValueError, match="did not finish"):
            find_samples(str(out))
    prepare()
    contents = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (whole, out)]
    assert contents[0] == contents[1]
    assert "no files written" in prepare()[0].stdout


def test_what_was_changed_by_hand_is_not_lost(prepare):
    _, out = prepare()
    path = out / "converted_ground_truth/crack/part0_shot0.png"
    write(path, np.full((40, 60), 2, np.uint8))
    edited = path.read_bytes()
    result, _ = prepare(status=2)
    assert str(path) in result.stderr and "changed after it was prepared" in result.stderr
    assert path.read_bytes() == edited
    path.write_bytes(edited[:50])  # broken, not edited
    assert "1 files written" in prepare()[0].stdout


def test_a_changed_source_is_converted_anew(prepare, bottle):
    _, out = prepare()
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", np.full((40, 60), 255, np.uint8))
    assert "2 files written" in prepare()[0].stdout  # the mask and dataset.json
    assert (np.asarray(Image.open(out / "converted_ground_truth/hole/part3_shot0.png")) == 2).all()


def test_what_is_gone_from_the_source_goes_from_out(prepare, bottle):
    _, out = prepare()
    for path in bottle.glob("*/crack/part0_shot0*"):
        path.unlink()
    result, _ = prepare()
    assert "11 images (crack 5, hole 6), 1 files written, 2 removed" in result.stdout
    assert "crack/part0_shot0" not in names(out) and len(names(out)) == 11
    assert "no files written" in prepare()[0].stdout


def test_no_tile_of_a_former_mask_stays(prepare, bottle):
    flags = ("--tile", 16, "--keep_empty", 0)
    _, out = prepare(*flags)
    before = {name for name in names(out) if name.startswith("hole/part3_shot0")}
    mask = np.zeros((40, 60), np.uint8)
    mask[38, 58] = 255
    write(bottle / "ground_truth/hole/part3_shot0_mask.png", mask)
    result, _ = prepare(*flags)
    assert {n for n in names(out) if n.startswith("hole/part3_shot0")} == {
        "hole/part3_shot0_y24_x44"
    } and "removed" in result.stdout
    assert len(before - {"hole/part3_shot0_y24_x44"}) > 0


def test_an_image_that_changes_sides_is_on_one_only(prepare, bottle):
    """With another image the first shots are others; what no longer trains must not stay among them."""
    _, out = prepare("--shots", 3)
    write(bottle / "test/crack/a.png", photograph((9, 9), (40, 60)))
    write(bottle / "ground_truth/crack/a_mask.png", blob((9, 9), (40, 60)).astype(np.uint8) * 255)
    prepare("--shots", 3)
    train, val = (set(names(out / part)) for part in ("train", "val"))
    assert "crack/a" in train and len(train) == 6 and not train & val and "crack/part1_shot0" in val


def test_no_part_is_written_where_another_cannot_be(prepare, bottle, tmp_path):
    write(tmp_path / "out/val/test/other/x.png", photograph(0, (8, 8)))
    result, out = prepare("--shots", 3, status=2)
    assert "another data set" in result.stderr and not (out / "train").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shots", 1, "--val_fraction", 0.2], ["--shots and --val_fraction", "exclude"]),
        (["--shots", 0], ["--shots", "0"]),
        (["--val_fraction", 1.5], ["--val_fraction", "1.5"]),
        (["--fit", "pad"], ["--fit and --size"]),
        (["--size", 32], ["--fit and --size"]),
        (["--fit", "pad", "--size", 32, "--tile", 16], ["--fit and --tile"]),
        (["--tile", 16, "--overlap", 16], ["--overlap", "16"]),
        (["--group_regex", "part"], ["--group_regex", "group"]),
        (["--group_regex", "(part"], ["--group_regex", "regular expression"]),
        (["--group_regex", r"(crack\d)"], ["--group_regex", "finds nothing", "part0_shot0"]),
        (["--group_csv", "gone.csv"], ["--group_csv", "gone.csv"]),
        (["--label_map", "crack,dent"], ["unknown type 'hole'", "label map"]),
        (["--label_map", "crack=1,hole=3"], ["--label_map", "1, 2"]),
        (["--label_map", "gone.json"], ["--label_map gone.json", "cannot be read"]),
        (["--colormap", "crack=1,2"], ["--colormap", "NAME=R,G,B"]),
        (["--colormap", "crack=300"], ["--colormap", "levels 0..255"]),
        (["--format", "coco"], ["coco"]),
        (["--format", "images_masks"], ["holds none of", "--format"]),
        (["--part", "train"], ["--part", "no parts"]),
        (["--keep_empty", 2], ["--keep_empty"]),
        (["--workers", -1], ["--workers"]),
    ],
)
def test_bad_flags_end_in_one_line_before_anything_is_written(prepare, flags, words):
    result, out = prepare(*flags, status=2)
    for word in words:
        assert word in result.stderr
    assert result.stderr.count("\n") == 1 and not Path(out).exists()
