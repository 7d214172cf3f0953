"""Layouts: what is drawn in one is what its reader finds, pixel by pixel; what readers refuse and forgive."""

import copy
import json
import random
from collections import Counter

import numpy as np
import pytest
import yaml
from drawn_formats import COLOURMAP as COLOURS_OF
from drawn_formats import COLOURS, MASK, PHOTOGRAPH, SIZE, coded, png_text, refusal, save, segmentation
from PIL import Image

from guided_diffusion.data.prepared import check_problems
from guided_diffusion.errors import InputError
from guided_diffusion.prepare.layouts import Options, read_layout
from guided_diffusion.prepare.layouts.drawing import DrawingRule, read_labelled

NAMES = tuple(COLOURS_OF)
BINARY = np.where(MASK > 0, 255, 0).astype(np.uint8)
POLYGON = [[4, 4, 20, 4, 20, 20, 4, 20]]
TRIANGULAR = b"0 0.1 0.1 0.9 0.1 0.9 0.9"
TRIANGLE = {"points": [[4, 4], [30, 4], [20, 30]]}


def lay(root, files):
    for name, content in files.items():
        save(root / name, content)


def read_all(root, options=None, rule=None):
    """The image and mask of all samples. Raises InputError with the first problem."""
    data = read_layout(str(root), options)
    check_problems(data.problems)
    return [read_labelled(sample, 255, rule or data.rule).pair() for sample in data.samples]


def test_objects_of_defect_spectrum_have_their_published_types(tmp_path):
    for folder, types in {"DS-MVTec/bottle": 3, "DS-DAGM": 5, "DS-VISION/Ring": None}.items():
        lay(
            tmp_path / folder, {"image/0.png": PHOTOGRAPH, "mask/0_mask.png": MASK, "rbg_mask/0_rbg_mask.png": COLOURED}
        )
        label_map = read_layout(str(tmp_path / folder)).label_map
        assert (label_map and len(label_map)) == types
    assert read_layout(str(tmp_path / "DS-MVTec/bottle")).label_map["contamination"] == 3


def test_the_kind_of_masks_that_say_little(tmp_path):
    """One bright mask among empty ones; one mask of index 2 in type folders of ones."""
    small = PHOTOGRAPH[:8, :8]
    lay(tmp_path / "rare", {f"images/{i:02}.png": small for i in range(40)})
    masks = {f"masks/{i:02}.png": 255 * np.eye(8, dtype=np.uint8) * (i == 5) for i in range(40)}
    lay(tmp_path / "rare", masks)
    assert read_layout(str(tmp_path / "rare")).label_map == {"defect": 1}
    assert sum(mask.sum() for _, mask in read_all(tmp_path / "rare")) == 8
    for i in range(60):
        mask = np.full((8, 8), 2 if i == 7 else 1, np.uint8) * (np.arange(8) < 4)
        lay(tmp_path / "typed", {f"{at}/{NAMES[i % 2]}/{i}.png": x for at, x in (("images", small), ("masks", mask))})
    assert Counter(mask.max() for _, mask in read_all(tmp_path / "typed")) == {1: 59, 2: 1}


def box(name, left, top, right, bottom):
    return {"label": name, "shape_type": "rectangle", "points": [[left, top], [right, bottom]]}


@pytest.mark.parametrize(
    ("priority", "corner", "middle"), [((), 2, 3), ((1,), 1, 1), ((2, 1), 2, 2), ((3, 1), 1, 3), ((1, 2, 3), 1, 1)]
)
def test_overlaps_are_counted_and_decided_by_priority(tmp_path, priority, corner, middle):
    hole = box("hole", 5, 5, 14, 14), box("hole", 5, 5, 7, 7)
    lay(tmp_path, labelme(box("crack", 0, 0, 9, 9), *hole, box("scratch", 8, 8, 12, 12)))
    found = read_labelled(read_layout(str(tmp_path)).samples[0], 3, DrawingRule(priority=priority))
    assert found.overlaps == {(1, 2): 25, (1, 3): 4, (2, 3): 25}
    assert found.mask[6, 6] == corner and found.mask[8, 8] == middle
    assert (found.mask > 0).sum() == 100 + 100 - 25
    # _background_ cuts holes whatever the priority
    lay(tmp_path, labelme(box("crack", 0, 0, 9, 9), box("_background_", 3, 3, 5, 5), box("hole", 5, 5, 5, 5)))
    found = read_labelled(read_layout(str(tmp_path)).samples[0], 2, DrawingRule(priority=priority))
    assert np.bincount(found.mask.ravel()).tolist() == [48 * 40 - 92, 91, 1] and not found.overlaps


@pytest.mark.parametrize(
    ("kind", "points", "pixels", "corners"),  # top, left, bottom, right
    [
        ("rectangle", [[30, 5], [7, 20]], 16 * 24, [5, 7, 20, 30]),
        ("rectangle", [[7, 5], [30, 5], [30, 20], [7, 20]], 16 * 24, [5, 7, 20, 30]),
        ("circle", [[20, 18], [29, 18]], 277, [9, 11, 27, 29]),
        ("point", [[20, 18]], 97, [13, 15, 23, 25]),
        ("line", [[6, 16], [30, 16]], 250, [12, 6, 21, 30]),
        ("linestrip", [[6, 6], [30, 6], [30, 30]], 470, [2, 6, 30, 35]),
    ],
)
def test_labelme_shapes_lie_where_they_were_drawn(tmp_path, kind, points, pixels, corners):
    lay(tmp_path, labelme({"shape_type": kind, "points": points}))
    ((_, mask),) = read_all(tmp_path)
    where = np.argwhere(mask)
    assert mask.sum() == pytest.approx(pixels, rel=0.02)
    assert np.abs(np.array([*where.min(axis=0), *where.max(axis=0)]) - corners).max() <= 1


def coco(segmentations=None, **changes):
    """Files of a COCO data set of one image; changes: of its lists."""
    drawn = enumerate(segmentations or [POLYGON])
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 3, "segmentation": one} for i, one in drawn],
        "categories": [{"id": 3, "name": "crack"}],
    }
    return {"_annotations.coco.json": {**content, **changes}, "a.png": PHOTOGRAPH}


def boxed(box, **more):
    """A COCO data set of one box without outline."""
    return coco(annotations=[{"id": 0, "image_id": 1, "category_id": 3, "bbox": box, "segmentation": [], **more}])


def rle(**changes):
    return coco([{**segmentation(MASK > 0, "compressed"), **changes}])


def labelme(*shapes, image="a.png", **changes):
    drawn = [{"label": "crack", **shape} for shape in shapes]
    content = {"shapes": drawn, "imagePath": image, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **changes}
    return {"a.json": content, **({image: PHOTOGRAPH} if image else {})}


def encoded(label, encoding, path="a.png"):
    """labelme's files, as written by a system with another encoding than UTF-8."""
    content = labelme({**TRIANGLE, "label": label}, image=path)["a.json"]
    return {"a.json": json.dumps(content, ensure_ascii=False).encode(encoding), "a.png": PHOTOGRAPH}


def severstal(*rows, head="ImageId,ClassId,EncodedPixels"):
    return {"train.csv": "\n".join([head, *rows]).encode(), "train_images/a.jpg": PHOTOGRAPH}


def hf(label_map=None, **row):
    row = {"file_name": "a.png", "mask_file_name": "masks/a.png", "types": ["crack"], **row}
    files = {"metadata.jsonl": json.dumps(row).encode(), "a.png": PHOTOGRAPH, "masks/a.png": (BINARY > 0).astype("u1")}
    return files | ({"export.json": {"format": "hf", "label_map": label_map}} if label_map else {})


def pair(mask, image=PHOTOGRAPH, **more):
    """images/a.png and masks/a.png."""
    return {"images/a.png": image, "masks/a.png": mask, **more}


def mvtec(image, mask, name="crack"):
    return {f"test/{name}/a.png": image, f"ground_truth/{name}/a_mask.png": mask}


def beside(names, folder="cut"):
    """Files of a folder; `_mask` and PNG files are masks."""
    return {
        f"{folder}/{name}": BINARY if "_mask" in name or name.endswith("png") else PHOTOGRAPH for name in names.split()
    }


def one_file(name, **more):
    """The file list of a COCO data set."""
    return [{"id": 1, "file_name": name, **more}]


def yolo(line="0 0.1 0.1 0.9 0.1 0.9 0.9", image="images/a.png", **content):
    """Files of a YOLO data set of one image; content: of data.yaml."""
    text = yaml.safe_dump({"names": ["crack"], **content}).encode()
    return {image: PHOTOGRAPH, "labels/a.txt": line.encode(), "data.yaml": text}


def voc(mask=MASK, **more):
    return {"JPEGImages/a.png": PHOTOGRAPH, "SegmentationClass/a.png": mask, **more}


BAD_LINES = [
    *((line, "is no class with") for line in ("0 1 2", "0 .1 .1 .9 .1 .9 1.2", "0 .1 .1 .9 .1 nan .9", "0 .5 .5 0 .2")),
    *((line, "is no class with") for line in ("crack .1 .1 .9 .1 .9 .9", "0 .1 .1 .9 .1 .9 .9 .5")),
    ("1 .1 .1 .9 .1 .9 .9", "is of class 1"),
]
COLOURED = np.array(COLOURS, np.uint8)[MASK]
UNKNOWN_COLOUR = np.where(MASK[..., None] == 3, np.array([9, 200, 200], np.uint8), COLOURED)
COLOURMAP = Options(colormap=COLOURS_OF)
TWO_TYPES = Options(label_map={"crack": 1, "hole": 2})
COUNTS = [40, 40], [-40, 1960], [960.0, 960.0], "", "\x00\u00e9\U0001f600", "o" * 5000, "oooooo0" * 50
COUNTS += (segmentation(MASK > 0, "compressed")["counts"][:-3],)
X = np.zeros((2, 2), np.uint8)
OUTSIDE = ("../a.png", "a.png"), ("/etc/hostname", "hostname"), (5, "5"), ("a/../../a.png", "leads out")
IMAGE_SETS = "ImageSets/Segmentation", "ImageSets/Main"
REFUSED = [  # files, words of the line, options
    ({"notes.txt": b""}, "holds no data set|test/ + converted_ground_truth/|images/ + masks_converted_dir/"),
    ({"test/hole/1.png": X}, "test/|no converted_ground_truth/ or ground_truth/"),
    ({"images/1.png": X, "annotations.xml": b""}, "images/|annotations.xml is of no format that is read"),
    ({"x/y/a.json": labelme(TRIANGLE)["a.json"], "x/y/a.png": PHOTOGRAPH}, "did you mean|x?"),
    ({"images/1.png": X, "masked/1.png": X}, "no masks_converted_dir/"),
    ({**pair(X), "image/1.png": X, "mask/1.png": X}, "more than one data set|images/ + masks/"),
    ({f"set/train/{at}/1.png": X for at in ("images", "masks")}, "did you mean|set?"),
    ({f"Data/{at}/cut/1.png": X for at in ("Images", "Masks")}, "did you mean|Data?"),
    ({"test/cut/a.png": PHOTOGRAPH, "train/good/b.png": PHOTOGRAPH, "ground_truth/cut/b/0.png": X}, "cut/b: no image"),
    ({"test/a.png": PHOTOGRAPH, "train/a.png": PHOTOGRAPH}, "holds no data set"),
    (
        {"train/crack/a.jpg": PHOTOGRAPH, "train/crack/a.png": BINARY, "test/crack/a.jpg": PHOTOGRAPH},
        "did you mean|train?",
    ),
    ({"JPEGImages/a.png": PHOTOGRAPH, "Annotations/a.xml": b""}, "no SegmentationClass/|a.xml is of no format"),
    (
        {"images/a/a.png": PHOTOGRAPH, "json/a/a.json": labelme(TRIANGLE)["a.json"]},
        "json/a/a.json: no image of that name",
    ),
    ({f"{at}/1.png": MASK for at in ("dev/images", "dev/masks", "train_a/images", "train_a/masks")}, "|train_a?"),
    ({"image/notes.txt": b"", "mask/notes.txt": b""}, "holds no images"),
    (pair(COLOURED), "masks/a.png|--colormap NAME1=30,30,200 NAME2=30,200,30 NAME3=200,30,30"),
    (pair(UNKNOWN_COLOUR), f"masks/a.png|{(MASK == 3).sum()} pixels|9,200,200", COLOURMAP),
    ({"images/a.png": PHOTOGRAPH, "masks/a.jpg": COLOURED}, "masks/a.jpg|JPEG"),
    ({"images/a.png": PHOTOGRAPH, "masks/a.jpg": MASK}, "masks/a.jpg|compressed with loss"),
    (pair(MASK * 80), "masks/a.png|0, 80, 160, 240|--mask_values binary|--colormap"),
    (pair(PHOTOGRAPH, image=BINARY), "masks/a.png|swapped"),
    (mvtec(BINARY, PHOTOGRAPH), "ground_truth/crack/a_mask.png|swapped"),
    (mvtec(BINARY, BINARY), "test/crack/a.png|swapped"),
    (pair(BINARY[:-1]), "masks/a.png|48 x 39|48 x 40"),
    (mvtec(PHOTOGRAPH, BINARY, "crak"), "test/crak: unknown type 'crak'|did you mean 'crack'?", TWO_TYPES),
    (labelme({**TRIANGLE, "label": "hol"}), "a.json: unknown type 'hol'|did you mean 'hole'?", TWO_TYPES),
    (coco(), "coco.json: unknown type 'crack'", Options(label_map={"hole": 1})),
    (beside("001.jpg 001_mask.png a.jpg a_mask.png", "."), "001.jpg|tells no defect type|--type_regex"),
    (beside("a.jpg a.png a_mask.png b.jpg b.png"), "cut/a.jpg|two masks|a.png|a_mask.png"),
    (beside("a.jpg a_mask.jpg a_mask_mask.jpg a_mask_gt.jpg"), "cut/a_mask_|no image"),
    (beside("a.tif a_mask.png b_mask.png"), "cut/b_mask.png|called like a mask|no image"),
    (pair(BINARY, image=coded(Image.fromarray(PHOTOGRAPH), "png", 3)), "images/a.png|EXIF"),
    ({**coco(images=one_file("a.png")), "a.png": coded(Image.fromarray(PHOTOGRAPH), "png", 6)}, "a.png|EXIF"),
    (beside("a_1.jpg a_1_mask.png", ".") | beside("1.jpg 1_mask.png"), "folders of such"),
    ({**coco(), "a.png": b""}, "a.png|not an image"),
    (coco(images=one_file("b.png")), "coco.json|b.png|not there"),
    (coco(images=one_file("a.png") + [{"id": 2, "file_name": "a.png"}]), "coco.json|a.png twice"),
    (coco(images=one_file("a.png") + one_file("b.png")), "two images have the id 1"),
    (coco(images=[{"id": 2, "file_name": "a.png"}]), "does not list its image 1"),
    (coco(images=[{"id": [1], "file_name": "a.png"}]), "images[0]|right kind"),
    (coco(images=one_file("a.png", height=39, width=48)), "coco.json|48 x 39|48 x 40"),
    (coco(images=one_file("a.png", height=39.0, width="48")), "coco.json|48 x 39|48 x 40"),
    (coco(categories=[{"id": 4, "name": "crack"}]), "does not list|category 3"),
    (coco(categories=[{"id": 3, "name": name} for name in NAMES]), "two categories have the id 3"),
    (coco([[]]), "annotation 0 on a.png|no polygon or RLE"),
    (boxed([4, 4, 16, 16]), "annotation 0 on a.png has a box but no outline|--boxes fill"),
    (boxed([4, 4, 16, 16], attributes={"rotation": 30.0}), "annotation 0 on a.png|no polygon or RLE"),
    (boxed([4, 4, 0, 16]), "annotation 0 on a.png|no polygon or RLE", Options(boxes="fill")),
    (boxed([4, 4, float("nan"), 16]), "coco.json", Options(boxes="fill")),
    (coco([POLYGON, [[1, 2, 3, 4]]]), "annotation 1 on a.png"),
    (coco([[[float("nan"), 1, 2, 3, 4, 5]]]), "coco.json|NaN"),
    (coco([[[1e300, 1, 2, 3, 4, 10**400]]]), "annotation 0 on a.png"),
    (rle(size=[48, 40]), "coco.json|[48, 40]"),
    *((rle(counts=counts), "coco.json|does not add up") for counts in COUNTS),
    (labelme({**TRIANGLE, "shape_type": "blob"}), "a.json|shapes[0]|'blob'|linestrip"),
    (labelme({"points": [[1, 2], [3, 4]]}), "a.json|no polygon with|3 points"),
    (labelme({"points": [[1, 2], [3, None], [4, 5]]}), "a.json|points [x, y]"),
    (labelme({"points": [[1, 2], [3, 1e9], [4, 5]]}), "a.json|points [x, y]"),
    (labelme({**TRIANGLE, "label": ""}), "a.json|a label"),
    (labelme(TRIANGLE, image=None), "a.json|no image"),
    (labelme(TRIANGLE, image=None, imageData="AAAA"), "a.json|not an image"),
    (labelme(TRIANGLE, image=None, imageData=5), "a.json|embeds no image"),
    (labelme({"points": [[1, 2], [3, 4]], "shape_type": "mask"}), "a.json|and a bitmap"),
    (labelme({"points": [[1, 2], [3, 4]], "shape_type": "mask", "mask": "AAAA"}), "a.json|bitmap is broken"),
    ({**labelme(TRIANGLE), "b.json": labelme(TRIANGLE)["a.json"]}, "b.json|a.png, as is another file|remove"),
    (labelme(TRIANGLE, imageHeight=39), "a.json|48 x 39|a.png"),
    (encoded("Größe", "latin-1"), "a.json|not UTF-8|save it as UTF-8"),
    (encoded("царапина", "cp1251"), "a.json|not UTF-8"),
    ({"a.json": b'{"shapes": [], "imagePath": "a.p'}, "a.json|not valid JSON"),
    (severstal("b.jpg,1,1 5"), "train.csv: row 2 is of 'b.jpg', which is not there"),
    *((severstal("a.jpg,1,1 5", f"a.jpg,{row}"), "train.csv: row 3 is not") for row in ("1,5", ",1 5", "1", "1,-1 5")),
    *((severstal(f"a.jpg,1,{runs}"), "a.jpg: holds an RLE|40 x 48") for runs in ("0 5", "1920 2", "9 2 9 2")),
    (severstal("a.jpg", head="ImageId_ClassId,EncodedPixels"), "train.csv: row 2"),
    (severstal(head="ImageId,EncodedPixels"), "train.csv: has the columns ImageId,EncodedPixels, not"),
    (hf(), "metadata.jsonl: line 1|--label_map crack"),
    (hf({"hole": 1}), "metadata.jsonl: line 1|unknown type 'crack'"),
    (hf({"crack": 2}), "export.json|label_map"),
    *((hf({"crack": 1}, mask_file_name=name), f"line 1: mask_file_name|{word}") for name, word in OUTSIDE),
    (hf({"crack": 1}, file_name="b.png"), "metadata.jsonl: line 1|not there"),
    ({**labelme(TRIANGLE), "b.json": [1]}, "b.json|no list 'shapes'"),
    *((yolo(f"0 .1 .1 .9 .1 .9 .9\n\n{line}"), f"labels/a.txt: line 3 {words}") for line, words in BAD_LINES),
    (yolo("0 0.5 0.5 0.2 0.2"), "labels/a.txt: line 1|has a box but no outline|--boxes fill"),
    (yolo(image="images/b.png"), "labels/a.txt|no image"),
    (
        {"images/train/a.png": PHOTOGRAPH, "classes.txt": b"crack"}
        | {f"labels/{part}/a.txt": b"0 .1 .1 .9 .1 .9 .9" for part in ("train", "val")},
        "labels/val/a.txt: no images",
    ),
    (yolo(train="../../etc"), "data.yaml|'../../etc'|not in"),
    (yolo(train=5), "data.yaml|'5'|not in"),
    (yolo(kpt_shape=[4, 2]), "data.yaml|key points"),
    (yolo(nc=3), "data.yaml|nc is 3, but it names 1"),
    *((yolo(names=x), "data.yaml|should name") for x in ([], "crack", [True], {"a": "crack"}, ["crack", "crack"])),
    ({**yolo(), "b.yml": b"names: [hole]"}, "data.yaml|a second time"),
    ({**yolo(), "data.yaml": b""}, "classes.txt|--label_map"),
    (voc(BINARY), "SegmentationClass|255 is void|--mask_values binary"),
    (voc(**{"labelmap.txt": b"crack:1,2"}), "labelmap.txt|name:r,g,b"),
    (voc(**{"labelmap.txt": b"crack:9,9,9::\nhole:9,9,9::"}), "labelmap.txt|one colour"),
    (voc(COLOURED, **{"labelmap.txt": b"crack:200,30,30::"}), "SegmentationClass/a.png|the colour 30,30,200"),
    (voc(**{"class_names.txt": b"hole\ncrack\nscratch"}), "class_names.txt|otherwise", TWO_TYPES),
    (voc(**{f"ImageSets/Segmentation/{part}.txt": b"a" for part in ("train", "val")}), "val.txt: lists a|train"),
    *((voc(**{f"{folder}/train.txt": b"b"}), f"{folder}/train.txt: lists b") for folder in IMAGE_SETS),
    ({f"{at}/a.png": X for at in ("images", "gt", "labels")}, "one data set|images/ + gt/, images/ + labels/"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[f"{k}: {case[1]}" for k, case in enumerate(REFUSED)])
def test_refused_with_one_line_that_names_the_file(tmp_path, case):
    files, words, *options = case
    lay(tmp_path, files)
    line = refusal(read_all, tmp_path, *options)
    assert str(tmp_path) in line and all(word in line for word in words.split("|")), line


FORGIVEN = [  # files, their format
    ({**labelme(TRIANGLE), "images/notes.txt": b""}, "labelme"),
    ({**labelme(TRIANGLE), "images/b.png": PHOTOGRAPH}, "labelme"),
    ({"images/a.png": PHOTOGRAPH, "images/a.json": labelme(TRIANGLE)["a.json"]}, "labelme"),
    ({"result.json": coco()["_annotations.coco.json"], "images/a.png": PHOTOGRAPH, "settings.json": [1]}, "coco"),
    (coco(categories=[{"id": 3, "name": "crack"}, {"id": 4, "name": "crack"}]), "coco"),
    (coco(POLYGON), "coco"),
    ({**coco(images=one_file("a/a.png")), "images/a/a.png": PHOTOGRAPH, "images/a.png": X}, "coco"),
    ({"labels.json": coco()["_annotations.coco.json"], "data/a.png": PHOTOGRAPH}, "coco"),
    ({"test/crack/a.png": PHOTOGRAPH} | {f"ground_truth/crack/a/{k}.png": BINARY * (k < 1) for k in range(2)}, "mvtec"),
    ({"labels/all.json": coco()["_annotations.coco.json"], "images/a.png": PHOTOGRAPH}, "coco"),
    ({f"crack/{at}/a.png": x for at, x in (("rgb", PHOTOGRAPH), ("gt", BINARY))}, "type_folders"),
    ({"images/train/crack/a.png": PHOTOGRAPH, "masks/train/crack/a.png": BINARY}, "images_masks"),
    (rle(iscrowd=1), "coco"),
    (labelme(TRIANGLE, image=None, imageData=png_text(PHOTOGRAPH)), "labelme"),
    (labelme(TRIANGLE, {**TRIANGLE, "label": "__ignore__"}, imagePath="C:\\photographs\\b.png"), "labelme"),
    (pair(BINARY, **{"raw/b.png": PHOTOGRAPH, "docs/notes.txt": b""}), "images_masks"),
    ({**mvtec(PHOTOGRAPH, BINARY), "converted_ground_truth/crack/a.png": (BINARY > 0).astype("u1")}, "released"),
    ({"a.png": PHOTOGRAPH, "a.txt": TRIANGULAR, "classes.txt": b"crack"}, "yolo"),
    ({**yolo(), "data.yaml": b"\xef\xbb\xbfnames: [crack]\n"}, "yolo"),
    ({**yolo(), "data.yaml": b"{train: images, names: [crack]}"}, "yolo"),
    ({**yolo(), "data.yaml": b"names: {'0': crack}"}, "yolo"),
    (severstal("a.jpg,3.0,1 5"), "severstal"),
    (severstal("0,a.jpg,3,1 5", head=",ImageId,ClassId,EncodedPixels"), "severstal"),
    (labelme({"shape_type": "quadrilateral", "points": [[9, 9], [30, 9], [30, 20], [9, 20]]}), "labelme"),
    ({"obj_train_data/a.png": PHOTOGRAPH, "obj_train_data/a.txt": TRIANGULAR, "obj.names": b"crack"}, "yolo"),
]


@pytest.mark.parametrize(("files", "layout"), FORGIVEN)
def test_read_all_the_same(tmp_path, files, layout):
    lay(tmp_path, files)
    ((image, mask),) = read_all(tmp_path)
    data = read_layout(f"{tmp_path}/")
    assert data.format == layout and set(data.label_map or ()) <= {"class3", "crack", "defect"}
    assert image.shape == (*SIZE, 3) and set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize(("part", "other"), [("train2017", "val2017"), ("Batch1", "batch2")])
def test_images_of_another_part_or_subset_are_never_taken_nor_guessed(tmp_path, part, other):
    content = coco(images=one_file("a.png"))["_annotations.coco.json"]
    lay(tmp_path, {f"annotations/instances_{part.lower()}.json": content, f"images/{other}/a.png": PHOTOGRAPH})
    with pytest.raises(InputError, match=f"{part.lower()}.json: lists a.png, which is not there .*{other}/a.png is of"):
        read_all(tmp_path)
    lay(tmp_path, {"images/a.png": PHOTOGRAPH, "a.png": PHOTOGRAPH})
    with pytest.raises(InputError, match="lists a.png, which may be .*/a.png or .*/images/a.png"):
        read_all(tmp_path)
    lay(tmp_path, {f"images/{part}/a.png": PHOTOGRAPH, f"images/{part}/b.png": PHOTOGRAPH})
    data = read_layout(str(tmp_path))
    assert [sample.image for sample in data.samples] == [str(tmp_path / f"images/{part}/a.png")]
    assert data.unlabelled == [str(tmp_path / f"images/{part}/b.png")]


def test_names_in_coco_and_labelme_files_lead_nowhere_else(tmp_path):
    """Images are looked for below SOURCE only, whatever the path says."""
    save(tmp_path / "secret/a.png", PHOTOGRAPH)
    paths = f"{tmp_path}/secret/a.png", "../secret/a.png", "..\\secret\\a.png", "a/../../secret/a.png"
    for k, path in enumerate(paths):
        for files in (coco(images=one_file(path)), labelme(TRIANGLE, image=None, imagePath=path)):
            root = tmp_path / f"{k}{len(files)}"
            lay(root, {name: content for name, content in files.items() if name.endswith("json")})
            with pytest.raises(InputError, match="not there|no image of that name"):
                read_all(root)


def test_paths_in_data_yaml_stay_in_the_data_set_but_for_its_own_links(tmp_path):
    lay(tmp_path / "away", yolo())
    for told in ("../away/images", str(tmp_path / "away/images"), "link/images"):
        lay(tmp_path / "in", {"data.yaml": yaml.safe_dump({"names": ["crack"], "train": told}).encode()})
        if told == "link/images":
            (tmp_path / "in/link").symlink_to(tmp_path / "away")
            assert len(read_all(tmp_path / "in")) == 1
        else:
            with pytest.raises(InputError, match="which is not in"):
                read_layout(str(tmp_path / "in"))


JUNK = [None, True, -1, 0, 10**400, 1e308, float("nan"), "", "\x00", "../..", "gs://x/y", [], {}, [[]], [{}], {"a": []}]


def damage(content, rng):
    """Replace, remove or double one place in a JSON value."""
    key = rng.choice(list(content) if isinstance(content, dict) else range(len(content)))
    if isinstance(content[key], (dict, list)) and content[key] and rng.random() < 0.85:
        damage(content[key], rng)
    elif (action := rng.choice(["replace", "remove", "double"])) == "remove":
        del content[key]
    elif action == "double" and isinstance(content, list):
        content.append(content[key])
    else:
        content[key] = copy.deepcopy(rng.choice(JUNK))


@pytest.mark.parametrize("format", ["coco", "labelme", "labelme embedded"])
def test_damaged_json_is_refused_or_read(tmp_path, format):
    bitmap = {"shape_type": "mask", "points": [[0, 0], [47, 39]], "mask": png_text(BINARY)}
    files = {
        "coco": coco([POLYGON, segmentation(MASK > 0, "rle"), segmentation(MASK > 0, "compressed")]),
        "labelme": labelme(TRIANGLE, bitmap),
        "labelme embedded": labelme(TRIANGLE, bitmap, image=None, imageData=png_text(PHOTOGRAPH)),
    }[format]
    lay(tmp_path, files)
    assert len(read_all(tmp_path)) == 1
    file = next(name for name in files if name.endswith("json"))
    valid = json.dumps(files[file])
    rng, refused = random.Random(0), 0
    for turn in range(60):
        damaged = json.loads(valid)
        for _ in range(rng.randint(1, 3)):
            damage(damaged, rng)
        text = json.dumps(damaged)
        (tmp_path / file).write_text(text if turn % 10 else text[: rng.randrange(len(text))])
        try:
            read_all(tmp_path)
        except InputError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


def test_labels_in_chinese_need_not_be_utf8(tmp_path):
    for label in ("裂纹", "瑕疵1", "crack裂纹"):
        lay(tmp_path, encoded(label, "gbk", path="C:\\图\\a.png"))
        data = read_layout(str(tmp_path))
        assert data.label_map == {label: 1} and len(data.samples) == 1 and not data.problems
        assert data.notes == [f"1 labelme files are not UTF-8: read as Chinese (GBK), with labels {label}"]


def test_folders_name_types_where_each_has_an_index_of_its_own(tmp_path):
    for name, index in (("crack", 2), ("hole", 1)):
        mask = np.where(MASK > 0, np.uint8(index), 0)
        lay(tmp_path, {f"images/{name}/a.png": PHOTOGRAPH, f"masks/{name}/a.png": mask})
    assert [int(mask.max()) for _, mask in read_all(tmp_path)] == [1, 2]
    assert read_layout(str(tmp_path)).label_map == {"crack": 1, "hole": 2}


def test_another_source_is_mentioned_and_masks_beside_are_no_photographs(tmp_path):
    lay(tmp_path / "both", pair(BINARY, **{"annotations.json": coco()["_annotations.coco.json"]}))
    assert "could be images_masks" in read_layout(str(tmp_path / "both")).notes[0]
    lay(tmp_path / "two", pair(BINARY, **{"labels/a.png": BINARY}))
    assert "labels: is not read" in read_layout(str(tmp_path / "two")).notes[0]
    lay(tmp_path / "hf", hf({"crack": 1}, mask_file_name="a_mask.png") | {"a_mask.png": BINARY // 255})
    lay(tmp_path / "labelme", labelme(TRIANGLE) | {"a_mask.png": BINARY})
    lay(tmp_path / "voc", voc(**{f"Segmentation{kind}/a.png": MASK for kind in ("Object", "ClassVisualization")}))
    found = (read_layout(str(tmp_path / name)) for name in ("hf", "labelme", "voc"))
    assert not any(data.unlabelled or data.unread for data in found)


@pytest.mark.parametrize(
    ("files", "more"),  # where nothing is read
    [
        (pair(BINARY), "images/cam1/x/b.png"),
        (mvtec(PHOTOGRAPH, BINARY), "train/crack/b.png"),
        (mvtec(PHOTOGRAPH, BINARY), "test/crack/more/b.png"),
        (mvtec(PHOTOGRAPH, BINARY), "test/good/more/b.png"),
        (coco(), "batch2/b.png"),
        (voc(), "JPEGImages/cam1/b.png"),
        (labelme(TRIANGLE), "x/y/b.png"),
        (beside("a.jpg a.png"), "cut/more/b.jpg"),
    ],
)
def test_images_that_are_not_read_are_told(tmp_path, files, more):
    free = {"train/good/c.jpg": PHOTOGRAPH, "train/good/c.png": 0 * BINARY} if "test/crack/a.png" in files else {}
    lay(tmp_path, files | free)
    assert not read_layout(str(tmp_path)).unread
    lay(tmp_path, {more: PHOTOGRAPH})
    data = read_layout(str(tmp_path))
    assert data.unread == [f"{tmp_path}/{more}"]
    assert any(note.startswith(f"1 images lie where {data.format} is not read") for note in data.notes)


@pytest.mark.parametrize(
    ("files", "image", "mask"),
    [
        (mvtec(PHOTOGRAPH, BINARY), "test/good/g.png", "ground_truth/good/g_mask.png"),
        (pair(BINARY), "images/good/g.png", "masks/good/g.png"),
        (beside("a.jpg a.png"), "good/g.jpg", "good/g.png"),
        ({"crack_1.jpg": PHOTOGRAPH, "crack_1.png": BINARY}, "good_1.jpg", "good_1.png"),
    ],
)
def test_a_drawn_mask_of_a_good_image_is_a_problem(tmp_path, files, image, mask):
    lay(tmp_path, files | {image: PHOTOGRAPH, mask: 0 * BINARY})
    data = read_layout(str(tmp_path))
    assert not data.problems and [one.image for one in data.good] == [f"{tmp_path}/{image}"]
    lay(tmp_path, {mask: BINARY // 255})
    text = "shows a defect, but its image is called good; move the image, or remove the mask"
    assert f"{tmp_path}/{mask}: {text} [1 in all]" in read_layout(str(tmp_path)).problems


def test_names_of_roboflows_masks_are_those_of_its_classes(tmp_path):
    for part in ("train", "valid"):
        classes = b"Pixel Value, Class\n0, background\n1, hole\n2, crack\n3, scratch\n"
        lay(tmp_path / part, {f"{part}.jpg": PHOTOGRAPH, f"{part}_mask.png": MASK, "_classes.csv": classes})
    assert read_layout(str(tmp_path)).label_map == {"hole": 1, "crack": 2, "scratch": 3}
    given = Options(label_map={name: index for index, name in enumerate(NAMES, 1)})
    assert np.array_equal(read_all(tmp_path, given)[0][1], np.array([0, 2, 1, 3])[MASK])
    lay(tmp_path, {"valid/_classes.csv": b"Pixel Value, Class\n1, crack\n2, hole\n"})
    assert "valid/_classes.csv: numbers the types otherwise" in refusal(read_all, tmp_path)


def test_types_of_coco_are_numbered_by_their_ids_whichever_file_shows_them(tmp_path):
    for part, id_, name in (("train", 7, "hole"), ("valid", 3, "crack")):
        content = coco(categories=[{"id": id_, "name": name}])
        content["_annotations.coco.json"]["annotations"][0]["category_id"] = id_
        lay(tmp_path / part, content | {"a.png": np.full_like(PHOTOGRAPH, id_)})
    assert read_layout(str(tmp_path)).label_map == {"crack": 1, "hole": 2}


def test_images_without_annotations_in_folders_of_good_ones_are_good(tmp_path):
    lay(tmp_path, labelme(TRIANGLE) | {"ok/b.png": PHOTOGRAPH})
    data = read_layout(str(tmp_path))
    assert not data.unlabelled and [one.name for one in data.good] == ["good/b"]


def test_good_images_of_mvtec_are_of_the_part_that_their_folder_is_called_after(tmp_path):
    free = {f"{part}/good/a.png": PHOTOGRAPH for part in ("train", "validation", "test")}  # as LOCO has
    lay(tmp_path, mvtec(PHOTOGRAPH, BINARY) | free)
    lay(tmp_path, {"test/crack/c.png": PHOTOGRAPH, "ground_truth/crack/c.png": BINARY})
    lay(tmp_path, {"ImageSets/train.txt": b"c"})  # which names no good ones
    data = read_layout(str(tmp_path))
    assert [one.part for one in data.good] == ["test", "train", "val"]
    assert [one.part for one in data.samples] == [None, "train"]


def test_flags_of_labelme_say_that_there_is_more(tmp_path):
    lay(tmp_path, labelme(TRIANGLE) | {"b.json": labelme(flags={"crack": True})["a.json"], "b.png": PHOTOGRAPH})
    lay(tmp_path, {"c.json": labelme(flags={"ok": True, "crack": False})["a.json"], "c.png": PHOTOGRAPH})
    data = read_layout(str(tmp_path))
    assert data.unlabelled == [f"{tmp_path}/b.png"] and [one.name for one in data.good] == ["good/c"]


def test_subsets_of_cvat_are_parts(tmp_path):
    for part, parts in (("train", {None}), ("valid", {"train", "val"})):  # the first alone is all
        home = f"obj_{part}_data"
        lay(tmp_path, {f"{home}/{part}.png": PHOTOGRAPH, f"{home}/{part}.txt": TRIANGULAR, "obj.names": b"crack"})
        assert {one.part for one in read_layout(str(tmp_path)).samples} == parts


def test_folders_of_images_tell_parts_where_one_file_lists_all(tmp_path):
    lay(tmp_path, coco(images=one_file("train/b.png") + [{"id": 2, "file_name": "valid/a.png"}]))
    lay(tmp_path, {"train/b.png": PHOTOGRAPH, "valid/a.png": PHOTOGRAPH})
    assert {one.name: one.part for one in read_layout(str(tmp_path)).samples + read_layout(str(tmp_path)).good} == {
        "b": "train",
        "good/a": "val",
    }


@pytest.mark.parametrize("layout", ["yolo", "images_masks"])
def test_lists_beside_tell_parts(tmp_path, layout):
    yolo = {"0.png": PHOTOGRAPH, "0.txt": TRIANGULAR}, {"1.png": PHOTOGRAPH, "1.txt": TRIANGULAR, "obj.names": b"crack"}
    for k in range(2):
        masks = {f"images/{k}.png": PHOTOGRAPH, f"masks/{k}_mask.png": BINARY}
        lay(tmp_path, yolo[k] if layout == "yolo" else masks)
    lay(tmp_path, {"train.txt": b"images/0.png masks/0_mask.png\n", "val.txt": b"1\nas others"})
    data = read_layout(str(tmp_path))  # lists of a larger set
    told = f"{tmp_path}/val.txt: lists as others, which is not there (1 in all): passed over"
    assert ([one.part for one in data.samples], data.problems, data.notes) == (["train", "val"], [], [told])
    lay(tmp_path, {"val.txt": b"images/1.png 3\n", "test.txt": b"1"})
    assert "lists 1, as the list of" in read_layout(str(tmp_path)).problems[0]
    (tmp_path / "test.txt").unlink()
    assert [one.part for one in read_layout(str(tmp_path)).samples] == ["train", "val"]
    for train in (b"of nothing here", b"0\nelsewhere"):  # which alone says nothing
        lay(tmp_path, {"train.txt": train, "val.txt": b""})
        data = read_layout(str(tmp_path))
        assert ([one.part for one in data.samples], data.problems, data.notes) == ([None, None], [], [])
    lay(tmp_path, {"splits/test_list.txt": b"1"})
    assert [one.part for one in read_layout(str(tmp_path)).samples] == [None, "test"]


def test_lists_of_voc_tell_parts_and_its_void_is_background(tmp_path):
    lay(tmp_path, voc(np.where(MASK == 3, np.uint8(255), MASK), **{"JPEGImages/b.png": PHOTOGRAPH}))
    lay(tmp_path, {"JPEGImages/c_0.5mm.png": PHOTOGRAPH, "SegmentationClass/c_0.5mm.png": MASK})
    names = b"__ignore__\n_background_\ncrack\nhole"
    lay(tmp_path, {"ImageSets/Segmentation/val.txt": b"a\nb\nc_0.5mm\n", "class_names.txt": names})
    data = read_layout(str(tmp_path))
    assert [sample.part for sample in data.samples] == ["val"] * 2 and not data.problems
    assert data.label_map == {"crack": 1, "hole": 2}
    assert np.array_equal(read_all(tmp_path)[0][1], np.where(MASK == 3, 0, MASK))
