"""Finding and pairing files: every known layout, and what is refused."""

import json

import numpy as np
import pytest

from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts import find_samples, natural_key, read_label_map, write_released


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def relative(root, samples):
    strip = len(str(root)) + 1
    return [(s.image[strip:], s.mask.path[strip:], s.folder) for s in samples]


def test_released_layout(tmp_path):
    touch(tmp_path, "test/hole/10.png", "test/hole/9.png", "test/crack/a.jpg", "test/good/1.png")
    gt = "converted_ground_truth"
    touch(tmp_path, f"{gt}/hole/10_mask.png", f"{gt}/hole/9.png", f"{gt}/crack/a.png", "test/hole/.hidden.png")
    assert relative(tmp_path, find_samples(str(tmp_path))) == [
        ("test/crack/a.jpg", f"{gt}/crack/a.png", "crack"),
        ("test/hole/9.png", f"{gt}/hole/9.png", "hole"),
        ("test/hole/10.png", f"{gt}/hole/10_mask.png", "hole"),
    ]


@pytest.mark.parametrize("colour", ["rgb_mask", "rbg_mask"])
def test_defect_spectrum_with_types_never_takes_colour_masks(tmp_path, colour):
    touch(tmp_path, "image/cut/000.png", "image/good/000.png", "mask/cut/000_mask.png")
    touch(tmp_path, f"{colour}/cut/000_{colour}.png", f"mask/cut/000_{colour}.png", f"mask/cut/000_{colour}.jpg")
    assert relative(tmp_path, find_samples(str(tmp_path))) == [("image/cut/000.png", "mask/cut/000_mask.png", "cut")]


def test_defect_spectrum_flat(tmp_path):
    touch(tmp_path, "image/109.png", "image/00987_0047_Thick-Place.jpg", "image/Thumbs.db")
    touch(tmp_path, "mask/109_mask.png", "mask/00987_0047_Thick-Place_mask.png")
    assert relative(tmp_path, find_samples(str(tmp_path))) == [
        ("image/109.png", "mask/109_mask.png", None),
        ("image/00987_0047_Thick-Place.jpg", "mask/00987_0047_Thick-Place_mask.png", None),
    ]


def test_synthetic_layout_reads_converted_masks_only(tmp_path):
    touch(tmp_path, "images/000001.png", "masks/000001.png", "masks_converted_dir/000001.png")
    assert relative(tmp_path, find_samples(str(tmp_path))) == [
        ("images/000001.png", "masks_converted_dir/000001.png", None)
    ]


def test_image_that_is_itself_called_mask_keeps_its_own_mask(tmp_path):
    touch(tmp_path, "image/a.png", "image/a_mask.png", "mask/a.png", "mask/a_mask.png")
    pairs = relative(tmp_path, find_samples(str(tmp_path)))
    assert [(image, mask) for image, mask, _ in pairs] == [
        ("image/a.png", "mask/a.png"),
        ("image/a_mask.png", "mask/a_mask.png"),
    ]


def test_spaces_and_unicode_in_names(tmp_path):
    touch(tmp_path, "image/Loch groß/Bild 1.png", "mask/Loch groß/Bild 1_mask.png")
    assert find_samples(str(tmp_path))[0].folder == "Loch groß"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["holds no data set", "test/ + converted_ground_truth/", "images/ + masks_converted_dir/"]),
        (["test/hole/1.png"], ["test/", "no converted_ground_truth/"]),
        (["mask/1.png"], ["mask/", "no image/"]),
        (["images/1.png", "masked/1.png"], ["no masks_converted_dir/"]),
        (["image/1.png", "mask/1.png", "images/1.png", "masks/1.png"], ["more than one data set", "images/ + masks/"]),
        (["bottle/image/1.png", "bottle/mask/1.png"], ["did you mean", "bottle?"]),
        (
            ["image/1.png", "mask/1.png", "test/1.png", "converted_ground_truth/1.png"],
            ["more than one data set"],
        ),
        (["image/good/1.png", "mask/notes.txt"], ["holds no images"]),
        (["image/hole/1.png", "mask/hole/2.png"], ["image/hole/1.png", "no mask for this image"]),
        (["image/hole/1.png", "mask/cut/1.png", "image/cut/1.png"], ["image/hole/1.png", "no hole/"]),
        (["image/1.png", "mask/1.png", "mask/2.png"], ["mask/2.png", "no image for this mask"]),
        (["image/1.png", "mask/1.png", "mask/cut/1.png"], ["mask/cut/1.png", "no image", "no cut/"]),
        (["image/1.png", "mask/1_rgb_mask.png"], ["image/1.png", "no mask for this image"]),
        (["image/1.png", "image/1.jpg", "mask/1.png"], ["shares its stem"]),
        (["image/1.png", "mask/1.png", "mask/1.tif"], ["shares its stem"]),
        (["image/1.png", "mask/1.png", "mask/1_mask.png"], ["image/1.png", "two masks"]),
    ],
)
def test_refused_with_one_line(tmp_path, files, words):
    touch(tmp_path, *files)
    with pytest.raises(InputError) as caught:
        find_samples(str(tmp_path))
    for word in [str(tmp_path), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_folder_and_file_in_its_place(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        find_samples(str(tmp_path / "nowhere"))
    touch(tmp_path, "file")
    with pytest.raises(InputError, match="is not a folder"):
        find_samples(str(tmp_path / "file"))


def test_broken_link_is_named(tmp_path):
    touch(tmp_path, "mask/1.png")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match="image"):
        find_samples(str(tmp_path))


def test_natural_key_orders_numbers_by_value():
    names = ["img10", "img2", "a", "2", "10", "img2b", "img02"]
    assert sorted(names, key=natural_key) == ["2", "10", "a", "img02", "img2", "img2b", "img10"]


def test_label_map(tmp_path):
    assert read_label_map(str(tmp_path)) is None
    file = tmp_path / "dataset.json"
    file.write_text(json.dumps({"label_map": {"cut": 2, "hole": 1}}))
    assert read_label_map(str(tmp_path)) == {"cut": 2, "hole": 1}
    file.write_text("{}")
    assert read_label_map(str(tmp_path)) is None
    wrong_maps = ({"a": 0}, {"a": 1, "b": 3}, {"a": True}, {"a": 1, "b": 1}, ["a"], {})
    for text in ["[1]", "{", *(json.dumps({"label_map": wrong}) for wrong in wrong_maps)]:
        file.write_text(text)
        with pytest.raises(InputError, match="dataset.json"):
            read_label_map(str(tmp_path))


def tiny_pairs():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    mask = np.array([[0, 1], [2, 2]], np.uint8).repeat(2, 0).repeat(2, 1)
    return [(image, mask), (image[..., 0], mask * 0), (image, None)]


def test_written_data_set_is_found_again_and_left_alone(tmp_path):
    root, names, label_map = tmp_path / "out", ["cut/1", "hole/1", "good/1"], {"cut": 1, "hole": 2}
    assert write_released(str(root), names, tiny_pairs(), label_map, {"by": "test"}) == 6
    assert [sample.folder for sample in find_samples(str(root))] == ["cut", "hole"]
    assert read_label_map(str(root)) == label_map
    records = json.loads((root / "dataset.json").read_text())["images"]
    assert [record.get("types") for record in records] == [{"cut": 4, "hole": 8}, {}, None]

    assert write_released(str(root), names, tiny_pairs(), label_map, {"by": "test"}) == 0
    (root / "test/cut/1.png").write_bytes(b"cut off")
    (root / "test/cut/.tmp-left").write_bytes(b"")
    assert write_released(str(root), names, tiny_pairs(), label_map, {"by": "test"}) == 1
    assert not (root / "test/cut/.tmp-left").exists()
    with pytest.raises(InputError, match="another data set"):
        write_released(str(root), ["cut/2"], tiny_pairs()[:1], label_map, {})


def test_writing_below_a_file_is_refused(tmp_path):
    touch(tmp_path, "file")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError):
            write_released(str(out), ["cut/1"], tiny_pairs()[:1], {"cut": 1, "hole": 2}, {})
