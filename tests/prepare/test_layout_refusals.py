"""What readers of layouts refuse, in one line that names the file; what they forgive; and damaged JSON."""

import copy
import json
import random
import unicodedata
from collections import Counter

import numpy as np
import pytest
from drawn_annotations import draw_coco, draw_labelme
from drawn_formats import COLOURS, NAMES, SIZE
from one_image import (
    BINARY,
    MASK,
    MASKS,
    PHOTOGRAPH,
    PHOTOGRAPHS,
    POLYGON,
    TRIANGLE,
    coco,
    labelme,
    lay,
    read_all,
    rle,
    turned,
)

from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts import Options, find_samples, read_layout

IMAGE = {"images/a.png": PHOTOGRAPH}
COLOURED = np.array(COLOURS, np.uint8)[MASK]
UNKNOWN_COLOUR = np.where(MASK[..., None] == 3, np.array([9, 200, 200], np.uint8), COLOURED)
ONE_COLOUR_MISSING = Options(colormap=dict(zip(NAMES, COLOURS[1:], strict=True)))
REFUSED = {
    "RGB masks": (
        {**IMAGE, "masks/a.png": COLOURED},
        ["masks/a.png", "--colormap NAME1=30,30,200 NAME2=30,200,30 NAME3=200,30,30"],
    ),
    "unknown colour": (
        {**IMAGE, "masks/a.png": UNKNOWN_COLOUR},
        ["masks/a.png", f"{(MASK == 3).sum()} pixels", "9,200,200"],
        ONE_COLOUR_MISSING,
    ),
    "JPEG of colours": ({**IMAGE, "masks/a.jpg": COLOURED}, ["masks/a.jpg", "JPEG"]),
    "JPEG of indices": ({**IMAGE, "masks/a.jpg": MASK}, ["masks/a.jpg", "JPEG"]),
    "JPEG index mask": ({"image/a.png": PHOTOGRAPH, "mask/a.jpg": MASK}, ["mask/a.jpg", "JPEG"]),
    "ambiguous greys": (
        {**IMAGE, "masks/a.png": MASK * 80},
        ["masks/a.png", "0, 80, 160, 240", "--mask_values binary", "--colormap"],
    ),
    "indices and 255": (
        {**IMAGE, "masks/a.png": np.where(MASK == 3, 255, MASK).astype(np.uint8)},
        ["masks/a.png", "0, 1, 2, 255", "--mask_values binary"],
    ),
    "swapped": ({"images/a.png": BINARY, "masks/a.png": PHOTOGRAPH}, ["masks/a.png", "swapped"]),
    "swapped in MVTec": (
        {"test/crack/a.png": BINARY, "ground_truth/crack/a_mask.png": PHOTOGRAPH},
        ["ground_truth/crack/a_mask.png", "swapped"],
    ),
    "both masks": (
        {"test/crack/a.png": BINARY, "ground_truth/crack/a_mask.png": BINARY},
        ["test/crack/a.png", "swapped"],
    ),
    "mask's size": ({**IMAGE, "masks/a.png": BINARY[:-1]}, ["masks/a.png", "48 x 39", "48 x 40"]),
    "type unknown": (
        {"test/crak/a.png": PHOTOGRAPH, "ground_truth/crak/a_mask.png": BINARY},
        ["test/crak: unknown type 'crak'", "did you mean 'crack'?"],
        Options(label_map={"crack": 1, "hole": 2}),
    ),
    "type unknown to labelme": (
        labelme({**TRIANGLE, "label": "hol"}),
        ["a.json: unknown type 'hol'", "did you mean 'hole'?"],
        Options(label_map={"crack": 1, "hole": 2}),
    ),
    "type unknown to COCO": (coco(), ["coco.json: unknown type 'crack'"], Options(label_map={"hole": 1})),
    "no type in name": (
        {"001.png": PHOTOGRAPH, "001_mask.png": BINARY, "a.png": PHOTOGRAPH, "a_mask.png": BINARY},
        ["001.png", "tells no defect type", "--type_regex"],
    ),
    "two masks": ({**IMAGE, "masks/a.png": BINARY, "masks/a_mask.png": BINARY}, ["images/a.png", "two masks"]),
    "two masks beside": (
        {
            "cut/a.jpg": PHOTOGRAPH,
            "cut/a.png": BINARY,
            "cut/a_mask.png": BINARY,
            "cut/b.jpg": PHOTOGRAPH,
            "cut/b.png": BINARY,
        },
        ["cut/a.jpg", "two masks", "a.png", "a_mask.png"],
    ),
    "mask of a mask": (
        {"cut/a.png": PHOTOGRAPH, "cut/a_mask.png": BINARY, "cut/a_mask_mask.png": BINARY, "cut/a_mask_gt.png": BINARY},
        ["cut/a_mask", "two masks"],
    ),
    "mask without image": ({**IMAGE, "masks/a.png": BINARY, "masks/b.png": BINARY}, ["masks/b.png", "no image"]),
    "mask without image beside": (
        {"cut/a.png": PHOTOGRAPH, "cut/a_mask.png": BINARY, "cut/b_mask.png": BINARY},
        ["cut/b_mask.png", "no image"],
    ),
    "image without mask": (
        {"cut/a.png": PHOTOGRAPH, "cut/a_mask.png": BINARY, "cut/b.png": PHOTOGRAPH},
        ["cut/b.png", "no mask"],
    ),
    "masks and a stray folder": (
        {**IMAGE, "masks/a.png": BINARY, "masks/old/a.png": BINARY},
        ["masks/old/a.png", "no image"],
    ),
    "equal stems": (
        {**IMAGE, "images/a.jpg": PHOTOGRAPH, "masks/a.png": BINARY},
        ["images/a.", "shares its stem"],
    ),
    "equal types": (
        {"MT_cut/a.jpg": PHOTOGRAPH, "MT_cut/a.png": BINARY, "cut/a.jpg": PHOTOGRAPH, "cut/a.png": BINARY},
        ["a.jpg", "same type and stem"],
    ),
    "EXIF": (
        {"masks/a.png": BINARY, "images/a.png": turned(3)},
        ["images/a.png", "EXIF"],
    ),
    "COCO: EXIF": ({**coco(), "a.png": turned(3)}, ["a.png", "EXIF"]),
    "COCO: EXIF and no size": (
        {**coco(images=[{"id": 1, "file_name": "a.png"}]), "a.png": turned(6)},
        ["a.png", "EXIF"],
    ),
    "16 bits of 8": (
        {"images/a.png": MASK.astype("u2") * 60, "masks/a.png": BINARY},
        ["images/a.png", "16-bit", "8-bit"],
    ),
    "indices and a stray level": (
        {**IMAGE, "masks/a.png": np.where(MASK == 3, 254, MASK).astype(np.uint8)},
        ["masks/a.png", "0, 1, 2, 254"],
    ),
    "flat and folders": (
        {"a_1.png": PHOTOGRAPH, "a_1_mask.png": BINARY, "b/1.png": PHOTOGRAPH, "b/1_mask.png": BINARY},
        ["folders of such"],
    ),
    "COCO: no image": ({**coco(), "a.png": b""}, ["a.png", "not an image"]),
    "COCO: missing image": (
        coco(images=[{"id": 1, "file_name": "b.png"}]),
        ["_annotations.coco.json", "b.png", "not there"],
    ),
    "COCO: empty name": (coco(images=[{"id": 1, "file_name": ""}]), ["_annotations.coco.json", "not there"]),
    "COCO: category": (coco(categories=[{"id": 4, "name": "crack"}]), ["category 3", "does not list"]),
    "COCO: category twice": (
        coco(categories=[{"id": 3, "name": "crack"}, {"id": 3, "name": "hole"}]),
        ["two categories have the id 3"],
    ),
    "COCO: image id": (coco(images=[{"id": 2, "file_name": "a.png"}]), ["image 1", "does not list"]),
    "COCO: listed twice": (
        coco(images=[{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]),
        ["_annotations.coco.json", "a.png twice"],
    ),
    "COCO: id twice": (
        coco(images=[{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}]),
        ["two images have the id 1"],
    ),
    "COCO: list as id": (coco(images=[{"id": [1], "file_name": "a.png"}]), ["images[0]", "wrong kind"]),
    "COCO: no segmentation": (coco([[]]), ["annotation 0 on a.png", "no polygon or RLE"]),
    "COCO: short polygon": (coco([POLYGON, [[1, 2, 3, 4]]]), ["annotation 1 on a.png"]),
    "COCO: not a number": (coco([[[float("nan"), 1, 2, 3, 4, 5]]]), ["annotation 0 on a.png"]),
    "COCO: far away": (coco([[[1e300, 1, 2, 3, 4, 10**400]]]), ["annotation 0 on a.png"]),
    "COCO: size": (
        coco(images=[{"id": 1, "file_name": "a.png", "height": 39, "width": 48}]),
        ["_annotations.coco.json", "48 x 39", "48 x 40"],
    ),
    "COCO: negative size": (
        coco(images=[{"id": 1, "file_name": "a.png", "height": -40, "width": 48}]),
        ["_annotations.coco.json", "48 x -40"],
    ),
    "RLE: size": (coco([rle(size=[48, 40])]), ["_annotations.coco.json", "[48, 40]"]),
    "RLE: sum": (coco([rle(counts=[40, 40])]), ["_annotations.coco.json", "does not add up"]),
    "RLE: negative": (coco([rle(counts=[-40, 1960])]), ["_annotations.coco.json", "does not add up"]),
    "RLE: floats": (coco([rle(counts=[960.0, 960.0])]), ["_annotations.coco.json", "does not add up"]),
    "RLE: cut off": (coco([rle(counts=rle()["counts"][:-3])]), ["_annotations.coco.json", "does not add up"]),
    "RLE: endless": (coco([rle(counts="o" * 5000)]), ["_annotations.coco.json", "does not add up"]),
    "RLE: huge": (coco([rle(counts="oooooo0" * 50)]), ["_annotations.coco.json", "does not add up"]),
    "RLE: no ASCII": (coco([rle(counts="\x00\u00e9\U0001f600")]), ["_annotations.coco.json", "does not add up"]),
    "RLE: empty": (coco([rle(counts="")]), ["_annotations.coco.json", "does not add up"]),
    "labelme: shape type": (
        labelme({**TRIANGLE, "shape_type": "blob"}),
        ["a.json", "shapes[0]", "'blob'", "linestrip"],
    ),
    "labelme: list as type": (labelme({**TRIANGLE, "shape_type": ["polygon"]}), ["a.json", "shapes[0]"]),
    "labelme: two points": (labelme({"points": [[1, 2], [3, 4]]}), ["a.json", "polygon of 2 points"]),
    "labelme: bad points": (labelme({"points": [[1, 2], [3, None], [4, 5]]}), ["a.json", "list of points"]),
    "labelme: far away": (labelme({"points": [[1, 2], [3, 1e9], [4, 5]]}), ["a.json", "list of points"]),
    "labelme: no label": (labelme({**TRIANGLE, "label": ""}), ["a.json", "no label"]),
    "labelme: no image": (labelme(TRIANGLE, image=None), ["a.json", "no image"]),
    "labelme: broken embedded image": (labelme(TRIANGLE, image=None, imageData="AAAA"), ["a.json", "not an image"]),
    "labelme: no text embedded": (labelme(TRIANGLE, image=None, imageData=5), ["a.json", "embeds no image"]),
    "labelme: no bitmap": (
        labelme({"points": [[1, 2], [3, 4]], "shape_type": "mask"}),
        ["a.json", "without its bitmap"],
    ),
    "labelme: broken bitmap": (
        labelme({"points": [[1, 2], [3, 4]], "shape_type": "mask", "mask": "AAAA"}),
        ["a.json", "bitmap is broken"],
    ),
    "labelme: annotated twice": (
        {**labelme(TRIANGLE), "b.json": labelme(TRIANGLE)["a.json"]},
        ["b.json", "a.png", "a.json", "remove one"],
    ),
    "labelme: size": (labelme(TRIANGLE, imageHeight=39), ["a.json", "48 x 39", "a.png"]),
    "labelme: no JSON object": ({**labelme(TRIANGLE), "b.json": [1]}, ["b.json", "no list 'shapes'"]),
}


def refusal(root, options=None):
    with pytest.raises(InputError) as caught:
        read_all(root, options)
    line = str(caught.value)
    assert "\n" not in line and str(root) in line
    return line


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_one_line_that_names_the_file(tmp_path, case):
    files, words, *options = REFUSED[case]
    lay(tmp_path, files)
    line = refusal(tmp_path, *options)
    for word in words:
        assert word in line


FORGIVEN = {  # files -> format
    "labelme with an empty images/ inside": ({**labelme(TRIANGLE), "images/notes.txt": b""}, "labelme"),
    "labelme beside images/ of others": ({**labelme(TRIANGLE), "images/b.png": PHOTOGRAPH}, "labelme"),
    "labelme: images/ holds it": (
        {"images/a.png": PHOTOGRAPH, "images/a.json": labelme(TRIANGLE)["a.json"]},
        "labelme",
    ),
    "COCO in result.json": (
        {"result.json": coco()["_annotations.coco.json"], "images/a.png": PHOTOGRAPH, "settings.json": [1]},
        "coco",
    ),
    "COCO: file_name of another system": (
        {**coco(images=[{"id": 1, "file_name": "..\\images\\a.png"}])} | {"images/a.png": PHOTOGRAPH},
        "coco",
    ),
    "COCO: a category twice by name": (
        coco(categories=[{"id": 3, "name": "crack"}, {"id": 4, "name": "crack"}]),
        "coco",
    ),
    "COCO: one ring": (coco(POLYGON), "coco"),
    "images/ and masks/ beside other folders": (
        {**IMAGE, "masks/a.png": BINARY, "raw/b.png": PHOTOGRAPH, "docs/notes.txt": b""},
        "images_masks",
    ),
    "other suffixes": ({"images/a.JPEG": PHOTOGRAPH, "masks/a.TIF": BINARY}, "images_masks"),
    "accents stored apart": (
        {
            unicodedata.normalize("NFD", "images/Stück.png"): PHOTOGRAPH,
            unicodedata.normalize("NFC", "masks/Stück_mask.png"): BINARY,
        },
        "images_masks",
    ),
    "EXIF that the mask's size tells": ({"images/a.png": turned(6), "masks/a.png": BINARY}, "images_masks"),
    "converted beside its source": (
        {
            "test/crack/a.png": PHOTOGRAPH,
            "ground_truth/crack/a_mask.png": BINARY,
            "converted_ground_truth/crack/a.png": (BINARY > 0).astype(np.uint8),
        },
        "released",
    ),
}


@pytest.mark.parametrize("case", FORGIVEN)
def test_read_all_the_same(tmp_path, case):
    files, expected = FORGIVEN[case]
    lay(tmp_path, files)
    ((sample, image, mask),) = read_all(tmp_path)
    assert read_layout(str(tmp_path)).format == expected
    assert image.shape == (*SIZE, 3) and set(np.unique(mask)) == {0, 1}


def test_images_of_another_part_are_never_taken(tmp_path):
    content = coco(images=[{"id": 1, "file_name": "a.png"}])["_annotations.coco.json"]
    lay(tmp_path, {"annotations/instances_train2017.json": content, "images/val2017/a.png": PHOTOGRAPH})
    assert "a.png, which is not there" in refusal(tmp_path)
    lay(tmp_path, {"images/train2017/a.png": PHOTOGRAPH})
    assert [sample.image for sample in find_samples(str(tmp_path))] == [str(tmp_path / "images/train2017/a.png")]


def test_categories_are_matched_by_name_where_each_file_numbers_its_own(tmp_path):
    for part, own in (("train", {"crack": 3, "hole": 5}), ("val", {"hole": 3, "crack": 9})):
        categories = [{"id": number, "name": name} for name, number in own.items()]
        annotations = [{"image_id": 1, "category_id": own[name], "segmentation": POLYGON} for name in ("crack", "hole")]
        annotations[1]["segmentation"] = [[30, 30, 36, 30, 36, 36, 30, 36]]
        content = coco(categories=categories, annotations=annotations)["_annotations.coco.json"]
        lay(tmp_path, {f"{part}/_annotations.coco.json": content, f"{part}/a.png": PHOTOGRAPH})
    (_, _, train), (_, _, val) = read_all(tmp_path)
    assert read_layout(str(tmp_path)).label_map == {"crack": 1, "hole": 2}
    assert Counter(train.ravel().tolist()) == {0: 48 * 40 - 256 - 36, 1: 256, 2: 36}
    assert np.array_equal(train, val)


JUNK = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "\x00", "../..", "gs://x/y", [], {}, [[]], [{}], {"a": []}]


def mutate(content, rng):
    """A copy of a JSON value with one place replaced, removed or doubled."""
    content = copy.deepcopy(content)
    here, parent, key = content, None, None
    while isinstance(here, (dict, list)) and here and (parent is None or rng.random() < 0.85):
        parent, key = here, rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        here = parent[key]
    action = rng.choice(["replace", "remove", "double"])
    if action == "remove":
        del parent[key]
    elif action == "double" and isinstance(parent, list):
        parent.append(here)
    else:
        parent[key] = rng.choice(JUNK)
    return content


@pytest.mark.parametrize(
    ("draw", "options", "file"),
    [
        (draw_coco, {"kind": "polygon", "arrangement": "vision"}, "train/_annotations.coco.json"),
        (draw_coco, {"kind": "compressed", "arrangement": "single"}, "result.json"),
        (draw_coco, {"kind": "rle", "arrangement": "annotations"}, "annotations/instances_val.json"),
        (draw_labelme, {"kind": "mask"}, "1.json"),
        (draw_labelme, {"image": "embedded"}, "2.json"),
    ],
)
def test_damaged_json_is_refused_or_read(tmp_path, draw, options, file):
    draw(tmp_path, PHOTOGRAPHS[:3], MASKS[:3], NAMES, **options)
    valid = json.loads((tmp_path / file).read_text())
    rng = random.Random(0)
    outcomes = Counter()
    for turn in range(60):
        damaged = valid
        for _ in range(rng.randint(1, 3)):
            damaged = mutate(damaged, rng)
        text = json.dumps(damaged)
        (tmp_path / file).write_text(text if turn % 10 else text[: rng.randrange(len(text))])
        try:
            read_all(tmp_path)
            outcomes["read"] += 1
        except InputError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 10
