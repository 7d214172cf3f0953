"""Which images train and which are held out, so that photographs of one part never stand on both sides."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..keyed_random import numpy_generator

TRAIN, VAL = "train", "val"


class FirstShots:
    """Takes the first `count` images of each type folder; in flat layouts, images while a type of theirs has fewer."""

    def __init__(self, count: int):
        self._count = count
        self._folders: Counter[str] = Counter()
        self._types: Counter[int] = Counter()

    def takes(self, folder: str | None, types: Collection[int]) -> bool:
        """Whether the next image, in natural order, is among them; types: indices in its mask, for flat layouts."""
        if folder is not None:
            self._folders[folder] += 1
            return self._folders[folder] <= self._count
        if all(self._types[index] >= self._count for index in types):
            return False
        self._types.update(types)
        return True


@dataclass(frozen=True)
class Item:
    """What a split looks at. types: indices in the mask; empty for defect-free images. group: of the same part."""

    folder: str | None
    types: frozenset[int]
    group: str
    good: bool = False


def by_shots(items: Sequence[Item], count: int) -> list[str | None]:
    """TRAIN for the first `count` images per type and for defect-free ones, VAL for the rest; None: left out.

    Left out is what would straddle: an image that is not among the first but shows a part of them.
    """
    shots = FirstShots(count)
    chosen = [not item.good and shots.takes(item.folder, item.types) for item in items]
    trained = {item.group for item, taken in zip(items, chosen, strict=True) if taken}
    held_out = {item.group for item in items if not item.good and item.group not in trained}
    parts: list[str | None] = []
    for item, taken in zip(items, chosen, strict=True):
        if item.good:
            parts.append(None if item.group in held_out else TRAIN)
        elif taken:
            parts.append(TRAIN)
        else:
            parts.append(None if item.group in trained else VAL)
    return parts


def by_fraction(items: Sequence[Item], fraction: float, seed: int) -> list[str | None]:
    """VAL for about `fraction` of each type's images, whole groups at a time, TRAIN for the rest; no image is left out.

    The rarest type chooses first, among its groups in an order that depends on `seed` alone; a type of several groups
    keeps one on either side.
    """
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.group].append(item)
    order = list(groups)
    numpy_generator("split", seed).shuffle(order)
    kinds = {group: Counter(kind for item in own for kind in _kinds(item)) for group, own in groups.items()}
    totals: Counter = sum(kinds.values(), Counter())
    left = Counter(kind for own in kinds.values() for kind in own)  # groups of each kind that train
    held: set[str] = set()
    for kind in sorted(totals, key=lambda kind: (totals[kind], str(kind))):
        own = [group for group in order if kinds[group][kind]]
        count = sum(kinds[group][kind] for group in own if group in held)
        for group in own:
            missing = fraction * totals[kind] - count
            if group in held or missing <= 0 or any(left[other] < 2 for other in kinds[group]):
                continue
            if kinds[group][kind] <= 2 * missing or count == 0:  # nearer to the target with it than without
                held.add(group)
                left.subtract(kinds[group].keys())
                count += kinds[group][kind]
    return [VAL if item.group in held else TRAIN for item in items]


def _kinds(item: Item) -> Collection[object]:
    """What is to be spread evenly: types, an empty mask, defect-free images."""
    return item.types or (("good",) if item.good else ("empty",))
