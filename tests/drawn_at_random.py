"""Data sets drawn at random in every layout: sizes, modes, depths, files, orientations, values of masks, names.

`Draw(layout, seed, root)` writes one below `root`. args: for prepare_data.py. expected: by source, the pixels [H, W, 3]
and {type: bool [H, W]}, None of a defect-free image. excuses: what of it may be refused, if anything.
"""

import base64
import io
import unicodedata
import zlib

import numpy as np
from drawn_formats import row_runs, save, segmentation
from PIL import Image, ImageFilter

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
    "png": "1 L LA P RGB RGBA I;16",
    "jpg": "L RGB CMYK",
    "bmp": "1 L P RGB",
    "tif": "1 L LA P RGB RGBA CMYK I;16",
    "webp": "RGB RGBA",
}
WRITERS = {"jpg": "JPEG", "tif": "TIFF"}
STEMS = "{:03}|IMG {}|Stück é {}|部品{}|a.b.{}|0{}-x|Ärger_{}|{}(1)".split("|")
TYPES = "crack|hole|Thick-Place|CUT|bent_wire|裂纹|Öl fleck|0.5mm|a.b|2nd é".split("|")
WORDS = 6  # of TYPES, that a file name tells without a regular expression
ENDINGS = ("", "_mask", "_label", "_gt", "_seg")
TOLD = ("labelme",)  # layouts whose masks are known to follow EXIF
WHITE, BLACK = (255, 255, 255), (0, 0, 0)
BINARY = {  # how a mask uint8 [H, W] of 0 and 1 is saved, and as what
    "0/255": (lambda m: Image.fromarray(255 * m), "png bmp tif webp"),
    "0/1": (Image.fromarray, "png bmp tif"),
    "1": (lambda m: Image.fromarray(m > 0), "png bmp tif"),
    "P": (lambda m: with_palette(m, BLACK, WHITE), "png bmp tif"),
    "P inverted": (lambda m: with_palette(1 - m, WHITE, BLACK), "png bmp tif"),
    "P maroon": (lambda m: with_palette(m, BLACK, (128, 0, 0)), "png bmp tif"),
    "RGB": (lambda m: Image.fromarray(255 * m).convert("RGB"), "png bmp tif webp"),
    "RGBA": (lambda m: Image.fromarray(255 * m).convert("RGBA"), "png tif webp"),
    "16 bits": (lambda m: Image.fromarray(m * np.uint16(65535)), "png tif"),
    "0/1 in 16 bits": (lambda m: Image.fromarray(m.astype(np.uint16)), "png tif"),
    "0/1 and 0/255": (lambda m: Image.fromarray(m * np.uint8(254 * (m.sum() % 2) + 1)), "png bmp tif"),
    "soft": (lambda m: Image.fromarray(255 * m).filter(ImageFilter.GaussianBlur(0.6)), "png bmp tif"),
    "jpg": (lambda m: Image.fromarray(255 * m), "jpg"),
}
LAYOUTS = {  # where images, masks and defect-free images lie, and what the masks are
    "released": [
        ("test/{type}/{stem}", "converted_ground_truth/{type}/{stem}{end}", "test/good/{stem}", "index"),
        ("test/{stem}", "converted_ground_truth/{stem}{end}", "test/good/{stem}", "index"),
    ],
    "defect_spectrum": [
        ("image/{type}/{stem}", "mask/{type}/{stem}_mask", "image/good/{stem}", "index"),
        ("image/{part}/{stem}", "mask/{part}/{stem}_mask", None, "index"),
    ],
    "synthetic": [("images/{stem}", "masks_converted_dir/{stem}", None, "index")],
    "mvtec": [("test/{type}/{stem}", "ground_truth/{type}/{stem}{end}", "train/good/{stem}", "binary")],
    "coco": [
        ("{stem}", "_annotations.coco.json", "{stem}", "shapes"),
        ("{part}/{stem}", "{part}/_annotations.coco.json", "{part}/{stem}", "shapes"),
        ("images/{part}/{stem}", "annotations/instances_{part}.json", "images/{part}/{stem}", "shapes"),
        ("images/{stem}", "annotations/instances_default.json", "images/{stem}", "shapes"),
    ],
    "dagm": [("{type}/{Part}/{stem}", "{type}/{Part}/Label/{stem}_label", "{type}/{Part}/{stem}", "binary")],
    "images_masks": [
        ("images/{stem}", "masks/{stem}{any}", None, "any"),
        ("img_dir/{part}/{stem}", "ann_dir/{part}/{stem}", None, "any"),
        ("imgs/{type}/{stem}", "masks/{type}/{stem}{any}", "imgs/good/{stem}", "binary"),
        ("images/{stem}", "masks/{type}/{stem}", "images/{stem}", "binary"),
    ],
    "labelme": [("{stem}", "{stem}.json", "{stem}", "shapes"), ("images/{stem}", "json/{stem}.json", None, "shapes")],
    "type_folders": [
        ("{type}/{stem}", "{type}/{stem}{marked}", "good/{stem}", "binary"),
        ("MT_{type}/Imgs/{stem}.jpg", "MT_{type}/Imgs/{stem}.png", "MT_Free/Imgs/{stem}.jpg", "binary"),
        ("{type}/images/{stem}", "{type}/masks/{stem}{any}", "good/images/{stem}", "binary"),
    ],
    "flat": [
        ("{type}_{k:03}", "{type}_{k:03}{marked}", "good_{k:03}", "binary"),
        ("{type}~{stem}.jpg", "{type}~{stem}.png", "good~{stem}.jpg", "binary"),
    ],
}


def coded(image: Image.Image, suffix: str, **more) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, WRITERS.get(suffix, suffix), quality=95, lossless=True, exact=True, **more)
    return buffer.getvalue()


def with_palette(values: np.ndarray, *colours) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


def types_in(mask: np.ndarray) -> list[int]:
    return np.unique(mask[mask > 0]).tolist()


class Draw:
    def __init__(self, layout: str, seed: int, root):
        self.layout, self.root, self.rng = layout, root, np.random.default_rng([zlib.crc32(layout.encode()), seed])
        self.args, self.excuses, self.expected = ["--format", layout] * self.maybe(0.5), set(), {}
        self.upright, self.depth = self.maybe(0.5), self.pick([8, 10, 12, 16])  # of masks; of 16-bit images
        image_at, self.mask_at, good_at, kind = self.pick(LAYOUTS[layout])
        kind = self.pick(["index", "binary", "colour"]) if kind == "any" else kind
        self.args += ["--type_regex", "^(.+)~"] * ("~" in image_at)
        pool = self.rng.permutation(TYPES[:WORDS] if "{type}_" in image_at else TYPES).tolist()
        pool = {
            "dagm": ["Class1", "class2"],
            "binary": pool if "{type}" in image_at + self.mask_at else ["defect"],
        }.get(layout if layout == "dagm" else kind, pool)
        self.types = self.names = pool[: int(self.rng.integers(1, 4))]
        draw = getattr(self, layout if kind == "shapes" else kind)()
        stem, form, twins = self.pick(STEMS), self.pick(["NFC", "NFD"]), self.maybe(0.3)
        words = {"end": self.pick(ENDINGS[:2]), "marked": self.pick(ENDINGS[1:]), "any": self.pick(ENDINGS)}
        roles = ["defect"] * max(2, len(self.types)) + ["good"] * (good_at is not None and self.maybe(0.3))
        roles += ["empty"] * (kind != "shapes" and self.maybe(0.2))
        roles += ["unlabelled"] * (layout not in ("dagm", "coco") and image_at != good_at and self.maybe(0.2))
        rows = []
        for k, role in enumerate(roles):
            own = 1 + k % len(self.types)
            words |= {"type": unicodedata.normalize(form, self.types[own - 1]), "k": k}
            words |= {"part": ("train", "val")[k % 2], "Part": ("Train", "Test")[k % 2]}
            same = len(self.types) if "{type}/" in image_at else 2 if "{part}/" in image_at else 1
            words["stem"] = stem.format(k // same if twins and role == "defect" else k)
            at = good_at if role == "good" else image_at
            data, pixels, orientation, suffix = self.photograph("jpg" if at.endswith("jpg") else self.pick([*MODES]))
            source, mask = self.put(at, words, suffix, data), None
            if role in ("good", "unlabelled"):
                pixels = TURNS[orientation](pixels)
            else:
                pixels = self.turned(pixels, orientation)
                mask = self.rectangles(pixels.shape[:2], own, kind != "binary") * np.uint8(role != "empty")
            if role == "unlabelled":
                continue
            if kind == "shapes":
                rows.append((source, pixels.shape[:2], mask, words["part"], words["stem"]))
            elif mask is not None:
                image, suffixes = draw(mask)
                suffix = "png" if self.mask_at.endswith("png") else self.pick(suffixes.split())
                self.put(self.mask_at, words, suffix, coded(image, suffix))
                if self.style in ("soft", "jpg"):
                    decoded = Image.open(io.BytesIO(coded(image, suffix)))
                    mask = mask.max() * (np.asarray(decoded.convert("L")) > 127)
            regions = None if mask is None else {self.names[i - 1]: mask == i for i in types_in(mask)}
            self.expected[source] = pixels, regions
        if kind == "shapes":
            draw(rows)
        for junk in ("Thumbs.db", ".DS_Store", "@eaDir/x.png", "__MACOSX/._x.png") * self.maybe(0.1):
            save(root / junk, b"junk")

    def maybe(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def formed(self, text: str) -> str:
        return unicodedata.normalize(self.pick(["NFC", "NFD"]), text)

    def put(self, template: str, words: dict, suffix: str, data: bytes) -> str:
        path = template.format(**words | {"stem": self.formed(words["stem"])})
        if not path.endswith((".jpg", ".png")):
            path += "." + (suffix.upper() if self.maybe(0.1) else suffix)
        save(self.root / path, data)
        return path

    def photograph(self, suffix: str) -> tuple[bytes, np.ndarray, int, str]:
        """A file, its pixels as stored, the orientation that EXIF gives it, and its suffix."""
        size = (1, int(self.rng.integers(8, 40))) if self.maybe(0.1) else tuple(self.rng.integers(8, 41, 2).tolist())
        size = size[:: self.pick([1, -1])]
        orientation = 1 if suffix == "bmp" or self.maybe(0.6) else int(self.rng.integers(2, 9))
        exif = Image.Exif()
        exif[0x0112] = orientation
        mode, noise = self.pick(MODES[suffix].split()), self.rng.integers(0, 256, (*size, 4), dtype=np.uint8)
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
            pixels = noise[..., [0, 1, 2] if mode > "P" else [0] * 3]
        data = coded(image, suffix, **({"exif": exif} if orientation > 1 else {}))
        if suffix == "jpg" or mode == "CMYK":
            pixels = np.asarray((Image.open(io.BytesIO(data)) if suffix == "jpg" else image).convert("RGB"))
        return data, pixels, orientation, suffix

    def turned(self, pixels: np.ndarray, orientation: int) -> np.ndarray:
        """The pixels the way up that the mask has."""
        if self.layout in TOLD:
            return TURNS[orientation](pixels)
        if orientation > 1 and (orientation < 5 or pixels.shape[0] == pixels.shape[1]):
            self.excuses.add("a turn that the mask does not tell")
        return TURNS[orientation](pixels) if self.upright else pixels

    def rectangles(self, size: tuple[int, int], own: int, more: bool) -> np.ndarray:
        """Index mask uint8 [H, W] of a rectangle of type `own`, maybe over one of another."""
        mask = np.zeros(size, np.uint8)
        for index in [*([self.rng.integers(1, len(self.types) + 1)] if more and self.maybe(0.5) else []), own]:
            (top, bottom), (left, right) = (sorted(self.rng.choice(side + 1, 2, replace=False)) for side in size)
            mask[top:bottom, left:right] = index
        return mask

    def index(self):
        """How index masks are saved; void is changed to background in what they are drawn from."""
        told, count = self.pick(["flag", "file", ""]), len(self.types)
        self.style = style = self.pick(["L", "P", "16", "1" if count == 1 else "L", "void"])
        palette = np.vstack([BLACK, self.rng.integers(50, 256, (255, 3))])
        self.args += ["--label_map", ",".join(self.types)] * (told == "flag")
        if told == "file":
            save(self.root / "dataset.json", {"label_map": {name: k for k, name in enumerate(self.types, 1)}})
        self.names = self.types if told else [f"defect_{k}" for k in range(1, count + 1)]
        if style == "void":
            flagged = self.maybe(0.7)
            self.args += ["--void", "255"] * flagged
            self.excuses |= set() if flagged else {"void without a flag"}

        def draw(mask):
            file = mask.astype(np.uint16 if style == "16" else np.uint8)
            if style == "void":
                file[0, 0] = file[-1, -1] = 255
                mask[file == 255] = 0
            if style in ("P", "void"):
                return with_palette(file, *palette), "png bmp tif"
            return Image.fromarray(file > 0 if style == "1" else file), "png tif" if style == "16" else "png bmp tif"

        return draw

    def binary(self):
        self.style, (image, suffixes) = self.pick(list(BINARY.items()))
        self.excuses |= {self.style} & {"0/1 and 0/255", "soft"}
        return lambda mask: (image((mask > 0).astype(np.uint8)), suffixes)

    def colour(self):
        """Masks whose colours or grey levels --colormap names."""
        self.style = self.pick(["grey", "RGB", "P"])
        colours = 20 * self.rng.choice(np.arange(1, 13), (len(self.types), 3), replace=False).astype(np.uint8)
        colours = np.vstack([BLACK, colours[:, :1].repeat(3, axis=1) if self.style == "grey" else colours]).astype(
            np.uint8
        )
        told = (",".join(map(str, own[: 1 if self.style == "grey" else 3])) for own in colours[1:].tolist())
        self.args += ["--colormap", *(f"{name}={own}" for name, own in zip(self.types, told, strict=True))]
        if self.style == "P":
            return lambda mask: (with_palette(mask, *colours), "png bmp tif")
        return lambda mask: (
            Image.fromarray(colours[mask][..., 0 if self.style == "grey" else slice(3)]),
            "png bmp tif webp",
        )

    def coco(self):
        ids, kind = self.rng.permutation(20).tolist(), self.pick(["polygon", "rle", "compressed", "box"])

        def draw(rows):
            for part in {row[3] for row in rows} if "{part}" in self.mask_at else [""]:
                content = {"images": [], "annotations": [], "categories": []}
                content["categories"] = [{"id": ids[k], "name": name} for k, name in enumerate(self.types)]
                for source, (height, width), mask, own, _ in rows:
                    if part not in ("", own):
                        continue
                    name = self.pick(["", "images/", "..\\images\\"]) + self.formed(source.rpartition("/")[2])
                    key = 90 - len(content["images"])
                    content["images"].append({"id": key, "file_name": name, "height": height, "width": width})
                    for i in types_in(mask) if mask is not None else ():
                        row = {
                            "image_id": key,
                            "category_id": ids[i - 1],
                            "segmentation": segmentation(mask == i, kind),
                        }
                        content["annotations"].append(row)
                save(self.root / self.mask_at.format(part=part), content)

        return draw

    def labelme(self):
        kind = self.pick(["polygon", "rectangle", "mask"])

        def shapes(label, region):
            if kind == "mask":
                text = base64.b64encode(coded(Image.fromarray(region), "png")).decode()
                points = [[0, 0], [region.shape[1] - 1, region.shape[0] - 1]]
                return [{"label": label, "shape_type": kind, "points": points, "mask": text}]
            points = ([[left, y], [right - 1, y], [right - 1, y]] for y, left, right in row_runs(region))
            return [{"label": label, "shape_type": kind, "points": p[: 2 + (kind == "polygon")]} for p in points]

        def draw(rows):
            for source, (height, width), mask, _, stem in rows:
                content = {"imageHeight": height, "imageWidth": width, "imageData": None, "shapes": []}
                content["imagePath"] = self.pick(["", "C:\\x\\", "../"]) + self.formed(source.rpartition("/")[2])
                for i in types_in(mask) if mask is not None else ():
                    content["shapes"] += shapes(self.types[i - 1], mask == i)
                save(self.root / self.mask_at.format(stem=self.formed(stem)), content)

        return draw

    def fold(self, name: str) -> str:
        """What of a type's name counts."""
        name = unicodedata.normalize("NFC", name)
        name = "defect" if len(self.types) == 1 and name == "defect_1" else name
        return name.lower() if self.layout in ("dagm", "type_folders") else name
