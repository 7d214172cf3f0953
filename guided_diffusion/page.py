"""The page of `defect-gen ui`: draw defects into a photograph by hand, keep what is good, look at what is kept.

Plain functions on arrays, then `Page`, which knows the networks and the folder; `build` is the layout.
"""

import html
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, wraps
from typing import Any

import blobfile as bf
import cv2
import numpy as np
from PIL import Image

from .data.image_files import View, read_image, read_index_mask, resize_image, resize_mask, resize_shape
from .data.records import read_manifest
from .errors import InputError
from .file_io import read_bytes
from .generation.api import DefectGen
from .generation.batch import GeneratedBatch
from .generation.conditions import Conditions
from .generation.insertion import find_scale
from .generation.mask_bank import MaskBank, load_bank_data
from .generation.sample_io import SampleFolder
from .generation.settings import Settings
from .pictures import outline, palette, tile_of

VARIANTS = 4  # of a photograph, side by side
MAX_BYTES, MAX_PIXELS = 2**26, 2**26  # of what the browser sends: the largest cameras' 64 megapixels, 0.2 GB decoded
CANVAS = 1024  # the longer side of what is brushed on: less is hard to hit, more is slow in a browser
AROUND = 64  # pixels of the photograph that are shown beside its defects
ENLARGED = 256  # what is smaller is shown larger, by a whole factor
CSS = ".grid-container {grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)) !important}"  # also on telephones
SHOWN = 100  # samples in the gallery, the newest
VARIED = ("seed", "step_inference", "image_size", "crops")  # settings that a kept sample has for itself, or not at all


def read_photograph(path: str) -> np.ndarray:
    """uint8 [H, W, 3] of an uploaded file, the way up that EXIF says. Raises InputError, which names no folder."""
    return read_image(bf.basename(path), read=lambda _: read_bytes(path))


def canvas_size(size: Sequence[int]) -> list[int]:
    """(height, width) at which a photograph of `size` is brushed on."""
    return [max(1, round(side * CANVAS / max(size))) for side in size]


def to_layer(mask: np.ndarray) -> np.ndarray:
    """The layer uint8 [h, w, 4] of the canvas that shows an index mask [H, W]."""
    mask = resize_mask(mask, canvas_size(mask.shape))
    return np.dstack([palette(int(mask.max()))[mask], (mask > 0).astype(np.uint8) * 255])


def from_layer(layer: np.ndarray, size: Sequence[int], num_defect: int) -> np.ndarray:
    """The index mask uint8 [H, W] of `size` that was brushed: a layer uint8 [h, w, 4] is, where it is opaque, of the
    type whose colour is the nearest, as brushes have soft borders."""
    away = [np.abs(layer[..., :3].astype(int) - colour).sum(axis=-1) for colour in palette(num_defect)[1:].astype(int)]
    mask = np.where(layer[..., 3] >= 128, 1 + np.argmin(away, axis=0), 0)
    return resize_mask(mask.astype(np.uint8), size)


def placed(mask: np.ndarray, stencil: np.ndarray, centre: Sequence[float], scale: Sequence[float]) -> np.ndarray:
    """An index mask [H, W] with another of one type [h, w] over it, enlarged by scale (down, across).

    centre: where its middle lies, in shares of the height and width."""
    size = [max(1, round(side * factor)) for side, factor in zip(stencil.shape, scale, strict=True)]
    top, left = (round(share * side - (own - 1) / 2) for side, own, share in zip(mask.shape, size, centre, strict=True))
    shape = resize_shape(stencil > 0, size).astype(np.uint8) * stencil.max()
    over = cv2.warpAffine(shape, np.float32([[1, 0, left], [0, 1, top]]), mask.shape[::-1], flags=cv2.INTER_NEAREST)
    return np.where(over > 0, over, mask)


def close_up(image: np.ndarray, mask: np.ndarray, outlined: bool) -> np.ndarray:
    """uint8 [h, w, 3]: the part of an image [H, W, 3] around the defects of its mask [H, W], with or without outlines,
    at its own size; what is small is enlarged by a whole factor."""
    found = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    cut = tuple(slice(max(0, own[0] - AROUND), own[-1] + 1 + AROUND) for own in found)
    zoom = max(1, ENLARGED // max(mask[cut].shape))
    image, mask = (array[cut].repeat(zoom, axis=0).repeat(zoom, axis=1) for array in (image, mask))
    return outline(image, mask) if outlined else image


def gallery(folder: str) -> list[tuple[np.ndarray, str]]:
    """The newest samples of a folder, images beside outlined ones, and what they show. Raises InputError."""
    rows, tiles = list((read_manifest(folder) or {}).values()) if bf.isdir(folder) else [], []
    for row in rows[::-1][:SHOWN]:
        image, types = read_image(bf.join(folder, row["image"])), row["settings"]["class_names"]
        mask = read_index_mask(bf.join(folder, row["index_mask"]), len(types))
        seed = row.get("condition", {}).get("seed", row["seed"])
        text = f"{row['index']:06d} · {', '.join(row['types']) or 'no defect'} · seed {seed}"
        tile = tile_of(image, mask, text)
        tiles.append((np.hstack([tile.image, tile.outlined]), text))
    return tiles


class Page:
    """What the page does with two networks and the folder of what is kept. Raises InputError."""

    def __init__(self, generator: DefectGen, sample_dir: str, bank_data: str | None = None, scale: Any = None) -> None:
        """bank_data, scale: as for read_insertions."""
        self.generator, self.sample_dir, self.bank_data = generator, sample_dir, bank_data
        self.class_names, config = generator.layout.class_names, generator.config
        steps = generator.hand_offs or [Settings.step_inference]  # which settings() refuses
        self.steps = steps[0], steps[-1], min(max(steps[0], Settings.step_inference), steps[-1])
        settings = generator.settings(step_inference=self.steps[-1])
        about = generator.about(settings, Conditions(generator.config, settings), 0)
        self.size, self.scale = settings.image_size, find_scale(scale, config.data.scale)
        self.about = {key: about[key] for key in about if key not in VARIED}
        self.about |= {"scale": self.scale, "margin": settings.margin, "whole_size": View.of(config.data).whole_size}
        SampleFolder(sample_dir, self.class_names, self.about)  # refuses other samples now, not after an hour's work

    @cached_property
    def bank(self) -> MaskBank:
        data, root = load_bank_data(self.bank_data, self.generator.config)
        return MaskBank.of(data, self.generator.config, root, whole=True)

    def stencil(self, type_: int, number: int) -> np.ndarray:
        """Mask `number` of a type from the bank, uint8 [h, w], without its empty borders."""
        mask = self.bank.draw(self.bank.size, 0, number, {type_})
        left, top, width, height = cv2.boundingRect(mask)
        return mask[top : top + height, left : left + width]

    def variants(
        self, photograph: np.ndarray | None, mask: np.ndarray, seeds: Iterable[int], **condition: Any
    ) -> GeneratedBatch:
        """The photograph uint8 [H, W, 3] with the defects of an index mask [H, W], once for each seed; without one, an
        image of the networks' size. condition: step_inference, and what else the manifest is to say."""
        if not mask.any():
            raise InputError("no defect is drawn: brush one, or take a mask from the bank")
        how, batches, told = {"step_inference": condition["step_inference"]}, [], []
        for seed in seeds:
            if photograph is None:
                batches.append(self.generator.generate(1, seed=seed, masks=mask[None], **how))
            else:
                batches.append(self.generator.insert(photograph, mask, seeds=[seed], scale=self.scale, **how))
            told.append({**condition, "seed": seed})
        arrays = (np.concatenate([getattr(one, key) for one in batches]) for key in ("images", "masks"))
        return GeneratedBatch(*arrays, self.class_names, about=self.about, conditions=told)


def build(page: Page) -> Any:
    """The layout, a gradio.Blocks to be launched. Raises InputError where gradio is missing."""
    try:
        import gradio as gr
    except ImportError as error:
        raise InputError(f"the page needs gradio ({error}); pip install '.[ui]' in the clone") from error

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses above twice that

    def told(act: Callable) -> Callable:
        """What goes wrong becomes one line on the page."""

        @wraps(act)
        def safe(*args: Any) -> Any:
            try:
                return act(*args)
            except Exception as error:
                line = html.escape(" ".join(str(error).split()) or type(error).__name__)
                raise gr.Error(line, print_exception=not isinstance(error, InputError)) from error

        return safe

    def drawing(photograph: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        back = resize_image(photograph, canvas_size(mask.shape))
        return {"background": back, "layers": [to_layer(mask)] if mask.any() else [], "composite": None}

    def drawn(photo: dict, canvas: dict | None) -> np.ndarray:
        size, layers = photo["array"].shape[:2], canvas and canvas["layers"]
        return from_layer(layers[0], size, len(names)) if layers else np.zeros(size, np.uint8)

    def opened(path: str | None) -> tuple:
        array = read_photograph(path) if path else np.full((*page.size, 3), 128, np.uint8)
        photo, size = {"name": path and bf.basename(path), "array": array}, array.shape[:2]
        about = f"{size[1]} x {size[0]} pixels" if path else "no photograph: an image of the networks' size"
        return photo, {}, drawing(array, np.zeros(size, np.uint8)), about

    def moved(photo: dict, stamp: dict, canvas: dict, *place: float) -> tuple:
        """The mask of the bank at its place; what was brushed before and since stays."""
        if not stamp:
            return stamp, gr.skip()
        now, (across, down, size) = drawn(photo, canvas), place
        below = np.where(now == stamp["seen"], stamp["below"], now) if "seen" in stamp else now
        scale = size * np.multiply(page.scale if photo["name"] else (1, 1), page.bank.shrunk)
        shown = placed(below, stamp["mask"], (down / 100, across / 100), scale)
        seen = from_layer(to_layer(shown), shown.shape, len(names))  # as the canvas gives it back
        return {**stamp, "below": below, "seen": seen}, drawing(photo["array"], shown)

    def from_bank(photo: dict, stamp: dict, type_: int, *rest: Any) -> tuple:
        number = stamp.get("number", -1) + 1
        return moved(photo, {**stamp, "mask": page.stencil(type_, number), "number": number}, *rest)

    def views(made: GeneratedBatch | None, outlined: bool) -> tuple[list, Any]:
        """Close-ups, and what can be ticked."""
        texts = [f"seed {about['seed']}" for about in made.conditions] if made else []
        tiles = [(close_up(made.images[k], made.masks[k], outlined), text) for k, text in enumerate(texts)]
        return tiles, gr.CheckboxGroup([*zip(texts, range(len(texts)), strict=True)], value=[])

    def generated(photo: dict, canvas: dict, step: int, seed: int, outlined: bool, bar: Any = gr.Progress()) -> tuple:  # noqa: B008
        photograph = photo["array"] if photo["name"] else None
        seeds, about = bar.tqdm(range(seed, seed + VARIANTS)), {"step_inference": step, "background": photo["name"]}
        made = page.variants(photograph, drawn(photo, canvas), seeds, **about)
        return made, *views(made, outlined), ""

    def kept(made: GeneratedBatch | None, ticked: list[int], outlined: bool) -> tuple:
        if not ticked:
            raise InputError("nothing is ticked: generate, and tick what is good")
        made[ticked].save(page.sample_dir)
        made = made[[k for k in range(len(made)) if k not in ticked]]
        return made, *views(made, outlined), f"{len(ticked)} added to {page.sample_dir}"

    names, fixed = page.class_names, {"color_mode": "fixed", "default_size": "auto"}
    colours = ["#" + colour.tobytes().hex() for colour in palette(len(names))[1:]]
    brushes = [{"colors": [colour], "default_color": colour, **fixed} for colour in colours]
    legend = " ".join(f'<b style="color:{c}">■</b> {html.escape(n)}' for c, n in zip(colours, names, strict=True))
    start, types = opened(None), [*zip(names, range(1, 1 + len(names)), strict=True)]
    editor = {"sources": (), "transforms": (), "layers": False, "buttons": [], "format": "png", "height": 560}
    with gr.Blocks(title="Defect-Gen", analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        photo, stamp, made = gr.State(start[0]), gr.State({}), gr.State()
        with gr.Tab("Insert"):
            with gr.Row():
                with gr.Column(scale=3, min_width=320):
                    file = gr.File(label="1. Photograph of a good part (none: the networks' own size)", height=150)
                    type_ = gr.Dropdown(types, value=1, label="2. Type of defect")
                    canvas = gr.ImageEditor(start[2], label="3. Brush it", brush=gr.Brush(**brushes[0]), **editor)
                    gr.HTML(f"{legend}<br>The tools on the picture, in order: brush, eraser, colour, width.")
                with gr.Column(scale=1, min_width=280):
                    bank = gr.Button("Or a mask like training's")
                    across = gr.Slider(0, 100, 50, step=1, label="its place, % from the left")
                    down = gr.Slider(0, 100, 50, step=1, label="its place, % from above")
                    size = gr.Slider(0.25, 4, 1, step=0.05, label="its size")
                    about = "the small network draws the detail below it"
                    step = gr.Slider(*page.steps, step=1, label="Hand-off step", info=about)
                    seed = gr.Number(
                        0, label="Seed", info="of the first variant", precision=0, minimum=0, maximum=10**9
                    )
                    go = gr.Button("4. Generate", variant="primary")
            shown = gr.Gallery(label="Variants", object_fit="scale-down", format="png")
            with gr.Row():
                outlined = gr.Checkbox(True, label="show the mask")
                ticked = gr.CheckboxGroup([], label="5. Tick what is good")
                keep = gr.Button(f"Keep what is ticked in {page.sample_dir}")
            said = gr.Markdown(start[3])
        with gr.Tab("Gallery") as tab:
            samples = gr.Gallery(label=page.sample_dir, object_fit="contain", format="png")
        place, result = [canvas, across, down, size], [made, shown, ticked, said]
        file.change(told(opened), file, [photo, stamp, canvas, said])
        pick = f"type => ({{__type__: 'update', brush: {brushes}[type - 1]}})"
        type_.change(None, type_, canvas, js=pick)  # in the browser, so that no stroke is of the type before
        bank.click(told(from_bank), [photo, stamp, type_, *place], [stamp, canvas])
        gr.on([one.release for one in place[1:]], told(moved), [photo, stamp, *place], [stamp, canvas])
        go.click(told(generated), [photo, canvas, step, seed, outlined], result)
        keep.click(told(kept), [made, ticked, outlined], result)
        outlined.change(lambda *given: views(*given)[0], [made, outlined], shown)
        tab.select(told(lambda: gallery(page.sample_dir)), None, samples)
    return blocks
