"""What samples are held to: types, masks and photographs, checked, and read from folders for the command line."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import blobfile as bf
import numpy as np
import torch
from torch import Tensor

from .. import dist_util
from ..config import Config
from ..data.files import list_folder
from ..data.image_files import read_index_mask
from ..data.prepared import match_types, read_label_map
from ..diffusion.conditioning import Known, far_from_defects
from ..errors import InputError, unknown_name
from ..joint_tensor import MASK, RGB, JointLayout
from ..precision import to_device
from .mask_bank import draw_masks
from .settings import Settings

BALANCED, TRAINING, NO_DEFECT = "balanced", "training", "none"  # of defects, beside the types' names


def parse_defects(defects: Sequence[str | Sequence[str]], config: Config) -> tuple[frozenset[int], ...]:
    """Which types samples are to show, as sets of type indices: sample i the i-th, modulo their number.

    An entry is "crack", "crack,hole" (both), or a list of both, "none", "balanced", which stands for one type after the
    other, or "training", which stands for data.types_seen. Raises InputError."""
    asked: list[frozenset[int]] = []
    class_names = config.layout.class_names
    for entry in defects:
        word = entry.strip() if isinstance(entry, str) and entry not in class_names else None  # a type so called wins
        names = [entry] if isinstance(entry, str) else [*entry]
        names = names if word is None else _split(entry, class_names)
        if word == BALANCED:
            asked += [frozenset({k}) for k in range(1, len(class_names) + 1)]
            continue
        if word == TRAINING:
            if not config.data.types_seen:
                raise InputError(f"`defects` {TRAINING}: the checkpoint does not say which types it saw; name some")
            asked += parse_defects(config.data.types_seen, config)
            continue
        names = [] if word == NO_DEFECT else names
        for name in names:
            if name in (BALANCED, TRAINING, NO_DEFECT) and name not in class_names:
                raise InputError(f"`defects` {entry}: {name} stands for itself; leave the types beside it out")
            if name not in class_names:
                raise InputError(unknown_name("type in `defects`", name, [*class_names, BALANCED, TRAINING, NO_DEFECT]))
        asked.append(frozenset(class_names.index(name) + 1 for name in names))
    if not asked:
        raise InputError("`defects`: names no type; give some, or leave it out")
    return tuple(asked)


def _split(entry: str, class_names: Sequence[str]) -> list[str]:
    """The names in "crack,hole"; types may have commas in theirs, the longest counts."""
    words, names = entry.split(","), []
    while words:
        ends = (end for end in range(len(words), 0, -1) if ",".join(words[:end]).strip() in class_names)
        end = next(ends, 1)
        names.append(",".join(words[:end]).strip())
        words = words[end:]
    return names


def as_index_masks(masks: Any, num_defect: int, name: str = "masks") -> np.ndarray:
    """uint8 [M, H, W] of whole numbers or, for one type, bools: [M, H, W], [H, W] or a list. Raises InputError."""
    try:
        found = np.asarray(masks)
    except ValueError:  # of several sizes
        found = np.zeros(0, object)
    if found.dtype.kind not in "biu" or found.ndim not in (2, 3) or not found.size:
        given = f"{found.dtype} {list(found.shape)}"
        raise InputError(f"`{name}`: {given}; expected whole numbers [M, H, W], [H, W], or a list of [H, W]")
    if found.dtype == bool and num_defect > 1:
        raise InputError(f"`{name}`: bool does not tell which of {num_defect} types; multiply it by the type's number")
    if not 0 <= found.min() <= found.max() <= num_defect:
        wrong = found.min() if found.min() < 0 else found.max()
        raise InputError(f"`{name}`: hold type {wrong}, but the networks know {num_defect}")
    return found.astype(np.uint8).reshape(-1, *found.shape[-2:])


class Conditions:
    """What samples are held to, checked: sample i to entry i modulo their number, or sample numbers[i] to entry i
    (ascending). Raises InputError.

    Masks uint8 [M, H, W], perhaps with backgrounds uint8 [M, H, W, 3]; or the settings' defects, by default the types
    that training saw; or nothing. settings: complete ones. For the manifest, names: what to call each entry; about:
    what decides them all."""

    def __init__(
        self,
        config: Config,
        settings: Settings,
        masks: np.ndarray | None = None,
        backgrounds: np.ndarray | None = None,
        names: Sequence[Mapping[str, Any]] = (),
        about: Mapping[str, Any] | None = None,
        numbers: Sequence[int] | None = None,
    ) -> None:
        self.layout = layout = config.layout
        self.margin, self.names, self.about = settings.margin, names, about or {}
        backgrounds = None if backgrounds is None else np.asarray(backgrounds)
        self.masks, self.backgrounds, self.numbers = None, backgrounds, numbers
        one_hot = torch.eye(1 + layout.num_defect)
        self.types = one_hot[:1]  # column 0: nothing is told
        if masks is None:
            if backgrounds is not None:
                raise InputError("`backgrounds`: need masks that say where the defects go; give `masks` too")
            defects, alone = settings.defects, settings.step_inference == config.diffusion.num_timestep
            if defects is None and (config.model.patch or not alone):  # else the small network works alone
                defects = config.data.types_seen or None
            if defects is not None:
                shown = [sorted(own) for own in parse_defects(defects, config)]
                self.types = torch.stack([one_hot[own].sum(dim=0) for own in shown])
                self.names = [{"types": [layout.class_names[k - 1] for k in own]} for own in shown]
            elif settings.guidance_scale != 1:
                fault = "without `defects` or `masks` there is nothing to guide by; give one of them, or leave it out"
                raise InputError(f"`guidance_scale` {settings.guidance_scale:g}: {fault}")
            return
        if settings.defects is not None:
            raise InputError("`defects`: the masks tell the types already; give one of the two")
        self.masks = masks = as_index_masks(masks, layout.num_defect)
        shape = (len(masks), *settings.image_size)
        for name, array, expected in (("masks", masks, shape), ("backgrounds", backgrounds, (*shape, 3))):
            if array is not None and (array.dtype != np.uint8 or array.shape != expected):
                raise InputError(f"`{name}`: {array.dtype} {list(array.shape)}, expected uint8 {list(expected)}")
        if about is None:
            self.about = {"masks": len(masks), "sha256": hashlib.sha256(masks.tobytes()).hexdigest()}
            if backgrounds is not None:
                sha256 = hashlib.sha256(backgrounds.tobytes()).hexdigest()
                self.about |= {"backgrounds_sha256": sha256, "margin": settings.margin}

    def _rows(self, indices: Sequence[int]) -> np.ndarray:
        """Which masks samples have."""
        if self.numbers is not None:
            return np.searchsorted(self.numbers, indices)
        return np.asarray(indices) % len(self.masks)

    def names_of(self, indices: Sequence[int]) -> list[Mapping[str, Any] | None]:
        """For the manifest, what samples are held to."""
        return [self.names[index % len(self.names)] if self.names else None for index in indices]

    def known(self, indices: Sequence[int], device: torch.device) -> Known | None:
        """What is given of N samples: masks, and photographs beyond the margin of a defect, which grows into them."""
        if self.masks is None:
            return None
        rows = self._rows(indices)
        index = to_device(torch.from_numpy(self.masks[rows]), device)  # [N, H, W]
        rgb = np.zeros((*index.shape, 3), np.uint8) if self.backgrounds is None else self.backgrounds[rows]
        values = self.layout.encode(to_device(torch.from_numpy(rgb), device).permute(0, 3, 1, 2), index)  # [N, C, H, W]
        where = torch.zeros_like(values, dtype=torch.bool)
        where[:, MASK] = True
        if self.backgrounds is not None:
            where[:, RGB] = far_from_defects(index, self.margin)
        return Known(values, where)

    def told(self, indices: Sequence[int], place: Sequence[int], size: Sequence[int]) -> Tensor:
        """What a network with class_cond is told of N samples, float32 [N, 1 + num_defect] as JointLayout.types_in: of
        a window of `size` = (height, width) at `place` = (top, left), what the masks show there."""
        if self.masks is None:
            return self.types[np.asarray(indices) % len(self.types)]
        rows = self._rows(indices)
        window = self.masks[rows, place[0] : place[0] + size[0], place[1] : place[1] + size[1]]
        return self.layout.types_in(torch.from_numpy(np.ascontiguousarray(window)))


def read_conditions(
    config: Config,
    settings: Settings,
    *,
    masks: str | None = None,
    bank_data: str | None = None,
    types_per_image: int = 1,
    defects: Sequence[str] | None = None,
    seed: int = 0,
    num_samples: int = 0,
) -> Conditions:
    """Masks for samples of the networks of `config`: a folder of index masks, taken in natural order, or "bank":
    num_samples new ones like those of the data set bank_data, which show the types `defects`. Raises InputError naming
    what cannot be used."""
    layout, size = config.layout, settings.image_size
    if masks != "bank" and (bank_data or types_per_image != 1):
        raise InputError(f"`{'bank_data' if bank_data else 'types_per_image'}`: goes with `masks` bank only")
    if masks is None:
        return Conditions(config, settings)
    if masks == "bank":
        types = parse_defects(defects, config) if defects else ()
        if types and types_per_image != 1:
            raise InputError("`types_per_image`: `defects` says which types an image has; give one of the two")
        held, about = draw_masks(config, bank_data, size, seed, num_samples, types or types_per_image)
        return Conditions(config, settings, held, about=about)
    files = list_images(masks, "masks")
    read = mask_reader(masks, layout)
    held = [read(path) for path in files]
    for path, mask in zip(files, held, strict=True):
        if mask.shape != tuple(size):
            fault = "is {} x {} (height x width), but samples are {} x {}".format(*mask.shape, *size)
            remedy = "bring it to that size without blending labels (scripts/prepare_data.py)"
            raise InputError(f"`masks` {path}: {fault}; {remedy}")
    held, names = np.stack(held), [{"mask": bf.basename(path)} for path in files]
    return Conditions(config, settings, held, None, names)


def mask_reader(folder: str, layout: JointLayout) -> Callable[[str], np.ndarray]:
    """Reads an index mask uint8 [H, W] of a folder, of a data set or not, types matched by name."""
    folder = folder.rstrip("/")
    above = (folder, bf.dirname(folder), bf.dirname(bf.dirname(folder)))  # masks of a data set, or of its type folder
    own = next(filter(None, map(read_label_map, above)), None)
    numbers, note = match_types(own, layout.class_names, folder)
    table = np.array(numbers or range(layout.num_defect + 1), np.uint8)
    if note and dist_util.rank() == 0:
        print(note, flush=True)
    return lambda path: table[read_index_mask(path, len(table) - 1)]


def list_images(folder: str, parameter: str) -> list[str]:
    """Paths of the files in a folder, in natural order. Raises InputError where there is none."""
    files, folders = list_folder(folder) if bf.isdir(folder) else ([], [])
    if not files:
        guess = f"did you mean {bf.join(folder, folders[0])}?" if len(folders) == 1 else "check the path"
        raise InputError(f"`{parameter}` {folder}: is not a folder that holds image files; {guess}")
    return [bf.join(folder, name) for name in files]
