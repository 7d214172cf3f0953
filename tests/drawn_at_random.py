"""Data sets drawn at random in every layout: sizes, modes, depths, files, orientations, values of masks, names.

`Draw(layout, seed, root)` writes one below `root`. args: for prepare_data.py. expected: by source, the pixels [H, W, 3]
{type: bool [H, W]}, None of a defect-free image, and the part, if any. excuses: what of it may be refused, if anything.
"""

import io
import json
import unicodedata
import zlib
from collections import defaultdict
from pathlib import Path

import numpy as np
import yaml
from drawn_formats import coded, png_text, row_runs, save, segmentation
from PIL import Image, ImageFilter

from guided_diffusion.export.polygons import inset_polygon, outlines

MODES = {
    "png": "1 L LA P RGB RGBA I;16",
    "jpg": "L RGB CMYK",
    "bmp": "1 L P RGB",
    "tif": "1 L LA P RGB RGBA CMYK I;16",
    "webp": "RGB RGBA",
}
SIDES = (("train", "Train", "training"), ("val", "Test", "validation"))  # how layouts call the parts
STEMS = "{:03}|IMG {}|Stück é {}|部品{}|a.b.{}|0{}-x|Ärger_{}|{}(1)".split("|")
TYPES = "crack|hole|Thick-Place|CUT|bent_wire|裂纹|Öl fleck|0.5mm|a.b|2nd é".split("|")
WORDS = 6  # of TYPES, that a file name tells without a regular expression
OWN_TYPES = {"dagm": ["Class1", "class2"], "severstal": ["class1", "class2", "class3"]}
JUNK = "._0.jpg Thumbs.db .DS_Store desktop.ini @eaDir/x.png __MACOSX/x.png #recycle/x.png lost+found/x.png .x/x.png"
ENDINGS = ("", "_mask", "_label", "_gt", "_seg")
WHITE, BLACK, MAROON = (255, 255, 255), (0, 0, 0), (128, 0, 0)
BINARY = {  # how a mask uint8 [H, W] of 0 and 1 is saved, and as what
    "0/255": (lambda m: Image.fromarray(255 * m), "png bmp tif webp"),
    "0/1": (Image.fromarray, "png bmp tif"),
    "1": (lambda m: Image.fromarray(m > 0), "png bmp tif"),
    "P": (lambda m: with_palette(m, BLACK, WHITE), "png bmp tif"),
    "P inverted": (lambda m: with_palette(1 - m, WHITE, BLACK), "png bmp tif"),
    "P maroon": (lambda m: with_palette(m, BLACK, MAROON), "png bmp tif"),
    "RGB": (lambda m: Image.fromarray(255 * m).convert("RGB"), "png bmp tif webp"),
    "RGBA": (lambda m: Image.fromarray(255 * m).convert("RGBA"), "png tif webp"),
    "16 bits": (lambda m: Image.fromarray(m * np.uint16(65535)), "png tif"),
    "0/1 in 16 bits": (lambda m: Image.fromarray(m.astype(np.uint16)), "png tif"),
    "0/1 and 0/255": (lambda m: Image.fromarray(m * np.uint8(254 * (m.sum() % 2) + 1)), "png bmp tif"),
    "soft": (lambda m: Image.fromarray(255 * m).filter(ImageFilter.GaussianBlur(0.6)), "png bmp tif"),
    "jpg": (lambda m: Image.fromarray(255 * m), "jpg"),
}
SURE = ("0/255", "1", "P", "P inverted", "RGB", "RGBA", "16 bits")  # none of them could mean another thing
SHAPES = {"coco": "polygon rle compressed box", "labelme": "polygon rectangle mask", "yolo": "outline run box"}
TOLD = ("labelme", "yolo")  # layouts whose masks are known to follow EXIF
LAYOUTS = """
released        test/{type}/{stem}    converted_ground_truth/{type}/{stem}{end}  test/good/{stem}    index
released        test/{stem}           converted_ground_truth/{stem}{end}         test/good/{stem}    index
defect_spectrum image/{type}/{stem}   mask/{type}/{stem}_mask                    image/good/{stem}   index
defect_spectrum image/{part}/{stem}   mask/{part}/{stem}_mask                    -                   index
synthetic       images/{stem}         masks_converted_dir/{stem}                 -                   index
voc             JPEGImages/{stem}     SegmentationClass/{stem}                   -                   voc
hf              {part}/{stem}         {part}/masks/{stem}.png                    -                   index
hf              {stem}                masks/{stem}.png                           -                   index
mvtec           test/{type}/{stem}    ground_truth/{type}/{stem}{end}            train/good/{stem}   binary
dagm            {type}/{Part}/{stem}  {type}/{Part}/Label/{stem}_label           {type}/{Part}/{stem} binary
kolektor        kos{k}/{stem}         kos{k}/{stem}{marked}                      -                   binary
kolektor        {part}/{stem}         {part}/{stem}_GT                           -                   binary
type_folders    {type}/{stem}         {type}/{stem}{marked}                      good/{stem}         binary
type_folders    MT_{type}/Imgs/{stem}.jpg MT_{type}/Imgs/{stem}.png              MT_Free/Imgs/{stem}.jpg binary
type_folders    {type}/images/{stem}  {type}/masks/{stem}{any}                   good/images/{stem}  binary
type_folders    {type}/image/{stem}   {type}/mask/{stem}                         good/image/{stem}   binary
flat            {type}_{k:03}         {type}_{k:03}{marked}                      good_{k:03}         binary
flat            {type}~{stem}.jpg     {type}~{stem}.png                          good~{stem}.jpg     binary
images_masks    imgs/{type}/{stem}    masks/{type}/{stem}{any}                   imgs/good/{stem}    binary
images_masks    images/{stem}         masks/{type}/{stem}                        images/{stem}       binary
images_masks    images/{stem}         masks/{stem}{any}                          -                   any
images_masks    img_dir/{part}/{stem} ann_dir/{part}/{stem}                      -                   any
images_masks    images/{stem}         gt/{stem}{any}                             -                   any
images_masks    image/{stem}          labels/{stem}                              -                   any
images_masks    images/{ade}/{stem}   annotations/{ade}/{stem}                   -                   any
images_masks    {part}/images/{stem}  {part}/masks/{stem}                        -                   any
coco            {stem}                _annotations.coco.json                     {stem}              shapes
coco            {part}/{stem}         {part}/_annotations.coco.json              {part}/{stem}       shapes
coco            images/{part}/{stem}  annotations/instances_{part}.json          images/{part}/{stem} shapes
coco            images/{stem}         annotations/instances_default.json         images/{stem}       shapes
coco            images/default/{stem} annotations/instances_default.json         images/default/{stem} shapes
labelme         {stem}                {stem}.json                                {stem}              shapes
labelme         images/{stem}         json/{stem}.json                           images/{stem}       shapes
yolo            images/{part}/{stem}  labels/{part}/{stem}.txt                   images/{part}/{stem} shapes
yolo            {part}/images/{stem}  {part}/labels/{stem}.txt                   {part}/images/{stem} shapes
yolo            images/{stem}         labels/{stem}.txt                          images/{stem}       shapes
severstal       train_images/{stem}   train.csv                                  train_images/{stem} shapes
severstal       {stem}                train.csv                                  {stem}              shapes
"""  # where images, masks and defect-free images lie, and what the masks are


def decoded(data: bytes, mode: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert(mode))


def with_palette(values: np.ndarray, *colours) -> Image.Image:
    image = Image.frombytes("P", values.shape[::-1], values.astype(np.uint8).tobytes())
    image.putpalette(np.array(colours, np.uint8).tobytes())
    return image


def box(region: np.ndarray) -> list[int]:
    """x, y, width and height."""
    places = np.argwhere(region)[:, ::-1]
    return [*places.min(axis=0).tolist(), *(np.ptp(places, axis=0) + 1).tolist()]


def prepared(out: Path) -> dict:
    """By source, what became of an image: its pixels, {type: bool [H, W]}, None without a mask, and its folder."""
    found = {}
    for file in out.rglob("dataset.json"):
        content = json.loads(file.read_text())
        for record in content["images"]:
            regions = None
            if "mask" in record:
                mask = np.asarray(Image.open(file.parent / record["mask"]))
                regions = {name: mask == k for name, k in content["label_map"].items() if k in mask}
            image = np.asarray(Image.open(file.parent / record["image"]).convert("RGB"))
            found[record["source"]] = image, regions, file.parent.name
    return found


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """As EXIF asks viewers to show them."""
    pixels, flips = pixels.swapaxes(0, 1) if orientation > 4 else pixels, (orientation - 1) % 4
    return pixels[:: -1 if flips > 1 else 1, :: -1 if flips in (1, 2) else 1]


class Draw:
    def __init__(self, layout: str, seed: int, root):
        self.layout, self.root, self.rng = layout, root, np.random.default_rng([zlib.crc32(layout.encode()), seed])
        self.args, self.excuses, self.expected = ["--format", layout] * self.maybe(0.5), set(), {}
        self.masks: dict[str, str] = {}  # mask files, by source
        self.upright, self.depth = self.maybe(0.5), self.pick([8, 10, 12, 12, 16, 16])  # masks are; of 16-bit images
        self.turns, self.deep = self.maybe(0.5), False  # whether images are turned; there is a bright one of 16 bits
        known = [line.split()[1:] for line in LAYOUTS.splitlines() if line.split()[:1] == [layout]]
        image_at, self.mask_at, good_at, kind = self.pick(known)
        kind = self.pick(["index", "binary", "colour"]) if kind == "any" else kind
        self.args += ["--type_regex", "^(.+)~"] * ("~" in image_at)
        types = OWN_TYPES.get(layout) or self.rng.permutation(TYPES[: WORDS if "{type}_" in image_at else None])
        types = ["defect"] if kind == "binary" and "{type}" not in image_at + self.mask_at else list(map(str, types))
        self.types = self.names = types[: int(self.rng.integers(1, 4))]
        draw_mask = getattr(self, kind)()
        stem, form, self.twins = self.pick(STEMS), self.pick(["NFC", "NFD"]), self.maybe(0.3)
        words = {"end": self.pick(ENDINGS[:2]), "marked": self.pick(ENDINGS[1:]), "any": self.pick(ENDINGS)}
        roles = ["defect"] * max(2, len(self.types)) + ["good"] * (good_at != "-" and self.maybe(0.3))
        roles += ["empty"] * (kind != "shapes" and self.maybe(0.2))
        # Whether images without a mask are defect-free.
        self.free = layout in ("dagm", "coco", "severstal") or (image_at == good_at and kind == "binary")
        roles += ["unlabelled"] * (not self.free and self.maybe(0.2))
        if "/image/" in image_at and self.style.startswith(("0/1", "P maroon")) and not self.args:
            self.excuses.add("index masks of several objects, or binary ones of several types")
        if layout == "type_folders" and len(self.types) == 1 and not self.args:
            self.excuses.add("one folder that may hold the set")
        if kind == "binary" and len(self.types) > 2:
            flagged = self.maybe(0.7)
            self.args += ["--types_as_found"] * flagged
            self.excuses |= set() if flagged else {"as many types as images"}
        tables = defaultdict(list)  # rows for the layout's own files, by part
        for k, role in enumerate(roles):
            own = 1 + k % len(self.types)
            words |= {"type": unicodedata.normalize(form, self.types[own - 1]), "k": k}
            words |= dict(zip(("part", "Part", "ade"), SIDES[k % 2], strict=True))
            same = len(self.types) if "{type}/" in image_at else 2 if "{part}/" in image_at else 1
            words["stem"] = stem.format(k // same if self.twins and role == "defect" else k)
            at, mask = good_at if role == "good" else image_at, None
            data, stored, orientation, suffix = self.photograph("jpg" if at.endswith("jpg") else self.pick([*MODES]))
            source, pixels = self.put(at, words, suffix, data), upright(stored, orientation)
            if role in ("defect", "empty"):
                pixels = self.turned(stored, orientation)
                mask = self.rectangles(pixels.shape[:2], own, kind != "binary" and self.style != "box")
                mask *= np.uint8(role == "defect")
            if mask is not None and draw_mask:
                image, suffixes = draw_mask(mask)
                suffix = "png" if self.mask_at.endswith("png") else self.pick(suffixes.split())
                data = coded(image, suffix)
                words["mask"] = self.masks[source] = self.put(self.mask_at, words, suffix, data)
                mask = mask.max() * (decoded(data, "L") > 127) if self.style in ("soft", "jpg") else mask
            if layout == "kolektor" and role == "empty":  # black masks mean defect-free
                pixels, mask = upright(stored, orientation), None
            if role != "unlabelled":
                part = next((words[at].lower() for at in ("Part", "part", "ade") if f"{{{at}}}" in image_at), None)
                part = {"training": "train", "validation": "val"}.get(part, part)
                self.expected[source] = pixels, None if mask is None else dict(self.regions(mask)), part
                apart = layout in ("coco", "hf") and "{part}" in self.mask_at
                tables[words["part"] if apart else ""].append((source, pixels, mask, dict(words)))
        drawn = [mask > 0 for rows in tables.values() for _, _, mask, _ in rows if mask is not None and mask.any()]
        if 2 * sum(mask.mean() > 0.5 for mask in drawn) > len(drawn):
            self.excuses.add("masks that look inverted")
        for part, rows in tables.items() if hasattr(self, f"write_{layout}") else ():
            getattr(self, f"write_{layout}")(rows, part)
        for junk in JUNK.split() * self.maybe(0.1):
            save(root / junk, b"junk")

    def maybe(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def formed(self, text: str) -> str:
        return unicodedata.normalize(self.pick(["NFC", "NFD"]), text)

    def regions(self, mask: np.ndarray | None) -> list[tuple[str, np.ndarray]]:
        return [] if mask is None else [(self.names[i - 1], mask == i) for i in np.unique(mask[mask > 0]).tolist()]

    def put(self, template: str, words: dict, suffix: str, content) -> str:
        path = template.format(**words | {"stem": self.formed(words["stem"])})
        if not path.endswith((".jpg", ".png", ".txt", ".json")):
            path += "." + (suffix.upper() if self.maybe(0.1) else suffix)
        save(self.root / path, content)
        return path

    def photograph(self, suffix: str) -> tuple[bytes, np.ndarray, int, str]:
        """A file, its pixels as stored, the orientation that EXIF gives it, and its suffix."""
        size = (1, int(self.rng.integers(8, 40))) if self.maybe(0.1) else tuple(self.rng.integers(8, 41, 2).tolist())
        size = size[:: self.pick([1, -1])]
        orientation = 1 if suffix == "bmp" or not self.turns or self.maybe(0.5) else int(self.rng.integers(2, 9))
        mode, noise = self.pick(MODES[suffix].split()), self.rng.integers(0, 256, (*size, 4), dtype=np.uint8)
        if mode == "I;16":
            top = 2**self.depth - 1
            noise = self.rng.integers(0, top + 1, size, dtype=np.uint16)
            noise.flat[self.rng.integers(noise.size)] = top
            noise //= 5 if self.deep and self.maybe(0.3) else 1  # a dark one in a set whose depth is known
            image, pixels = Image.fromarray(noise), np.repeat(noise[..., None] * (255 / top), 3, axis=2)
            self.deep, self.excuses = True, self.excuses | {"8 bits of 16"} if self.depth == 8 else self.excuses
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
        data = coded(image, suffix, orientation)
        pixels = np.asarray(image.convert("RGB")) if mode == "CMYK" else pixels
        return data, decoded(data, "RGB") if suffix == "jpg" else pixels, orientation, suffix

    def turned(self, pixels: np.ndarray, orientation: int) -> np.ndarray:
        """The pixels the way up that the mask has; excused where it does not tell by its size."""
        height, width = pixels.shape[:2]
        if orientation > 1 and (orientation < 5 or height == width or self.layout == "severstal"):
            self.excuses |= {"a turn that the mask does not tell"} if self.layout not in TOLD else set()
        return upright(pixels, orientation) if self.upright or self.layout in TOLD else pixels

    def rectangles(self, size: tuple[int, int], own: int, more: bool) -> np.ndarray:
        """Index mask uint8 [H, W] of a rectangle of type `own`, maybe over one of another."""
        mask = np.zeros(size, np.uint8)
        for index in [*([self.rng.integers(1, len(self.types) + 1)] if more and self.maybe(0.5) else []), own]:
            (top, bottom), (left, right) = (sorted(self.rng.choice(side + 1, 2, replace=False)) for side in size)
            mask[top:bottom, left:right] = index
        return mask

    def index(self):
        """Draws index masks."""
        told, count, flagged = self.pick(["flag", "file", ""]), len(self.types), self.maybe(0.7)
        self.style = style = self.pick(["L", "P", "16", "1" if count == 1 else "L", "void"])
        palette = np.vstack([BLACK, self.rng.integers(50, 256, (255, 3))])
        self.args += ["--label_map", ",".join(self.types)] * (told == "flag")
        self.args += ["--void", "255"] * (style == "void" and flagged)
        self.excuses |= {"void without a flag"} if style == "void" and not flagged else set()
        if told == "file":
            save(self.root / "dataset.json", {"label_map": {name: k for k, name in enumerate(self.types, 1)}})
        self.names = self.types if told else [f"defect_{k}" for k in range(1, count + 1)]

        def draw(mask):
            file = mask.astype(np.uint16 if style == "16" else np.uint8)
            if style == "void":
                file[self.void(mask)] = 255
            if style in ("P", "void"):
                return with_palette(file, *palette), "png bmp tif"
            return Image.fromarray(file > 0 if style == "1" else file), "png tif" if style == "16" else "png bmp tif"

        return draw

    def void(self, mask: np.ndarray) -> np.ndarray:
        return (mask == 0) & (self.rng.random(mask.shape) < 0.1)

    def voc(self):
        """Draws masks in VOC's colours, or in those of labelmap.txt, or of indices; 255 is always void."""
        self.style, told = self.pick(["L", "P", "RGB"]), self.pick(["labelmap.txt", "class_names.txt", ""])
        colours = [MAROON, (0, 128, 0), (128, 128, 0)]
        if told == "labelmap.txt":
            self.style = self.pick(["P", "RGB"])
            colours = self.rng.choice(np.arange(1, 255), (3, 3), replace=False).tolist()
        lines = [f"{name}:{','.join(map(str, own))}::" for name, own in zip(self.types, colours, strict=False)]
        lines = ["background:0,0,0::", *lines] if told == "labelmap.txt" else ["_background_", *self.types]
        self.names = self.types if told else [f"defect_{k}" for k in range(1, 4)]
        save(self.root / (told or "README.md"), "\n".join(lines).encode())
        table = np.vstack([BLACK, colours, np.zeros((251, 3)), (224, 224, 192)]).astype(np.uint8)

        def draw(mask):
            file = np.where(self.void(mask), np.uint8(255), mask)
            if self.style == "P":
                return with_palette(file, *table), "png"
            return Image.fromarray(file if self.style == "L" else table[file]), "png"

        return draw

    def binary(self):
        self.style = self.pick([*BINARY, "all sorts"])
        self.excuses |= {self.style} & {"soft"}

        def draw(mask):
            image, suffixes = BINARY[self.pick(SURE) if self.style == "all sorts" else self.style]
            return image((mask > 0).astype(np.uint8)), suffixes

        return draw

    def colour(self):
        """Draws masks whose colours, or grey levels, --colormap names."""
        self.style, bands = self.pick([("grey", 1), ("RGB", 3), ("P", 3)])
        levels = self.rng.choice(np.arange(20, 241, 20), (len(self.types), bands), replace=False)
        named = zip(self.types, levels.tolist(), strict=True)
        self.args += ["--colormap", *(f"{name}={','.join(map(str, own))}" for name, own in named)]
        table = np.vstack([[0] * bands, levels]).astype(np.uint8)
        if self.style == "P":
            return lambda mask: (with_palette(mask, *table), "png bmp tif")
        table = table.squeeze(-1) if bands == 1 else table
        return lambda mask: (Image.fromarray(table[mask]), "png bmp tif webp")

    def shapes(self):
        self.style, flagged = self.pick(SHAPES.get(self.layout, "runs").split()), self.maybe(0.7)
        self.args += ["--boxes", "fill"] * (self.style == "box" and flagged)
        self.excuses |= {"boxes without a flag"} if self.style == "box" and not flagged else set()

    def write_coco(self, rows, part):
        images, annotations, ids = [], [], self.rng.permutation(20).tolist()
        for key, (source, pixels, mask, _) in enumerate(rows, 90):
            name = self.pick(["", "images/", "..\\images\\"]) + self.formed(source.rpartition("/")[2])
            images.append({"id": key, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
            for name, region in self.regions(mask):
                row = {"image_id": key, "category_id": ids[self.types.index(name)]}
                drawn = [] if self.style == "box" else segmentation(region, self.style)
                annotations.append(row | {"bbox": box(region), "segmentation": drawn})
        categories = [{"id": key, "name": name} for key, name in zip(ids, self.types, strict=False)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        save(self.root / self.mask_at.format(part=part), content)

    def write_labelme(self, rows, part):
        encoding = self.pick(["utf-8", "utf-8", "utf-8-sig", "utf-16", "gb18030"])
        self.excuses |= {encoding} & {"gb18030"}
        for source, pixels, mask, words in rows:
            height, width, drawn = *pixels.shape[:2], []
            for name, region in self.regions(mask):
                shape = {"label": name, "shape_type": self.style, "points": [[0, 0], [width - 1, height - 1]]}
                if self.style == "mask":
                    drawn.append(shape | {"mask": png_text(region)})
                for y, left, right in row_runs(region) if self.style != "mask" else ():
                    points = [[left, y], [right - 1, y], [right - 1, y]][: 2 + (self.style == "polygon")]
                    drawn.append(shape | {"points": points})
            path = self.pick(["", "C:\\x\\", "../"]) + self.formed(source.rpartition("/")[2])
            content = {"imagePath": path, "imageHeight": height, "imageWidth": width, "shapes": drawn}
            self.put(self.mask_at, words, "", json.dumps(content, ensure_ascii=False).encode(encoding))

    def write_yolo(self, rows, part):
        told, names = self.pick(["data.yaml", "classes.txt", ""]), self.pick([self.types, dict(enumerate(self.types))])
        self.args += ["--label_map", ",".join(self.types)] * (told == "")
        content = {"names": names}
        if self.mask_at.startswith("{part}/"):
            content |= {part: f"../{part}/images" for part in ("train", "val", "test")}
        elif "{part}" in self.mask_at:
            content |= {"train": "/set/images/train", "val": ["images/val"]}
        text = yaml.safe_dump(content, allow_unicode=True) if told == "data.yaml" else "\n".join(self.types)
        save(self.root / (told or "notes.md"), text.encode())
        for _, pixels, mask, words in rows:
            lines = []
            for name, region in self.regions(mask):
                rings = [[(x, y), (end, y), (end, y + 1), (x, y + 1)] for y, x, end in row_runs(region)]
                x, y, width, height = box(region)
                rings = [[(x + width / 2, y + height / 2), (width, height)]] if self.style == "box" else rings
                rings = map(inset_polygon, outlines(region)) if self.style == "outline" else rings
                for ring in rings:
                    shares = (np.array(ring) / pixels.shape[1::-1]).ravel()
                    lines.append(" ".join([str(self.types.index(name)), *(f"{share:.6f}" for share in shares)]))
            self.put(self.mask_at, words, "", "\n".join(lines).encode())

    def write_severstal(self, rows, part):
        older = self.maybe(0.5)
        lines = ["ImageId_ClassId,EncodedPixels" if older else "ImageId,ClassId,EncodedPixels"]
        for source, _, mask, _ in rows:
            for name, region in self.regions(mask):
                runs = " ".join(f"{start + 1} {end - start}" for _, start, end in row_runs(region.T.reshape(1, -1)))
                lines.append(f"{self.formed(source.rpartition('/')[2])}{'_' if older else ','}{name[-1]},{runs}")
        save(self.root / "train.csv", "\n".join(lines).encode())

    def write_hf(self, rows, part):
        rows = [{"file_name": source, "mask_file_name": words["mask"]} for source, _, _, words in rows]
        lines = [json.dumps({key: path.removeprefix(f"{part}/") for key, path in row.items()}) for row in rows]
        save(self.root / part / "metadata.jsonl", "\n".join(lines).encode())

    def fold(self, name: str) -> str:
        """What of a type's name counts."""
        name = unicodedata.normalize("NFC", name)
        if len(self.types) == 1 and self.names[0] in ("defect", "defect_1"):  # nobody names it
            return "defect"
        return name.lower() if self.layout in ("dagm", "type_folders") else name
