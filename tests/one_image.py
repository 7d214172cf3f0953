"""Data sets of one image, to be written with something wrong or odd about them."""

import io

from drawn_annotations import segmentation
from drawn_formats import SIZE, black_and_white, material, save, save_json
from PIL import Image

from guided_diffusion.data.index_masks import read_pair
from guided_diffusion.prepare.layouts import read_layout

PHOTOGRAPHS, MASKS = material(7)
PHOTOGRAPH, MASK = PHOTOGRAPHS[2], MASKS[2]  # of three types
BINARY = black_and_white(MASK)
POLYGON = [[4, 4, 20, 4, 20, 20, 4, 20]]


def lay(root, files):
    """Write {name: picture, bytes, or what is to be JSON}."""
    for name, content in files.items():
        if name.endswith(".json"):
            save_json(root / name, content)
        elif isinstance(content, bytes):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        else:
            save(root / name, content)


def read_all(root, options=None, rule=None):
    """All samples with their masks. Raises InputError with the first problem."""
    data = read_layout(str(root), options)
    data.check()
    return [(sample, *read_pair(sample, 255, rule)) for sample in data.samples]


def coco(segmentations=None, **changes):
    """Files of a COCO data set of one image; changes: of its lists."""
    annotations = [
        {"id": i, "image_id": 1, "category_id": 3, "segmentation": drawn}
        for i, drawn in enumerate(segmentations or [POLYGON])
    ]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "crack"}],
    }
    return {"_annotations.coco.json": {**content, **changes}, "a.png": PHOTOGRAPH}


def rle(**changes):
    return {**segmentation(MASK > 0, "compressed"), **changes}


def labelme(*shapes, image="a.png", **changes):
    drawn = [{"label": "crack", **shape} for shape in shapes]
    content = {"shapes": drawn, "imagePath": image, "imageHeight": SIZE[0], "imageWidth": SIZE[1], **changes}
    return {"a.json": content, **({image: PHOTOGRAPH} if image else {})}


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(buffer, format="PNG", exif=exif)
    return buffer.getvalue()


TRIANGLE = {"points": [[4, 4], [30, 4], [20, 30]]}
