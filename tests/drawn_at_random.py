"""Small data sets drawn at random in every layout: sizes, modes, depths, file formats, orientations, mask values, names.

`Draw(layout, seed, root)` writes one below `root` and knows what preparing it must give. `excuses` says what of it may
be refused; without one, a refusal is wrong.
"""

import base64
import io
import json
import unicodedata
import zlib
from collections.abc import Iterator

import numpy as np
from drawn_formats import row_runs, save, segmentation
from PIL import Image, ImageFilter

ORIENTATION = 0x0112
TURNS = {  # what EXIF's orientations ask of a viewer
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "jpg": ("L", "RGB", "CMYK"),
    "bmp": ("1", "L", "P", "RGB"),
    "tif": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "webp": ("RGB", "RGBA"),
}
FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP"}
STEMS = ("{:03}", "IMG {}", "Stück é {}", "部品{}", "a.b.{}", "0{}-x", "Ärger_{}", "{}(1)")
TYPES = ("crack", "hole", "Thick-Place", "Öl fleck", "裂纹", "0.5mm", "a.b", "CUT", "2nd é", "bent_wire")
PLAIN = ("png", "bmp", "tif")
ENDINGS = ("", "_mask", "_label", "_gt", "_seg")
BINARY = {  # how a mask uint8 [H, W] of 0 and 1 is saved, and as what
    "0/255": (lambda m: Image.fromarray(255 * m), "png bmp tif webp"),
    "0/1": (Image.fromarray, "png bmp tif"),
    "1": (lambda m: Image.fromarray(m > 0), "png bmp tif"),
    "P": (lambda m: with_palette(m, (0, 0, 0), (255, 255, 255)), "png bmp tif"),
    "P inverted": (lambda m: with_palette(1 - m, (255, 255, 255), (0, 0, 0)), "png bmp tif"),
    "P maroon": (lambda m: with_palette(m, (0, 0, 0), (128, 0, 0)), "png bmp tif"),
    "RGB": (lambda m: Image.fromarray(255 * m).convert("RGB"), "png bmp tif webp"),
    "RGBA": (lambda m: Image.fromarray(255 * m).convert("RGBA"), "png tif webp"),
    "16 bits": (lambda m: Image.fromarray(m * np.uint16(65535)), "png tif"),
    "0/1 in 16 bits": (lambda m: Image.fromarray(m.astype(np.uint16)), "png tif"),
}
FILES = {  # image, mask, good; what the masks are; many variants each
    "released": [
        ("test/{type}/{stem}", "converted_ground_truth/{type}/{stem}{end}", "test/good/{stem}", "index"),
        ("test/{stem}", "converted_ground_truth/{stem}{end}", "test/good/{stem}", "index"),
    ],
    "defect_spectrum": [
        ("image/{type}/{stem}", "mask/{type}/{stem}_mask", "image/good/{stem}", "index"),
        ("image/{stem}", "mask/{stem}_mask", None, "index"),
        ("image/{part}/{stem}", "mask/{part}/{stem}_mask", None, "index"),
    ],
    "synthetic": [("images/{stem}", "masks_converted_dir/{stem}", None, "index")],
    "images_masks": [
        *((f"{a}/{{stem}}", f"{b}/{{stem}}{{open}}", None, "any") for a, b in (("images", "masks"), ("imgs", "masks"))),
        ("images/{type}/{stem}", "masks/{type}/{stem}{open}", "images/good/{stem}", "binary"),
        ("img_dir/{part}/{stem}", "ann_dir/{part}/{stem}", None, "any"),
        ("images/{stem}", "masks/{type}/{stem}", "images/{stem}", "binary"),
    ],
    "mvtec": [
        ("test/{type}/{stem}", "ground_truth/{type}/{stem}_mask", "train/good/{stem}", "binary"),
        ("test/{type}/{stem}", "ground_truth/{type}/{stem}", "test/good/{stem}", "binary"),
    ],
    "dagm": [("{type}/{Part}/{stem}", "{type}/{Part}/Label/{stem}_label", "{type}/{Part}/{stem}", "binary")],
    "type_folders": [
        ("{type}/{stem}", "{type}/{stem}{marked}", "good/{stem}", "binary"),
        ("MT_{type}/Imgs/{stem}.jpg", "MT_{type}/Imgs/{stem}.png", "MT_Free/Imgs/{stem}.jpg", "binary"),
        ("{type}/images/{stem}", "{type}/masks/{stem}{open}", "good/images/{stem}", "binary"),
    ],
    "flat": [
        ("{type}_{k:03}", "{type}_{k:03}{marked}", "good_{k:03}", "binary"),
        ("{type}~{stem}.jpg", "{type}~{stem}.png", "good~{stem}.jpg", "binary"),
    ],
}
FLAT_TYPES = ("crack", "hole", "Thick-Place", "裂纹", "CUT", "bent_wire")  # which names tell without a regular expression
COCO = (
    ("_annotations.coco.json", ""),
    ("{part}/_annotations.coco.json", "{part}/"),
    ("annotations/instances_{part}.json", "images/{part}/"),
    ("annotations/instances_{part}.json", "images/"),
    ("result.json", "images/"),
)


def coded(image: Image.Image, suffix: str, orientation: int = 1) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[ORIENTATION] = orientation
    more = {} if orientation == 1 else {"exif": exif}
    image.save(buffer, FORMATS[suffix], quality=95, lossless=True, exact=True, **more)
    return buffer.getvalue()


def with_palette(values: np.ndarray, *colours: tuple[int, ...]) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


class Draw:
    """args: for prepare_data.py. expected: by source, the pixels [H, W, 3] and {type: bool [H, W]}, None of a
    defect-free image. excuses: what of the draw may be refused."""

    def __init__(self, layout: str, seed: int, root):
        self.rng = np.random.default_rng([zlib.crc32(layout.encode()), seed])
        self.layout, self.root, self.args, self.excuses, self.expected = layout, root, [], set(), {}
        self.upright, self.depth = self.maybe(0.5), self.pick((8, 10, 12, 16))  # how masks were drawn; of 16-bit images
        if self.maybe(0.5):
            self.args += ["--format", layout]
        self.count = int(self.rng.integers(2, 4))
        {"coco": self.coco, "labelme": self.labelme}.get(layout, self.files)()
        if self.maybe(0.1):
            for junk in ("Thumbs.db", ".DS_Store", "@eaDir/x.png", "__MACOSX/._x.png"):
                save(root / junk, b"junk")

    def maybe(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def names(self, pool=TYPES) -> list[str]:
        return [pool[k] for k in self.rng.choice(len(pool), min(self.count, int(self.rng.integers(1, 4))), replace=False)]

    def formed(self, text: str) -> str:
        return unicodedata.normalize(self.pick(("NFC", "NFD")), text)

    def photograph(self, template: str) -> tuple[bytes, np.ndarray, int, str]:
        """A file, its pixels as stored, the orientation that EXIF gives it, and its suffix."""
        suffix = "jpg" if template.endswith("jpg") else self.pick((*MODES,))
        size = (1, int(self.rng.integers(8, 40))) if self.maybe(0.1) else tuple(self.rng.integers(8, 41, 2).tolist())
        size = size[:: self.pick((1, -1))]
        orientation = 1 if suffix == "bmp" or self.maybe(0.6) else int(self.rng.integers(2, 9))
        mode, noise = self.pick(MODES[suffix]), self.rng.integers(0, 256, (*size, 4), dtype=np.uint8)
        if mode == "I;16":
            top = 2**self.depth - 1
            noise = self.rng.integers(0, top + 1, size, dtype=np.uint16)
            noise.flat[self.rng.integers(noise.size)] = top
            image, pixels = Image.fromarray(noise), np.repeat(noise[..., None] * (255 / top), 3, axis=2)
            self.excuses |= {f"{self.depth} bits"} if self.depth < 16 else set()
        elif mode == "P":
            palette = self.rng.integers(0, 256, (256, 3), dtype=np.uint8)
            image, pixels = with_palette(noise[..., 0], *palette), palette[noise[..., 0]]
        elif mode == "1":
            image, pixels = Image.fromarray(noise[..., 0] > 127), 255 * (noise[..., [0] * 3] > 127)
            self.excuses.add("a photograph in black and white")
        else:
            noise = np.ascontiguousarray(noise[..., : Image.getmodebands(mode)])
            image = Image.frombytes(mode, size[::-1], noise.tobytes())
            pixels = np.asarray(image.convert("RGB")) if mode == "CMYK" else noise[..., [0] * 3 if mode < "P" else [0, 1, 2]]
        data = coded(image, suffix, orientation)
        if suffix == "jpg":
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        return data, pixels, orientation, suffix

    def turned(self, pixels: np.ndarray, orientation: int, upright: bool, told: bool = False) -> np.ndarray:
        """The pixels the way up that a mask has. told: the layout says whether it follows EXIF; else its size may."""
        if not told and orientation > 1 and (orientation < 5 or pixels.shape[0] == pixels.shape[1]):
            self.excuses.add("a turn that the mask does not tell")
        return TURNS[orientation](pixels) if upright else pixels

    def regions(self, size: tuple[int, int], own: int, others: tuple[int, ...] = ()) -> np.ndarray:
        """Index mask uint8 [H, W] of a rectangle of type `own`, and maybe one of another type."""
        mask = np.zeros(size, np.uint8)
        for index in [*([self.pick(others)] if others and self.maybe(0.5) else []), own]:
            (top, bottom), (left, right) = (sorted(self.rng.choice(side + 1, 2, replace=False)) for side in size)
            mask[top:bottom, left:right] = index
        return mask

    def put(self, template: str, words: dict, suffix: str, data: bytes) -> str:
        path = template.format(**words | {"stem": self.formed(words["stem"])})
        if not path.endswith((".jpg", ".png")):
            path += "." + (suffix.upper() if self.maybe(0.1) else suffix)
        save(self.root / path, data)
        return path

    def index_style(self, count: int):
        style = self.pick(("L", "P", "16", "1" if count == 1 else "L", "void"))
        palette = np.vstack([[0, 0, 0], self.rng.integers(50, 256, (255, 3))])
        if style == "void":
            if self.maybe(0.7):
                self.args += ["--void", "255"]
            else:
                self.excuses.add("void without a flag")

        def draw(mask):
            if style == "1":
                return Image.fromarray(mask > 0), PLAIN, mask
            if style == "16":
                return Image.fromarray(mask.astype(np.uint16)), ("png", "tif"), mask
            file, seen = mask.copy(), mask
            if style == "void":
                file[0, 0] = file[-1, -1] = 255
                seen = mask * (file < 255)
            return with_palette(file, *palette) if style != "L" and self.maybe(0.5) else Image.fromarray(file), PLAIN, seen

        return draw

    def binary_style(self, sure: bool):
        style = self.pick((*BINARY, "mixed", "soft", "jpg"))
        self.excuses |= {style} if style in ("mixed", "soft") or (style == "jpg" and not sure) else set()

        def draw(mask):
            of_type = (mask > 0).astype(np.uint8)
            if style in BINARY:
                image, suffixes = BINARY[style]
                return image(of_type), suffixes.split(), mask
            if style == "mixed":
                return Image.fromarray(of_type * np.uint8(self.pick((1, 255)))), PLAIN, mask
            image = Image.fromarray(of_type * np.uint8(255))
            if style == "soft":
                image = image.filter(ImageFilter.GaussianBlur(0.6))
                return image, PLAIN, mask.max() * (np.asarray(image) > 127)
            return image, ("jpg",), None

        return draw

    def colour_style(self, types: list[str]):
        grey = self.maybe(0.4)
        colours = 20 * self.rng.choice(np.arange(1, 13), (len(types), 3), replace=False)
        colours = np.vstack([[0, 0, 0], colours[:, :1].repeat(3, axis=1) if grey else colours]).astype(np.uint8)
        told = (",".join(map(str, colour[:1] if grey else colour)) for colour in colours[1:].tolist())
        self.args += ["--colormap", *(f"{name}={colour}" for name, colour in zip(types, told, strict=True))]

        def draw(mask):
            if self.maybe(0.3):
                return with_palette(mask, *colours), PLAIN, mask
            return Image.fromarray(colours[mask][..., 0] if grey else colours[mask]), (*PLAIN, "webp"), mask

        return draw

    def files(self) -> None:
        image_at, mask_at, good_at, kind = self.pick(FILES[self.layout])
        types = self.names(FLAT_TYPES if "{type}_" in image_at else TYPES)
        types = ["Class1", "class2", "Class3"][: len(types)] if self.layout == "dagm" else types
        self.args += ["--type_regex", "^(.+)~"] if "~" in image_at else []
        kind = self.pick(("index", "binary", "colour")) if kind == "any" else kind
        if kind == "index":
            style, told = self.index_style(len(types)), self.pick(("flag", "file", ""))
            self.args += ["--label_map", ",".join(types)] if told == "flag" else []
            if told == "file":
                save(self.root / "dataset.json", {"label_map": {name: k for k, name in enumerate(types, 1)}})
            names = types if told else [f"defect_{k}" for k in range(1, 4)]
        elif kind == "binary":
            style, names = self.binary_style("{type}" in mask_at), types
            if "{type}" not in mask_at:
                types = names = ["defect"]
        else:
            style, names = self.colour_style(types), types
        stem, twins = self.pick(STEMS), self.maybe(0.3) and ("{type}/" in image_at or "{part}" in image_at)
        words = {"end": self.pick(("", "_mask")), "marked": self.pick(ENDINGS[1:]), "open": self.pick(ENDINGS)}
        form, empty = self.pick(("NFC", "NFD")), self.count if self.maybe(0.2) else None
        for k in range(self.count + (empty is not None)):
            words |= {"type": unicodedata.normalize(form, types[k % len(types)]), "k": k}
            words |= {"part": ("train", "val")[k % 2], "Part": ("Train", "Test")[k % 2]}
            twin = k // (len(types) if "{type}" in image_at else 2) if twins else k
            words["stem"] = stem.format(twin)
            data, pixels, orientation, suffix = self.photograph(image_at)
            source = self.put(image_at, words, suffix, data)
            pixels = self.turned(pixels, orientation, self.upright)
            others = () if kind == "binary" else tuple(range(1, len(types) + 1))
            mask = self.regions(pixels.shape[:2], 1 + k % len(types), others) * np.uint8(k != empty)
            image, suffixes, seen = style(mask)
            suffix = "png" if mask_at.endswith("png") else self.pick(suffixes)
            data = coded(image, suffix)
            if seen is None:
                seen = mask.max() * (np.asarray(Image.open(io.BytesIO(data)).convert("L")) > 127)
            self.put(mask_at, words, suffix, data)
            self.expected[source] = pixels, {names[i - 1]: seen == i for i in np.unique(seen[seen > 0]).tolist()}
        if good_at and self.maybe(0.3):
            words |= {"stem": stem.format(90), "k": 90}
            data, pixels, orientation, suffix = self.photograph(good_at)
            self.expected[self.put(good_at, words, suffix, data)] = TURNS[orientation](pixels), None

    def coco(self) -> None:
        file_at, home = self.pick(COCO)
        types, ids = self.names(), sorted(self.rng.choice(20, 3, replace=False).tolist())
        parts = ("train", "val") if "{part}" in file_at else ("",)
        stem, kind = self.pick(STEMS), self.pick(("polygon", "rle", "compressed"))
        categories = [{"id": key, "name": name} for key, name in zip(ids, types, strict=False)]
        for part in parts:
            content = {"images": [], "annotations": [], "categories": categories}
            for k in range(self.count):
                data, pixels, orientation, suffix = self.photograph("")
                name = stem.format(k if home.endswith("{part}/") else f"{part}{k}")
                source = self.put(home + "{stem}", {"part": part, "stem": name}, suffix, data)
                pixels = TURNS[orientation](pixels) if k == 2 else self.turned(pixels, orientation, self.upright)
                (height, width), name = pixels.shape[:2], self.formed(source.removeprefix(home.format(part=part)))
                row = {"id": 9 - k, "height": height, "width": width}
                content["images"].append({**row, "file_name": self.pick(("", "images/", "..\\images\\")) + name})
                if k == 2:
                    self.expected[source] = pixels, None
                    continue
                mask = self.regions((height, width), 1 + k % len(types), tuple(range(1, len(types) + 1)))
                self.expected[source] = pixels, {types[i - 1]: mask == i for i in np.unique(mask[mask > 0]).tolist()}
                for i in np.unique(mask[mask > 0]).tolist():
                    row = {"id": len(content["annotations"]), "image_id": 9 - k, "category_id": ids[i - 1]}
                    content["annotations"].append({**row, "segmentation": segmentation(mask == i, kind)})
            save(self.root / file_at.format(part=part), content)

    def labelme(self) -> None:
        types, stem, home = self.names(), self.pick(STEMS), self.pick(("", "", "images/"))
        for k in range(self.count):
            data, pixels, orientation, suffix = self.photograph("")
            source = self.put(home + "{stem}", {"stem": stem.format(k)}, suffix, data)
            pixels, mask = TURNS[orientation](pixels), None
            told, shapes = {"imageHeight": pixels.shape[0], "imageWidth": pixels.shape[1]}, []
            if k < 2:
                mask = self.regions(pixels.shape[:2], 1 + k % len(types), tuple(range(1, len(types) + 1)))
                for i in np.unique(mask[mask > 0]).tolist():
                    shapes += self.shapes(types[i - 1], mask == i)
            name = self.formed(source.rpartition("/")[2])
            told["imagePath"] = self.pick(("", "C:\\x\\", "../")) + name
            beside = "annotations/" if home and self.maybe(0.5) else home
            save(self.root / f"{beside}{self.formed(stem.format(k))}.json", {"shapes": shapes, "imageData": None, **told})
            regions = mask is not None and {types[i - 1]: mask == i for i in np.unique(mask[mask > 0]).tolist()}
            self.expected[source] = pixels, regions or None

    def shapes(self, label: str, region: np.ndarray) -> Iterator[dict]:
        kind = self.pick(("polygon", "rectangle", "mask"))
        if kind == "mask":
            text = base64.b64encode(coded(Image.fromarray(region), "png")).decode()
            points = [[0, 0], [region.shape[1] - 1, region.shape[0] - 1]]
            yield {"label": label, "shape_type": kind, "points": points, "mask": text}
        for y, left, right in row_runs(region) if kind != "mask" else ():
            points = [[left, y], [right - 1, y], [right - 1, y]]
            yield {"label": label, "shape_type": kind, "points": points[: 2 if kind == "rectangle" else 3]}

    def fold(self, name: str) -> str:
        name = unicodedata.normalize("NFC", name)
        return name.lower() if self.layout in ("dagm", "type_folders") else name
