#!/usr/bin/env python3
"""Draw a small labelled data set: brushed metal plates with scratches, stains and pits, all in greys.

A defect shows by its shape, edges and shading, as it does on real metal. No colour tells the types apart.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

LABEL_MAP = {"scratch": 1, "stain": 2, "pit": 3}
TYPES = tuple(LABEL_MAP)


def types_of_image(index: int) -> list[str]:
    """The defect types image `index` shows, that of its folder first: in turn, every third image several."""
    first = index % 3
    several = (index + index // 3) % 3 == 0
    count = 1 if not several else 3 if index // 3 % 4 == 3 else 2
    step = 1 + index // 9 % 2
    return [TYPES[(first + step * i) % 3] for i in range(count)]


def draw(index: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image `index`, a function of (size, seed, index): RGB uint8 [S, S, 3] and index mask uint8 [S, S]."""
    rng = np.random.default_rng([seed, index])
    # All lengths below are in units of 1/64 of the side, whatever the size in pixels.
    grid = (np.arange(size) + 0.5) * 64 / size
    x, y = np.meshgrid(grid, grid)
    pixel = 64 / size

    def cover(distance: np.ndarray, soft: float = 0) -> np.ndarray:
        """Share of each pixel inside a shape, from the signed distance to its outline (negative inside)."""
        return np.clip(0.5 - distance / (pixel + soft), 0, 1)

    plate, image = _plate(rng, x, y)
    mask = np.zeros((size, size), np.uint8)
    types = types_of_image(index)
    for name in types:
        most = 2 if name == "pit" and len(types) < 3 else 1  # so that all find room on the plate
        for _ in range(int(rng.integers(1, most + 1))):
            shape, gain = _place(rng, SHAPES[name], x, y, plate, mask)
            image *= 1 + cover(shape, SOFT[name]) * (gain - 1)
            mask[shape < 0] = LABEL_MAP[name]
    grey = np.clip(np.round(image), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), mask


def _plate(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A plate from the left border to the right one: the signed distance to its edges, and its grey level.

    It is brushed lengthwise and brighter towards the lamp on the left; its bevelled edges fall off to a dark floor.
    """
    size = len(x)
    plate = np.abs(y - rng.uniform(31.5, 32.5)) - 25
    length = max(3, size // 8)
    noise = rng.normal(0, 1, (size, size + 2 * length))
    for _ in range(2):  # a moving average of one: strokes that come and go
        running = np.cumsum(noise, axis=1)
        noise = running[:, length:] - running[:, :-length]
    brushed = 6 * noise / noise.std()
    level = 150 + rng.uniform(-5, 5) - 14 * (x - 32) / 32 + brushed
    bevel = 18 * np.exp(-(((plate + 4.5) / 1.8) ** 2))
    inside = 1 / (1 + np.exp((plate + 1) / 1.1))
    floor = 62 + 0.4 * brushed
    return plate, floor + inside * (level + bevel - floor)


# A shape: signed distance to its outline, and what it multiplies the plate's grey level by, both [S, S].
Shape = tuple[np.ndarray, np.ndarray]
SOFT = {"scratch": 0.0, "stain": 1.5, "pit": 0.0}  # width of the outline's fading


def _scratch(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A thin, slightly bent groove across the brushing: a bright core between dark rims, ends fading out."""
    angle, bend = np.pi / 2 + rng.uniform(-0.5, 0.5), rng.uniform(-1.5, 1.5)
    half_length, half_width = rng.uniform(8, 11), rng.uniform(2.1, 2.5)
    along = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle)
    across = (y - at[1]) * np.cos(angle) - (x - at[0]) * np.sin(angle)
    place = np.clip(along / half_length, -1, 1)
    off = np.hypot(along - half_length * place, across - bend * (place**2 - 0.5))
    distance = off - half_width * (1 - 0.3 * np.abs(place) ** 3)
    core = np.exp(-((off / (0.5 * half_width)) ** 2))
    return distance, 0.62 + (0.85 - 0.25 * np.abs(place)) * core


def _stain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A soft dark blot with an uneven outline, darkest at its rim as a dried drop is; the brushing shows through."""
    radius = rng.uniform(6, 8)
    angle = np.arctan2(y - at[1], x - at[0])
    outline = np.ones_like(x)
    for waves, size in ((2, 0.10), (3, 0.09), (5, 0.05)):
        outline += size * rng.uniform(0.4, 1) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(x - at[0], y - at[1]) - radius * outline
    rim = np.clip(1 + distance / 2.5, 0, 1)
    return distance, rng.uniform(0.68, 0.76) - 0.18 * rim


def _pit(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A small round hole: dark, with a bright crescent on the wall that faces the lamp."""
    radius = rng.uniform(4.2, 5.4)
    to_centre = np.hypot(x - at[0], y - at[1])
    facing = np.clip((x - at[0]) / np.maximum(to_centre, 1e-6), 0, 1)
    wall = np.clip(1 + (to_centre - radius) / (0.7 * radius), 0, 1)
    return to_centre - radius, 0.36 + 1.5 * facing * wall


SHAPES: dict[str, Callable[..., Shape]] = {"scratch": _scratch, "stain": _stain, "pit": _pit}


def _place(
    rng: np.random.Generator,
    shape: Callable[..., Shape],
    x: np.ndarray,
    y: np.ndarray,
    plate: np.ndarray,
    mask: np.ndarray,
) -> Shape:
    """Draw the shape on the plate and clear of what is there; after 100 tries, where it came to lie."""
    for _ in range(100):
        distance, gain = shape(rng, x, y, rng.uniform(10, 54, 2))
        if plate[distance < 0].max(initial=-9) < -4 and not mask[distance < 2].any():
            break
    return distance, gain


def write_released(
    root: str,
    names: Sequence[str],
    pairs: Iterable[tuple[np.ndarray, np.ndarray | None]],
    label_map: dict[str, int],
    source: dict[str, object],
) -> int:
    """Write a prepared set, dataset.json last, unless it is there; returns how many files had to be written.

    names: "<type>/<stem>" or "<stem>" of each sample. pairs: in the same order, image uint8 [H, W] or [H, W, 3] and
    index mask uint8 [H, W], or None for a defect-free image. Raises InputError where `root` holds another set.
    """
    from guided_diffusion.data.files import check_no_links
    from guided_diffusion.data.prepared import check_no_strangers, clear_temporaries, write_pair
    from guided_diffusion.data.records import DATASET_FILE, RELEASED
    from guided_diffusion.file_io import as_json, ensure_writable, write_if_changed

    check_no_strangers(root, {f"{name}.png" for name in names})
    check_no_links(root, (f"{part}/{name}.png" for part in RELEASED for name in names))
    ensure_writable(root, "OUT")
    clear_temporaries(root, names)
    made = [write_pair(root, name, *pair, label_map) for name, pair in zip(names, pairs, strict=True)]
    content = {"label_map": label_map, "source": source, "images": [record for record, _ in made]}
    changed = write_if_changed(f"{root.rstrip('/')}/{DATASET_FILE}", as_json(content))
    return sum(written for _, written in made) + changed


def main(argv: list[str] | None = None) -> None:
    from tqdm import tqdm

    from guided_diffusion.errors import Parser, check_range

    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT", help="folder for the data set")
    parser.add_argument("--num_images", type=int, default=24, help="how many images (default 24)")
    parser.add_argument("--size", type=int, default=64, help="width and height in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same set (default 0)")
    args = parser.parse_args(argv)
    check_range(args, num_images=(3, 10**5), size=(32, 8192), seed=(0, 10**18))

    digits = max(3, len(str(args.num_images - 1)))
    names = [f"{types_of_image(index)[0]}/{index:0{digits}d}" for index in range(args.num_images)]
    progress = tqdm(range(args.num_images), desc="drawing", unit="image", disable=None)
    pairs = (draw(index, args.size, args.seed) for index in progress)
    source = {"drawn_by": "scripts/draw_demo_data.py", "size": args.size, "seed": args.seed}
    if write_released(args.out, names, pairs, LABEL_MAP, source):
        types = ", ".join(LABEL_MAP)
        print(f"{args.out}: drew {args.num_images} images of {args.size} x {args.size} pixels with {types}")
    else:
        print(f"{args.out}: already holds these {args.num_images} images, nothing changed")


def run() -> None:
    from guided_diffusion.errors import run_cli

    run_cli(main)


if __name__ == "__main__":
    import run_command

    run_command.run(run)
