import io
import json
import os

import blobfile as bf
import numpy as np
import pytest
from PIL import Image

from guided_diffusion.errors import InputError
from guided_diffusion.generation import sample_io
from guided_diffusion.generation.sample_io import SampleFolder
from guided_diffusion.pictures import colorize, palette

NAMES = ("crack", "hole", "oil stain")
SETTINGS = {
    "seed": 7,
    "step_inference": 400,
    "image_size": (16, 24),
    "checkpoints": {"large": "a" * 64, "small": "b" * 64},
}


def make_samples(indices, height=16, width=24):
    """Images and masks that depend on the index alone, as generated ones do; sample 0 has no defect."""
    images = np.stack([np.random.default_rng(i).integers(0, 256, (height, width, 3)) for i in indices])
    masks = np.zeros((len(indices), height, width), np.uint8)
    for mask, index in zip(masks, indices, strict=True):
        mask[2:5, 3 : 3 + index % 4] = index % 4
        mask[8:10, :5] = 3 * (index % 2)
    return images.astype(np.uint8), masks


def fill(folder, indices):
    folder.add(indices, *make_samples(indices))


def tree(root):
    """Content of every file below root by relative path."""
    paths = [os.path.join(at, name) for at, _, names in os.walk(root) for name in names]
    return {os.path.relpath(path, root): open(path, "rb").read() for path in paths}


def read_png(path):
    return np.asarray(Image.open(path))


def read_manifest(root):
    return [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]


def test_files_of_a_sample(tmp_path):
    images, masks = make_samples([3])
    SampleFolder(str(tmp_path), NAMES, SETTINGS).add([3], images, masks)
    assert sorted(tree(tmp_path)) == [
        "defects/oil_stain/000003.png",
        "images/000003.png",
        "manifest.jsonl",
        "masks/000003.png",
        "masks_converted_dir/000003.png",
    ]
    assert np.array_equal(read_png(tmp_path / "images/000003.png"), images[0])
    assert np.array_equal(read_png(tmp_path / "masks_converted_dir/000003.png"), masks[0])
    assert np.array_equal(read_png(tmp_path / "masks/000003.png"), colorize(masks[0]))
    assert np.array_equal(read_png(tmp_path / "defects/oil_stain/000003.png"), (masks[0] == 3) * 255)


def test_manifest_describes_each_sample(tmp_path):
    folder = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    fill(folder, [5, 2])
    fill(folder, [0])
    rows = read_manifest(tmp_path)
    assert [row["index"] for row in rows] == [0, 2, 5]
    assert [row["types"] for row in rows] == [{}, {"hole": 6}, {"crack": 3, "oil stain": 10}]
    assert rows[2]["seed"] == 7
    assert rows[2]["settings"] == {**SETTINGS, "image_size": [16, 24], "class_names": list(NAMES)}
    for row in rows:
        paths = [row["image"], row["mask"], row["index_mask"], *row["defects"].values()]
        assert all((tmp_path / path).is_file() for path in paths)
        assert list(row["defects"]) == list(row["types"])


def test_missing_and_adding_more_later(tmp_path):
    folder = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    assert folder.missing(3) == [0, 1, 2]
    fill(folder, [0, 2])
    assert folder.missing(3) == [1]
    again = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    assert again.missing(3) == [1]
    assert again.missing(5) == [1, 3, 4]
    fill(again, [1, 3, 4])
    assert SampleFolder(str(tmp_path), NAMES, SETTINGS).missing(5) == []
    at_once = tmp_path / "at_once"
    fill(SampleFolder(str(at_once), NAMES, SETTINGS), range(5))
    expected = tree(at_once)
    assert {path: data for path, data in tree(tmp_path).items() if path in expected} == expected


def test_a_run_cut_off_at_any_write_goes_on_to_the_same_folder(tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    fill(SampleFolder(str(whole), NAMES, SETTINGS), range(4))
    write = sample_io.write_atomic
    for kill_at in range(30):
        root = tmp_path / f"cut_{kill_at}"
        left = kill_at

        def dying_write(path, data):
            nonlocal left
            left -= 1
            if left < 0:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                open(os.path.join(os.path.dirname(path), ".tmp-killed"), "wb").close()
                raise KeyboardInterrupt
            write(path, data)

        monkeypatch.setattr(sample_io, "write_atomic", dying_write)
        folder = SampleFolder(str(root), NAMES, SETTINGS)
        try:
            for indices in ([0, 1], [2, 3]):
                fill(folder, indices)
        except KeyboardInterrupt:
            pass
        monkeypatch.setattr(sample_io, "write_atomic", write)
        again = SampleFolder(str(root), NAMES, SETTINGS)
        for index in again.missing(4):  # another batch size
            fill(again, [index])
        assert again.missing(4) == []
        if left < 0:  # else nothing was cut off
            assert tree(root) == tree(whole), f"cut off at write {kill_at}"
    assert left >= 0, "the last try should have been long enough to run through"


def test_files_of_a_cut_off_sample_do_not_outlive_other_settings(tmp_path):
    folder = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    fill(folder, [1, 2])
    lines = (tmp_path / "manifest.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "manifest.jsonl").write_text(lines[1])  # as if sample 1 had not been completed
    images, _ = make_samples([1])
    again = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    again.add([1], images, np.zeros((1, 16, 24), np.uint8))
    assert not (tmp_path / "defects/crack/000001.png").exists()
    assert (tmp_path / "defects/hole/000002.png").exists()


@pytest.mark.parametrize(
    ("names", "changed", "said"),
    [
        (NAMES, {"step_inference": 50}, "step_inference 400, not 50"),
        (NAMES, {"image_size": (16, 32)}, "image_size [16, 24], not [16, 32]"),
        (NAMES, {"checkpoints": {"large": "a" * 64, "small": "c" * 64}}, f"small {'b' * 64}, not {'c' * 64}"),
        (NAMES, {"sampler": "ddim"}, "sampler unset, not ddim"),
        (("crack", "hole"), {}, 'class_names ["crack", "hole", "oil stain"], not ["crack", "hole"]'),
    ],
)
def test_other_settings_are_refused_and_nothing_is_written(tmp_path, names, changed, said):
    fill(SampleFolder(str(tmp_path), NAMES, SETTINGS), [0, 1])
    (tmp_path / ".tmp-left").write_bytes(b"")
    before = tree(tmp_path)
    with pytest.raises(InputError) as caught:
        SampleFolder(str(tmp_path), names, {**SETTINGS, **changed})
    assert said in str(caught.value)
    assert "--sample_dir" in str(caught.value)
    assert tree(tmp_path) == before


def test_a_folder_from_before_there_was_a_choice_is_continued(tmp_path):
    fill(SampleFolder(str(tmp_path), NAMES, SETTINGS), [0])
    assert SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "spacing": "uniform"}).missing(2) == [1]
    with pytest.raises(InputError, match="spacing uniform, not logsnr"):
        SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "spacing": "logsnr"})


def test_steps_by_network_come_back_from_the_manifest(tmp_path):
    fill(SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "num_steps": (12, 8)}), [0])
    assert SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "num_steps": [12, 8]}).missing(1) == []
    with pytest.raises(InputError, match=r"num_steps \[12, 8\], not 20"):
        SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "num_steps": 20})


def test_a_setting_that_is_gone_is_named(tmp_path):
    fill(SampleFolder(str(tmp_path), NAMES, {**SETTINGS, "eta": 0.5}), [0])
    with pytest.raises(InputError, match="eta 0.5, not unset"):
        SampleFolder(str(tmp_path), NAMES, SETTINGS)


@pytest.mark.parametrize("name", ["images", "masks", "masks_converted_dir"])
def test_a_folder_of_someone_elses_images_is_refused(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "000000.png").write_bytes(b"precious")
    with pytest.raises(InputError, match=rf"--sample_dir: .* has files in {name}/ but no manifest.jsonl"):
        SampleFolder(str(tmp_path), NAMES, SETTINGS)
    assert tree(tmp_path) == {f"{name}/000000.png": b"precious"}


@pytest.mark.parametrize("line", ['{"index": 0, "ima', "[1]", '{"index": "0", "settings": {}}', "\x00"])
def test_a_damaged_manifest_line_is_named(tmp_path, line):
    fill(SampleFolder(str(tmp_path), NAMES, SETTINGS), [0])
    with open(tmp_path / "manifest.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl: line 2 does not describe a sample"):
        SampleFolder(str(tmp_path), NAMES, SETTINGS)


def test_making_the_object_writes_nothing(tmp_path):
    SampleFolder(str(tmp_path / "new"), NAMES, SETTINGS).missing(3)
    assert os.listdir(tmp_path) == []


def test_what_does_not_fit_together_is_refused(tmp_path):
    folder = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    images, masks = make_samples([0, 1])
    for arguments in (([0], images, masks), ([0, 1], images, masks[:1]), ([0, 1], images[:, :8], masks)):
        with pytest.raises(ValueError, match="differ"):
            folder.add(*arguments)
    with pytest.raises(ValueError, match="mask index 4, but there are 3 types"):
        folder.add([0, 1], images, masks + 1)
    assert os.listdir(tmp_path) == []


def test_type_folders_are_safe_and_distinct(tmp_path):
    names = ("a/b", "a b", "..", "", "Riß-1.x", "A_B")
    mask = np.arange(7, dtype=np.uint8).repeat(2).reshape(1, 2, 7)
    folder = SampleFolder(str(tmp_path), names, {})
    folder.add([0], np.zeros((1, 2, 7, 3), np.uint8), mask)
    folders = sorted(os.listdir(tmp_path / "defects"))
    assert folders == sorted(["a_b", "a_b_2", "type_3", "type_4", "Riß-1.x", "A_B_6"])
    assert read_manifest(tmp_path)[0]["types"] == {name: 2 for name in names}


def sheet_of(tmp_path, count, size, names=NAMES, colour=(10, 200, 30), **arguments):
    """A contact sheet, uint8 [H, W, 3], of images of one colour."""
    images = np.full((count, *size, 3), colour, np.uint8)
    masks = np.zeros((count, *size), np.uint8)
    masks[:, : size[0] // 4] = 1
    folder = SampleFolder(str(tmp_path), names, {**SETTINGS, "image_size": size})
    folder.add(range(count), images, masks)
    path = folder.write_contact_sheet(**arguments)
    assert path == str(tmp_path / "contact_sheet.png")
    return read_png(path)


def count_pixels(sheet, colour):
    return int((sheet == np.array(colour, np.uint8)).all(axis=-1).sum())


@pytest.mark.parametrize(("size", "tile"), [((64, 64), (128, 128)), ((40, 60), (120, 180)), ((128, 96), (128, 96))])
def test_sheet_shows_image_and_overlay_at_a_whole_zoom(tmp_path, size, tile):
    sheet = sheet_of(tmp_path, 5, size)
    height, width = tile
    # All of the image, and three quarters of the overlay, keep the image's colour.
    assert count_pixels(sheet, (10, 200, 30)) == 5 * (height * width + height * width * 3 // 4)
    assert sheet.shape[0] < 3000 and sheet.shape[1] < 3000


def test_sheet_reduces_large_images_and_obeys_max_samples(tmp_path):
    sheet = sheet_of(tmp_path, 3, (512, 512), max_samples=2)
    expected = 2 * 256 * 256 * 7 / 4
    assert abs(count_pixels(sheet, (10, 200, 30)) - expected) < 0.02 * expected


def test_sheet_has_the_legend_of_all_types_whether_they_occur_or_not(tmp_path):
    sheet = sheet_of(tmp_path, 1, (64, 64), names=[f"type {k}" for k in range(1, 31)])
    for colour in palette(30)[1:]:
        assert count_pixels(sheet, colour) >= 50


def test_sheet_copes_with_long_names_and_many_types(tmp_path):
    names = [f"a name that is far too long for the caption of a small tile, number {k}" for k in range(1, 10)]
    mask = (np.arange(32 * 8) % 10).astype(np.uint8).reshape(1, 32, 8)
    folder = SampleFolder(str(tmp_path), names, {"note": "n" * 16, "image_size": [32, 8]})
    folder.add([0], np.zeros((1, 32, 8, 3), np.uint8), mask)
    assert read_png(folder.write_contact_sheet()).shape[1] < 1200


def test_sheet_needs_samples_and_their_files(tmp_path):
    folder = SampleFolder(str(tmp_path), NAMES, SETTINGS)
    with pytest.raises(InputError, match="holds no samples"):
        folder.write_contact_sheet()
    fill(folder, [0, 1])
    (tmp_path / "images/000001.png").unlink()
    with pytest.raises(InputError, match=r"images/000001\.png: is in manifest\.jsonl but missing"):
        folder.write_contact_sheet()


def test_everything_works_in_a_cloud_store(tmp_path, monkeypatch):
    store: dict[str, bytes] = {}

    def below(folder):
        prefix = folder.rstrip("/") + "/"
        return {path[len(prefix) :].split("/")[0] for path in store if path.startswith(prefix)}

    monkeypatch.setattr(bf, "write_bytes", store.__setitem__)
    monkeypatch.setattr(bf, "read_bytes", store.__getitem__)
    monkeypatch.setattr(bf, "exists", store.__contains__)
    monkeypatch.setattr(bf, "remove", store.__delitem__)
    monkeypatch.setattr(bf, "isdir", lambda folder: bool(below(folder)))
    monkeypatch.setattr(bf, "listdir", lambda folder: iter(below(folder)))
    monkeypatch.chdir(tmp_path)
    root = "gs://bucket/samples"
    fill(SampleFolder(root, NAMES, SETTINGS), [0, 1])
    store[f"{root}/images/000002.png"] = b"of a run cut off"
    again = SampleFolder(root, NAMES, SETTINGS)
    assert again.missing(4) == [2, 3]
    fill(again, [3])
    path = again.write_contact_sheet()
    assert Image.open(io.BytesIO(store[path])).mode == "RGB"
    assert f"{root}/images/000002.png" not in store
    assert len(store[f"{root}/manifest.jsonl"].splitlines()) == 3
    assert os.listdir(tmp_path) == []
