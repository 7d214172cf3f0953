"""Defects drawn into photographs of any size: a window around each is generated at the training's scale, and what the
networks changed there is brought back to the photograph's. Further than the margin it stays as it is, to the bit.

Photographs and masks are read for the command line, a round at a time.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, groupby, islice
from math import ceil
from typing import TYPE_CHECKING, Any

import blobfile as bf
import cv2
import numpy as np
from tqdm import tqdm

from .. import dist_util
from ..config import Config
from ..data.files import stem_of
from ..data.image_files import mask_levels, open_image, read_image, resize_image, resize_mask, turned
from ..errors import InputError, brief
from ..parallel import default_workers, parallel_map
from .conditions import Conditions, list_images, mask_reader, parse_defects
from .mask_bank import MaskBank, load_bank_data
from .placement import ANYWHERE, MOST_DEFECTS, Placement, reach, training_distances, types_to_draw
from .settings import Settings

if TYPE_CHECKING:
    from .api import DefectGen

MOST_WINDOWS = 4096  # of a photograph
LARGEST_SCALE = 1000.0


@dataclass(frozen=True)
class Window:
    """Where in a photograph defects are drawn; image uint8 [h, w, 3] and mask uint8 [h, w] there at the training's
    scale; how much of what is drawn counts, float32 [h, w], from 1 on a defect's border to 0 at the margin, cut to that
    when it is enlarged; and the pixels of the photograph that may change, uint8 0/1 of its own size."""

    rows: slice
    columns: slice
    image: np.ndarray
    mask: np.ndarray
    weight: np.ndarray
    near: np.ndarray


def find_scale(given: Sequence[float] | float | None, recorded: Sequence[float]) -> tuple[float, float]:
    """Photograph pixels per training pixel, (down, across): as given, else as recorded. Raises InputError."""
    try:
        values = recorded if given is None else np.ravel(given).tolist()
    except ValueError:  # lists of several lengths
        values = [given]
    if not values:
        fault = "the checkpoint does not tell how much larger its photographs were than what it trained on"
        raise InputError(f"`scale`: {fault}; give it, such as 4 for photographs of 256 pixels brought to 64")
    sane = (isinstance(value, int | float) and 1 / LARGEST_SCALE <= value <= LARGEST_SCALE for value in values)
    if len(values) not in (1, 2) or not all(sane):
        raise InputError(f"`scale` {brief(list(values))}: must be one number or two, from 0.001 to 1000")
    return (values[0], values[-1])


def find_windows(
    photograph: np.ndarray, mask: np.ndarray, scale: Sequence[float], size: Sequence[int], multiple: int, margin: int
) -> list[Window]:
    """The windows that draw the defects of an index mask uint8 [H, W] into a photograph uint8 [H, W, 3].

    Defects that are nearer to each other than their margins share one. It shows size = (h, w) pixels of the training;
    of a larger defect as many as it needs, a multiple of `multiple`. Where the photograph is smaller, all of it is
    shown at that size."""
    contours = cv2.findContours(_grown(mask, reach(scale, margin)), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if len(contours) > MOST_WINDOWS:
        raise InputError(f"`masks`: one has {len(contours):,} separate defects; {MOST_WINDOWS:,} are the most")
    windows = []
    for (left, top, width, height), contour in sorted(((cv2.boundingRect(c), c) for c in contours), key=lambda c: c[0]):
        where, sides = [], []
        for axis, (start, extent) in enumerate(((top, height), (left, width))):
            length, side = mask.shape[axis], size[axis]
            if extent > side * scale[axis]:
                side = ceil(extent / scale[axis] / multiple) * multiple
            box = min(length, round(side * scale[axis]))
            first = min(max(0, start + extent // 2 - box // 2), length - box)
            where.append(slice(first, first + box))
            sides.append(side)
        rows, columns = where
        own = np.zeros(mask[rows, columns].shape, np.uint8)  # not what other windows draw
        cv2.drawContours(own, [contour], 0, 1, cv2.FILLED, offset=(-columns.start, -rows.start))
        own *= mask[rows, columns]
        near = _grown(own, [int(margin * factor) for factor in scale])
        small = resize_mask(own, sides, least=0)  # what is drawn is meant
        beside = cv2.distanceTransform((small == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        weight = 1 - (beside - 0.5) / max(1, margin)
        image = resize_image(photograph[rows, columns], sides)
        windows.append(Window(rows, columns, image, small, weight, near))
    return windows


def _grown(mask: np.ndarray, by: Sequence[int]) -> np.ndarray:
    """uint8 [H, W]: 1 within so many pixels, down and across, from where a mask [H, W] is above 0."""
    down, across = map(min, by, mask.shape)
    return cv2.dilate((mask > 0).astype(np.uint8), np.ones((2 * down + 1, 2 * across + 1), np.uint8))


def paste(photograph: np.ndarray, window: Window, drawn: np.ndarray) -> None:
    """Put a generated window uint8 [h, w, 3] into its photograph uint8 [H, W, 3].

    What is added is the change, enlarged: finer detail than the training's, such as grain, stays that of the
    photograph. It fades out over the margin."""
    there = photograph[window.rows, window.columns]
    size, way = there.shape[1::-1], cv2.INTER_CUBIC if there.shape[0] >= drawn.shape[0] else cv2.INTER_AREA
    change = cv2.resize(np.subtract(drawn, window.image, dtype=np.float32), size, interpolation=way)
    weight = cv2.resize(window.weight, size, interpolation=cv2.INTER_LINEAR).clip(0, 1) * window.near
    there[:] = np.rint(np.clip(there + weight[..., None] * change, 0, 255))


def insert(
    generator: "DefectGen",
    photographs: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    indices: Sequence[int],
    scale: Sequence[float],
    batch_size: int | str,
    settings: Settings,
    **how: Any,
) -> list[np.ndarray]:
    """Photographs uint8 [H, W, 3], each of its own size, with the defects of its mask uint8 [H, W] drawn in.

    indices: the samples' numbers, which key their noise. settings: complete ones, whose image_size is the windows'.
    how: for DefectGen.draw. Windows of several photographs make a batch. Raises InputError."""
    results = [photograph.copy() for photograph in photographs]
    multiple = max(network.config.model.size_multiple for network in generator.networks.values() if network)
    todo = []  # (number, result, window)
    for index, result, mask in zip(indices, results, masks, strict=True):
        found = find_windows(result, mask, scale, settings.image_size, multiple, settings.margin)
        todo += [(int(index) * MOST_WINDOWS + k, result, window) for k, window in enumerate(found)]
    todo.sort(key=lambda job: (job[2].mask.shape, job[0]))
    for size, jobs in groupby(todo, key=lambda job: job[2].mask.shape):
        numbers, changed, windows = zip(*jobs, strict=True)
        own = settings
        if size != tuple(settings.image_size):
            own = generator.settings(settings, image_size=size, windows="on")
        given = (np.stack([getattr(window, key) for window in windows]) for key in ("mask", "image"))
        conditions = Conditions(generator.config, own, *given, about={}, numbers=numbers)
        most = generator.choose_batch_size(batch_size, len(numbers), own)
        drawn = generator.draw(numbers, most, settings=own, conditions=conditions, **how).images
        for result, window, image in zip(changed, windows, drawn, strict=True):
            paste(result, window, image)
    return results


@dataclass(frozen=True)
class Insertions:
    """What is drawn into which photographs. files: sample i takes number i, modulo their number. mask: that of a
    sample, for its photograph uint8 [H, W, 3]; None: it has no room. names, about: for the manifest."""

    files: Sequence[str]
    mask: Callable[[int, np.ndarray], np.ndarray | None]
    scale: tuple[float, float]
    names: Sequence[dict[str, str]]
    about: dict[str, Any]

    def draw(
        self,
        generator: "DefectGen",
        indices: Sequence[int],
        batch_size: int,
        settings: Settings,
        **how: Any,
    ) -> tuple[Sequence[int], list[np.ndarray], Sequence[np.ndarray], Sequence[dict[str, str]]]:
        """Indices, images uint8 [H, W, 3], index masks uint8 [H, W] and conditions of those of the samples whose
        photographs have room for a defect; of the others a line is printed. how: as for DefectGen.draw."""
        jobs = []
        for index in indices:
            place = index % len(self.files)
            photograph = read_image(self.files[place])
            if (mask := self.mask(index, photograph)) is None:
                tqdm.write(f"{self.files[place]}: sample {index} is left out, as no defect finds room in it")
            else:
                jobs.append((index, photograph, mask, self.names[place]))
        indices, photographs, masks, names = zip(*jobs, strict=True) if jobs else ((),) * 4
        images = insert(generator, photographs, masks, indices, self.scale, batch_size, settings, **how)
        return indices, images, masks, names


def read_insertions(
    config: Config,
    settings: Settings,
    *,
    background: str,
    masks: str | None = None,
    where: str | None = None,
    scale: Sequence[float] | None = None,
    defects_per_image: tuple[int, int] | None = None,
    defects: Sequence[str] | None = None,
    bank_data: str | None = None,
    seed: int = 0,
    num_samples: int | None = None,
) -> Insertions:
    """The photographs of the folder `background` with masks: of a folder, each of its photograph's size; or of the
    "bank", placed where the folder `where` allows it (above 0; an image for each photograph, by name, or one for all,
    stretched), or where training shows defects of the type, or "anywhere".

    Masks of the same names as photographs belong to them, others to the photographs left over, in turn. defects: the
    types of each photograph in turn; else defects_per_image of them, from and to. Raises InputError naming what cannot
    be used among the files of the first num_samples samples, before any is made."""
    if masks is None:
        raise InputError("`background`: needs `masks`, which say where the defects go: bank, or a folder")
    pictures, scale = _photographs(background), find_scale(scale, config.data.scale)
    stats = [(bf.basename(path), bf.stat(path).size) for path in pictures]
    about = {"backgrounds": hashlib.sha256(repr(stats).encode()).hexdigest(), "scale": scale, "margin": settings.margin}
    names = [{"background": bf.basename(path)} for path in pictures]
    if masks != "bank":
        told = {"where": where, "defects_per_image": defects_per_image, "defects": defects, "bank_data": bank_data}
        if wrong := [name for name, value in told.items() if value]:
            raise InputError(f"`{wrong[0]}`: the masks tell that already; it goes with `masks` bank only")
        return _of_folder(config, masks, pictures, names, scale, about, num_samples)
    asked = parse_defects(defects, config) if defects else ()
    if asked and defects_per_image:
        raise InputError("`defects_per_image`: `defects` says which types an image has; give one of the two")
    numbers = defects_per_image or (1, 1)
    if not 1 <= numbers[0] <= numbers[1] <= MOST_DEFECTS:
        raise InputError(f"`defects_per_image` {numbers[0]}-{numbers[1]}: must be from 1 to {MOST_DEFECTS}, as in 1-3")
    data, root = load_bank_data(bank_data, config)
    bank, distances = MaskBank.of(data, config, root, whole=True), {}
    if where is None:
        images = (image.permute(1, 2, 0).numpy() for image in data.images)
        distances = training_distances([*images], [mask.numpy() for mask in data.masks])
    placement = Placement(bank, scale, settings.margin, distances)
    allowed = _allowed(where, pictures) if where not in (None, ANYWHERE) else {}
    for_all, sizes = len({*allowed.values()}) == 1, _sizes(pictures[:num_samples])
    for path, size in sizes.items() if allowed else ():
        area = _read_area(allowed[path])
        if for_all:
            break
        _check_size("where", allowed[path], area.shape, path, size)
    about |= {"masks": "bank", "sha256": bank.sha256, "where": where and bf.basename(where.rstrip("/"))}
    about |= {"defects_per_image": numbers, "defects": [sorted(types) for types in asked]}

    def draw(index: int, photograph: np.ndarray) -> np.ndarray | None:
        path = pictures[index % len(pictures)]
        types, area = types_to_draw(bank, asked, numbers, seed, index), None
        if allowed:
            area = _read_area(allowed[path])
            area = (resize_mask(area, photograph.shape[:2]) if for_all else area) > 0
        mask = placement.draw(photograph, area, seed, index, types)
        return mask if mask.any() or not types else None

    return Insertions(pictures, draw, scale, names, about)


def _photographs(folder: str) -> list[str]:
    """Those of a folder, but for masks: PNG files that lie beside a JPEG of the same name."""
    files = list_images(folder, "background")
    photographs = {stem_of(path) for path in files if path.lower().endswith((".jpg", ".jpeg"))}
    masks = {path for path in files if path.lower().endswith(".png") and stem_of(path) in photographs}
    if masks and dist_util.rank() == 0:
        print(f"{folder}: {len(masks)} PNG files beside JPEGs of the same names are left out, as masks", flush=True)
    return [path for path in files if path not in masks]


def _size(path: str) -> tuple[int, ...]:
    return read_image(path).shape[:2]


def _sizes(paths: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """(height, width) of photographs, each read once, by rank 0. Raises InputError, on all ranks."""
    paths, about = [*dict.fromkeys(paths)], {"description": "looking at photographs", "unit": "photograph"}
    found = dist_util.on_zero(lambda: [*parallel_map(_size, paths, workers=default_workers(), **about)])
    return dict(zip(paths, dist_util.broadcast_from_zero(found), strict=True))


def _read_area(path: str) -> np.ndarray:
    """Where a file allows defects: uint8 0/1 [H, W]."""
    levels = mask_levels(opened := open_image(path), path)
    return (turned(levels, opened.orientation) > 0).astype(np.uint8)


def _of_folder(
    config: Config,
    folder: str,
    pictures: list[str],
    names: list[dict[str, str]],
    scale: Any,
    about: dict[str, Any],
    num_samples: int | None,
) -> Insertions:
    """read_insertions with masks of a folder."""
    files, read = list_images(folder, "masks"), mask_reader(folder, config.layout)
    places, stems = {stem_of(path): place for place, path in enumerate(pictures)}, [stem_of(path) for path in files]
    named = not places.keys().isdisjoint(stems)
    turns = cycle([place for stem, place in places.items() if stem not in stems] or range(len(pictures)))
    count = len(files) if named else max(len(files), len(pictures))
    files = [*islice(cycle(files), count)]
    chosen = [places[stem_of(path)] if stem_of(path) in places else next(turns) for path in files]
    if (unused := sorted({*range(len(pictures))}.difference(chosen))) and dist_util.rank() == 0:
        some = f"{len(unused)} photographs without a mask in {folder}, such as {pictures[unused[0]]}"
        print(f"left out: {some}", flush=True)
    content, sizes = hashlib.sha256(), _sizes([pictures[place] for place in chosen][:num_samples])
    for path, place in zip(files, chosen, strict=True):
        content.update(mask := read(path))
        if pictures[place] in sizes:
            _check_size("masks", path, mask.shape, pictures[place], sizes[pictures[place]])
    about |= {"masks": len(files), "sha256": content.hexdigest()}

    def draw(index: int, photograph: np.ndarray) -> np.ndarray:
        return read(files[index % count])

    both = [{"mask": bf.basename(path)} | names[place] for path, place in zip(files, chosen, strict=True)]
    return Insertions([pictures[place] for place in chosen], draw, scale, both, about)


def _check_size(parameter: str, path: str, own: Sequence[int], picture: str, size: Sequence[int]) -> None:
    """Raise InputError where a mask is of another (height, width) than its photograph."""
    if tuple(own) != tuple(size):
        text = "is {} x {} (height x width), but its photograph {} is {} x {}".format(*own, picture, *size)
        raise InputError(f"`{parameter}` {path}: {text}; draw it at that size")


def _allowed(where: str, pictures: list[str]) -> dict[str, str]:
    """The file that says where defects may lie in each photograph."""
    files = list_images(where, "where")
    own = {stem_of(path): path for path in files}
    found = {path: own.get(stem_of(path), files[0] if len(files) == 1 else None) for path in pictures}
    if missing := [path for path, file in found.items() if file is None]:
        raise InputError(f"`where` {where}: holds no file for {missing[0]}; give one of its name, or one for all")
    return found
