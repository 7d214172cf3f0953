"""Converting type folders of image + binary mask, on a small stand-in and on the real tiles."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from guided_diffusion.cli.prepare import main
from guided_diffusion.data.image_datasets import DefectDataset
from guided_diffusion.errors import run_cli
from guided_diffusion.prepare.layouts import find_samples, read_label_map

PARTS = {"train5": 25, "dev": 64, "report": 59, "unused": 92, "train_good": 55, "report_good": 42}
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run the command in tmp_path, but within this process, which spares the imports."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments):
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_cli(main)
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=stop.value.code, stdout=captured.out, stderr=captured.err)

    return run_here


def add(root, image_name, mask=None, size=(20, 30)):
    """Write a grey photograph and its mask (height, width = size) as PNG beside it."""
    path = root / image_name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(90, 160, size, dtype=np.uint8)).save(path)
    if mask is not None:
        Image.fromarray(mask.astype(np.uint8)).save(path.with_suffix(".png"))


def soft_mask(size=(20, 30)):
    """A mask with compression residue: values 0, 9, 127 (still background), 128 and 255."""
    mask = np.zeros(size)
    mask[5:12, 5:20] = 255
    mask[4, :10], mask[3, :10], mask[2, :10] = 128, 127, 9
    return mask


@pytest.fixture
def tiles(tmp_path):
    """A stand-in for the magnetic tile folder, with split.json."""
    source = tmp_path / "tiles"
    files = {}
    for folder, name in (("MT_Hole", "hole"), ("MT_Crack", "crack"), ("MT_Free", "good")):
        for index in (1, 2, 10):
            path = f"{folder}/Imgs/exp{index}.jpg"
            add(source, path, soft_mask() if name != "good" else soft_mask() * 0)
            part = "train5" if index < 10 else "dev"
            files[path] = {"type": name, "part": part if name != "good" else "train_good"}
    split = {"label_map": {"hole": 1, "crack": 2}, "files": files}
    (source / "split.json").write_text(json.dumps(split))
    return source


def test_split_file_part_and_label_map(run, tiles, tmp_path):
    result = run("tiles", "out", "--keep_good")
    assert result.returncode == 0, result.stderr
    assert "out/train5: 4 images (crack 2, hole 2)" in result.stdout
    assert "out/dev: 2 images (crack 1, hole 1)" in result.stdout
    assert "out/train_good: 3 images (defect-free 3)" in result.stdout
    out = tmp_path / "out" / "train5"
    assert read_label_map(str(out)) == {"hole": 1, "crack": 2}
    names = [Path(sample.image).relative_to(out).as_posix() for sample in find_samples(str(out))]
    assert names == [f"test/{name}/exp{index}.png" for name in ("crack", "hole") for index in (1, 2)]
    mask = np.array(Image.open(out / "converted_ground_truth/crack/exp1.png"))
    assert np.array_equal(mask, np.where(soft_mask() > 127, 2, 0))
    image = Image.open(out / "test/crack/exp1.png")
    assert np.array_equal(np.array(image), np.array(Image.open(tiles / "MT_Crack/Imgs/exp1.jpg")))


def test_running_again_changes_nothing_and_mends_what_is_broken(run, tiles, tmp_path):
    run("tiles", "out")
    source_before = {path: path.read_bytes() for path in tiles.rglob("*.*")}
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    assert "no files written" in run("tiles", "out").stdout
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.*")}
    (tmp_path / "out/train5/test/hole/exp1.png").unlink()
    assert "1 files written" in run("tiles", "out").stdout
    assert source_before == {path: path.read_bytes() for path in tiles.rglob("*.*")}


def test_parts_and_defect_free_images(run, tiles, tmp_path):
    result = run("tiles", "out", "--part", "dev", "train_good", "--keep_good")
    assert result.returncode == 0, result.stderr
    assert len(find_samples(str(tmp_path / "out"))) == 2
    assert len(list((tmp_path / "out/test/good").iterdir())) == 3
    assert not (tmp_path / "out/converted_ground_truth/good").exists()


def test_plain_folders_number_the_types_by_name(run, tmp_path):
    add(tmp_path / "src", "Stain/a.jpg", soft_mask())
    add(tmp_path / "src", "MT_Hole/b 1.bmp", soft_mask())
    add(tmp_path / "src", "good/c.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "src/good/d.png")
    result = run("src", "out", "--mask_threshold", 200)
    assert result.returncode == 0, result.stderr
    assert "2 defect-free images" in result.stdout
    data = DefectDataset.load(str(tmp_path / "out"), 2, (20, 30))
    assert data.names == ["hole/b 1", "stain/a"] and read_label_map(str(tmp_path / "out")) == {
        "hole": 1,
        "stain": 2,
    }
    assert np.array_equal(data.masks[1].numpy(), np.where(soft_mask() > 200, 2, 0))


def remove_mask(root):
    (root / "MT_Hole/Imgs/exp1.png").unlink()


def remove_image(root):
    (root / "MT_Hole/Imgs/exp1.jpg").unlink()


def shrink_mask(root):
    add(root, "MT_Hole/Imgs/exp1.jpg")
    Image.new("L", (7, 7)).save(root / "MT_Hole/Imgs/exp1.png")


def truncate_image(root):
    path = root / "MT_Crack/Imgs/exp2.jpg"
    path.write_bytes(path.read_bytes()[:200])


def zero_one_masks(root):
    for index in (1, 2, 10):
        add(root, f"MT_Hole/Imgs/exp{index}.jpg", soft_mask() > 127)


def double_stem(root):
    add(root, "MT_Hole/Imgs/exp1.bmp")


def unlist_type(root):
    path = root / "split.json"
    path.write_text(path.read_text().replace('"type": "hole"', '"type": "hloe"'))


def break_split(root):
    (root / "split.json").write_text('{"label_map": {}}')


@pytest.mark.parametrize(
    ("spoil", "arguments", "words"),
    [
        (remove_mask, [], ["MT_Hole/Imgs/exp1.jpg", "no mask"]),
        (remove_image, [], ["MT_Hole/Imgs/exp1.png", "no image"]),
        (shrink_mask, [], ["MT_Hole/Imgs/exp1.png", "7 x 7", "30 x 20"]),
        (truncate_image, [], ["MT_Crack/Imgs/exp2.jpg", "truncated"]),
        (zero_one_masks, [], ["masks of hole", "--mask_threshold 0"]),
        (double_stem, [], ["shares its stem"]),
        (unlist_type, [], ["split.json", "hloe", "did you mean 'hole'"]),
        (break_split, [], ["split.json", "files"]),
        (None, ["--part", "tran5"], ["--part", "did you mean 'train5'"]),
        (None, ["--split", "none.json"], ["--split", "none.json"]),
        (None, ["--mask_threshold", 300], ["--mask_threshold"]),
        (None, ["--part", "train_good"], ["defect-free", "--keep_good"]),
    ],
)
def test_bad_input_ends_in_one_line_before_anything_is_written(run, tiles, tmp_path, spoil, arguments, words):
    if spoil:
        spoil(tiles)
    result = run("tiles", "out", *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stderr.count("\n") == 1 and "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("source", "out"), [("gone", "out"), ("empty", "out"), ("tiles", "tiles/out"), ("tiles", "f")])
def test_bad_folders(run, tiles, tmp_path, source, out):
    (tmp_path / "empty").mkdir()
    (tmp_path / "f").write_text("")
    result = run(source, out)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tiles / "out").exists()


def test_output_is_never_mixed_with_another_set(run, tiles, tmp_path):
    run("tiles", "out", "--part", "train5")
    result = run("tiles", "out", "--part", "dev")
    assert result.returncode == 2 and "another data set" in result.stderr


def test_works_as_a_program_from_any_folder(tiles, tmp_path):
    def run_program(*arguments):
        command = [sys.executable, str(SCRIPT), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    good = run_program("tiles", "out", "--part", "train5")
    assert good.returncode == 0 and "4 images (crack 2, hole 2)" in good.stdout, good.stderr
    bad = run_program("tiles", "other", "--part", "none")
    assert bad.returncode == 2 and bad.stderr.startswith("error: --part") and bad.stderr.count("\n") == 1


def test_real_magnetic_tiles(run, shared_dir, tmp_path):
    source = shared_dir / "data" / "magnetic_tile"
    if not source.is_dir():
        pytest.skip("the shared magnetic tile photographs are not here")
    result = run(source, "out", "--keep_good")
    assert result.returncode == 0, result.stderr
    for part, count in PARTS.items():
        assert f"out/{part}: {count} images" in result.stdout
    assert "dev and train5: 9 pairs" in result.stdout  # tile 30 is tile 27, 28 and 29
    assert "report and train5" not in result.stdout
    split = json.loads((source / "split.json").read_text())
    out = tmp_path / "out" / "train5"
    label_map = read_label_map(str(out))
    assert label_map == {"blowhole": 1, "break": 2, "crack": 3, "fray": 4, "uneven": 5}
    samples = find_samples(str(out))
    assert [sample.folder for sample in samples] == [name for name in sorted(label_map) for _ in range(5)]
    pixels = {Path(path).stem: entry["defect_pixels"] for path, entry in split["files"].items()}
    for sample in samples:
        mask = np.array(Image.open(sample.mask.path))
        assert set(np.unique(mask)) <= {0, label_map[sample.folder]}
        assert np.count_nonzero(mask) == pixels[Path(sample.mask.path).stem]
    assert len(DefectDataset.load(str(out), 5, (64, 64))) == 25
