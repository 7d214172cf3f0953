"""Prepared sets and sample folders: what is found and paired, what is refused, what is written; names and groups."""

import json

import pytest
from drawn_at_random import Draw
from drawn_formats import refusal, save

from guided_diffusion.data.files import natural_key, read_groups
from guided_diffusion.data.prepared import find_good, find_samples, match_types, read_label_map
from guided_diffusion.prepare.layouts import read_layout

GT = "converted_ground_truth"
PLAIN = ("test/1.png", f"{GT}/1.png")


def touch(root, *names):
    for name in names:
        save(root / name, b"")


@pytest.mark.parametrize(
    ("files", "expected"),  # (image, mask, name) of what trains
    [
        (  # by type and number; hidden and other files are not there
            ("test/hole/10.png", "test/hole/9.png", "test/crack/a.jpg", "test/good/1.png", "test/Thumbs.db")
            + (f"{GT}/hole/10_mask.png", f"{GT}/hole/9.png", f"{GT}/crack/a.png", "test/hole/.hidden.png"),
            [
                ("test/crack/a.jpg", f"{GT}/crack/a.png", "crack/a"),
                ("test/hole/9.png", f"{GT}/hole/9.png", "hole/9"),
                ("test/hole/10.png", f"{GT}/hole/10_mask.png", "hole/10"),
            ],
        ),
        (  # of parts the one that trains
            [f"{folder}/{part}/1.png" for folder in ("test", GT) for part in ("train", "val")],
            [("test/train/1.png", f"{GT}/train/1.png", "train_1")],
        ),
        (  # an image that is itself called mask keeps its own
            [f"{folder}/Loch groß/a b{end}.png" for folder in ("test", GT) for end in ("", "_mask")],
            [(f"test/{name}.png", f"{GT}/{name}.png", name) for name in ("Loch groß/a b", "Loch groß/a b_mask")],
        ),
    ],
)
def test_what_is_found(tmp_path, files, expected):
    touch(tmp_path, *files)
    strip = len(str(tmp_path)) + 1
    assert [(s.image[strip:], s.mask.path[strip:], s.name) for s in find_samples(str(tmp_path))] == expected
    good = [("good/1", None)] if "test/good/1.png" in files else []
    assert [(sample.name, sample.mask) for sample in find_good(str(tmp_path))] == good


@pytest.mark.parametrize("layout", ["images_masks", "mvtec", "flat", "coco"])
def test_any_other_layout_is_told_how_to_prepare_it(tmp_path, layout):
    root = tmp_path / "own data"
    Draw(layout, 0, root)
    for find in (find_samples, find_good):
        assert refusal(find, str(root)).endswith(f"python scripts/prepare_data.py '{root}' OUT")


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["no prepared data set", "test/ + converted_ground_truth/", "images/ + masks_converted_dir/"]),
        ([*PLAIN, "images/1.png", "masks_converted_dir/1.png"], ["more than one data set"]),
        (["train/test/1.png", f"train/{GT}/1.png"], ["did you mean", "train?"]),
        (["test/good/1.png", f"{GT}/notes.txt"], ["no images with defects"]),
        (["test/hole/1.png", f"{GT}/hole/2.png"], ["test/hole/1.png", "no mask for this image", "1 more"]),
        (["test/hole/1.png", f"{GT}/cut/1.png", "test/cut/1.png"], ["test/hole/1.png", f"{GT}/hole"]),
        ([*PLAIN, f"{GT}/2.png"], [f"{GT}/2.png", "no image for this mask"]),
        (["test/1.png", f"{GT}/1_rgb_mask.png"], ["test/1.png", "no mask for this image"]),
        ([*PLAIN, "test/1.jpg"], ["shares its stem"]),
        ([*PLAIN, f"{GT}/1_mask.png"], ["test/1.png", "two masks"]),
        ([*PLAIN, "dataset.unfinished.json"], ["did not finish", "prepare_data.py"]),
    ],
)
def test_refused_with_one_line(tmp_path, files, words):
    touch(tmp_path, *files)
    line = refusal(find_samples, str(tmp_path))
    assert all(word in line for word in [str(tmp_path), *words])


def test_missing_folder_file_in_its_place_and_broken_link(tmp_path):
    touch(tmp_path, "file", f"set/{GT}/1.png")
    (tmp_path / "set/test").mkdir()
    (tmp_path / "set/test/1.png").symlink_to(tmp_path / "gone.png")
    for name, words in (("nowhere", "does not exist"), ("file", "is not a folder"), ("set", "set/test")):
        assert words in refusal(find_samples, str(tmp_path / name))


def test_natural_key_orders_numbers_by_value():
    names = ["img10", "img2", "a", "2", "10", "img2b", "img02"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "img02", "img2", "img2b", "img10"]


def test_label_map(tmp_path):
    assert read_label_map(str(tmp_path)) is None
    file = tmp_path / "dataset.json"
    for label_map in ({"cut": 2, "hole": 1}, None):
        file.write_text(json.dumps({"label_map": label_map}))
        assert read_label_map(str(tmp_path)) == label_map
    wrong = (json.dumps({"label_map": m}).encode() for m in ({"a": 0}, {"a": 1, "b": 1}, {"a": True}, ["a"], {}))
    many = json.dumps({"label_map": {f"t{k}": k + 1 for k in range(300)}}).encode()
    for content in (b"[1]", b"{", b"\xff\xfe\x00", many, *wrong):
        file.write_bytes(content)
        assert "dataset.json" in refusal(read_label_map, str(tmp_path))
    matched, _ = match_types({"hole": 2, "crack": 1}, ("hole", "crack"), "data")  # in whatever order they stand
    assert matched == (0, 2, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"source": []}, "its source should be a dict"),
        ({"images": {}}, "its images should be a list"),
        ({"images": ["a.png"]}, "images[0]: names no image"),
        ({"images": [{"mask": f"{GT}/a.png"}]}, "images[0]: names no image"),
        ({"images": [{"image": "test/a.png", "source": 5}]}, "its source cannot"),
        ({"images": [{"image": "test/a.png", "types": []}]}, "its types cannot"),
        ({"images": [{"image": ["test/a.png"]}]}, "its image cannot be ['test/a.png']"),
        ({"images": [{"image": "test/a.png", "scale": ["a"]}]}, "its scale cannot be"),
        ({"images": [{"image": "test/a.png", "scale": [2.0]}]}, "its scale cannot be"),
        ({"images": [{"image": "test/a.png"}] * 2}, "lists 'test/a.png' twice"),
        *(({"images": [{"image": one}]}, "images[0]") for one in ("", "/a.png", "test/../../a.png", "x/a.png", "test")),
        ({"images": [{"image": "test/a.png", "mask": "test/a.png"}]}, f"lies outside {GT}/"),
    ],
)
def test_what_dataset_json_says_is_checked_at_the_door(tmp_path, content, words):
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    line = refusal(read_label_map, str(tmp_path))
    assert words in line and "dataset.json" in line


def test_samples_take_the_types_of_their_manifest_unless_dataset_json_names_them(tmp_path):
    files = {"image": "images/000000.png", "index_mask": "masks_converted_dir/000000.png"}
    row = {"index": 0, **files, "types": {}}
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"of": "another program"}\n')
    assert read_label_map(str(tmp_path)) is None
    touch(tmp_path, "masks_converted_dir/0.png")
    assert "manifest.jsonl: line 1" in refusal(read_label_map, str(tmp_path))
    manifest.write_text(json.dumps(row | {"settings": {"class_names": ["hole", "cut"]}}) + "\n")
    assert read_label_map(str(tmp_path)) == {"hole": 1, "cut": 2}
    touch(tmp_path, *files.values(), "images/0.png")  # 0 is the rest of a run that was killed
    for samples in (find_samples(str(tmp_path)), read_layout(str(tmp_path)).samples):
        assert [sample.name for sample in samples] == ["000000"]
    (tmp_path / "dataset.json").write_text(json.dumps({"label_map": {"cut": 1, "hole": 2}}))
    assert read_label_map(str(tmp_path)) == {"cut": 1, "hole": 2}


GROUPED = ["pit/001", "pit/002", "stain/001"]
ROWS = {"test/pit/001.png": 7, "test/pit/002.png": 7, "test/stain/001.png": 9}


@pytest.mark.parametrize(
    ("name", "text", "expected"),  # the groups, or words of the refusal
    [
        ("a.csv", "file,group\n" + "".join(f"{file}, {group}\n" for file, group in ROWS.items()), ["7", "7", "9"]),
        ("a.json", json.dumps(ROWS), ["7", "7", "9"]),
        ("s.json", json.dumps({"files": {file: {"group": group} for file, group in ROWS.items()}}), ["7", "7", "9"]),
        ("b.csv", "Imgs/001.jpg,3\n002,4\n", ["3", "4", "3"]),  # a stem alone, where it tells
        ("a.csv", "001,1\n", "names no group for the image pit/002"),
        ("a.csv", "x/001,1\ny/001,2\n002,1\n", "names no group for the image pit/001, or several"),
        ("a.json", "[1, 2]", "should hold rows 'file,group'"),
        ("a.json", '{"files": {"001": {"part": 1}}}', "should hold rows 'file,group'"),
        ("a.txt", None, "there is no such file"),
        ("a.csv", "001,\udce9\n", "is no CSV file in UTF-8"),
    ],
)
def test_groups(tmp_path, name, text, expected):
    path = str(tmp_path / name)
    if text is not None:
        (tmp_path / name).write_text(text, errors="surrogateescape")
    if isinstance(expected, list):
        assert read_groups(path, GROUPED, "--groups") == expected
    else:
        assert expected in refusal(read_groups, path, GROUPED, "--groups")


def test_groups_of_names_with_points(tmp_path):
    (tmp_path / "a.csv").write_text("pit/p_0.5,1\npit/p_0.6,2\npit/p_0.7.png,3\n")
    assert read_groups(str(tmp_path / "a.csv"), ["pit/p_0.5", "p_0.6", "pit/p_0.7"], "--groups") == ["1", "2", "3"]
