#!/usr/bin/env python3
"""Draw a small labelled data set: brushed metal plates with scratches, stains and pits.

Each defect type has its own tint on a grey plate, so that a simple colour rule (`tint_rule`) finds the
defects again in any image, generated ones included. That makes the set a yardstick as well as an example.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

LABEL_MAP = {"scratch": 1, "stain": 2, "pit": 3}
TYPES = tuple(LABEL_MAP)
# RGB; each has another brightest channel, and all have about the same chroma (brightest minus dullest).
TINTS = {"scratch": (60, 110, 200), "stain": (205, 105, 62), "pit": (42, 172, 98)}
LABEL_OF_BRIGHTEST = np.array([LABEL_MAP["stain"], LABEL_MAP["pit"], LABEL_MAP["scratch"]], np.uint8)
CHROMA_THRESHOLD = 65  # grey levels, half the chroma of the tints: an edge pixel half covered lies on it


def tint_rule(image: np.ndarray) -> np.ndarray:
    """Find the tinted defects by colour alone: uint8 [H, W, 3] RGB -> index mask uint8 [H, W]."""
    values = image.astype(np.int16)
    chroma = values.max(-1) - values.min(-1)
    return np.where(chroma > CHROMA_THRESHOLD, LABEL_OF_BRIGHTEST[values.argmax(-1)], np.uint8(0))


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

    def cover(distance: np.ndarray) -> np.ndarray:
        """Share of each pixel inside a shape, from the signed distance to its outline (negative inside)."""
        return np.clip(0.5 - distance / pixel, 0, 1)[..., None]

    plate = _plate_distance(rng, x, y)
    light = _lit_plate(rng, x, y, plate)
    floor = 66 - 0.25 * y + rng.normal(0, 1.2, x.shape)
    shadow = 1 - 0.55 * np.exp(-np.clip(np.roll(plate, (size // 40, size // 50), (0, 1)), 0, None) / 2.5)
    image = np.repeat((floor * shadow)[..., None], 3, axis=2)
    image += cover(plate) * (light[..., None] - image)

    mask = np.zeros((size, size), np.uint8)
    types = types_of_image(index)
    for name in types:
        most = 1 if name == "stain" or len(types) == 3 else 2  # so that all find room on the plate
        for _ in range(int(rng.integers(1, most + 1))):
            shape, shade = _place(rng, SHAPES[name], x, y, plate, mask)
            tint = np.array(TINTS[name]) + rng.normal(0, 5, 3)
            colour = tint * (shade * (0.35 + 0.65 * light / 170))[..., None]
            image += cover(shape) * (colour - image)
            mask[shape < 0] = LABEL_MAP[name]
    return np.clip(np.round(image), 0, 255).astype(np.uint8), mask


def _plate_distance(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a plate with rounded corners, its place and size varying a little."""
    centre_x, centre_y = rng.uniform(30.5, 33.5, 2)
    half_width, half_height = rng.uniform(23.5, 26.5, 2)
    corner = 8.0
    outside_x = np.abs(x - centre_x) - (half_width - corner)
    outside_y = np.abs(y - centre_y) - (half_height - corner)
    to_corner = np.hypot(np.clip(outside_x, 0, None), np.clip(outside_y, 0, None))
    return to_corner + np.clip(np.maximum(outside_x, outside_y), None, 0) - corner


def _lit_plate(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """Grey level of the plate: brushed lengthwise, a soft diagonal sheen, a bevel lit from the upper left."""
    size = len(x)
    length = max(3, size // 5)
    noise = rng.normal(0, 1, (size, size + length))
    running = np.cumsum(noise, axis=1)
    brushed = (running[:, length:] - running[:, :-length]) / np.sqrt(length)
    along = (x + y - 64) / 64
    sheen = 10 * np.cos(3.0 * (along - rng.uniform(-0.5, 0.5)))
    gradient_y, gradient_x = np.gradient(plate)
    towards_light = -(gradient_x + gradient_y) / np.maximum(np.hypot(gradient_x, gradient_y), 1e-6)
    bevel = np.clip(1 + plate / 2.2, 0, 1) * towards_light
    return 166 + rng.uniform(-6, 6) + sheen + 5 * brushed + 26 * bevel


# A shape: signed distance to its outline and its shading (1 = plain tint), both [S, S].
Shape = tuple[np.ndarray, np.ndarray]


def _scratch(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A slightly bent stroke, 4 to 5 wide, tapering at its ends."""
    angle, bend = rng.uniform(0, np.pi), rng.uniform(-3.5, 3.5)
    half_length, half_width = rng.uniform(9, 14), rng.uniform(2.1, 2.6)
    along_axis = (x - at[0]) * np.cos(angle) + (y - at[1]) * np.sin(angle)
    across_axis = (y - at[1]) * np.cos(angle) - (x - at[0]) * np.sin(angle)
    place = np.linspace(-1, 1, 65)
    distance = np.full_like(x, np.inf)
    for t in place:  # the stroke as the union of discs along its curve
        radius = half_width * (1 - 0.35 * abs(t) ** 3)
        to_disc = np.hypot(along_axis - half_length * t, across_axis - bend * (t * t - 0.5)) - radius
        distance = np.minimum(distance, to_disc)
    return distance, 1.12 - 0.22 * np.clip(1 + distance / half_width, 0, 1)


def _stain(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A blob with an uneven outline, 5 to 9 in radius, darker towards its rim as a dried drop is."""
    radius = rng.uniform(6, 8)
    angle = np.arctan2(y - at[1], x - at[0])
    outline = np.ones_like(x)
    for waves, size in ((2, 0.10), (3, 0.09), (5, 0.05)):
        outline += size * rng.uniform(0.4, 1) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    distance = np.hypot(x - at[0], y - at[1]) - radius * outline
    return distance, 1.08 - 0.22 * np.clip(1 + distance / 2.5, 0, 1)


def _pit(rng: np.random.Generator, x: np.ndarray, y: np.ndarray, at: np.ndarray) -> Shape:
    """A round pit, 4.5 to 6 in radius, its upper left wall in the shade."""
    radius = rng.uniform(4.5, 6)
    distance = np.hypot(x - at[0], y - at[1]) - radius
    wall = ((x - at[0]) + (y - at[1])) / (np.sqrt(2) * radius)  # -1 upper left, 1 lower right
    return distance, 0.97 + 0.28 * np.clip(wall, -1, 1) * np.clip(1.6 + distance / radius, 0, 1)


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
        distance, shade = shape(rng, x, y, rng.uniform(14, 50, 2))
        if plate[distance < 0].max(initial=-9) < -3 and not mask[distance < 2].any():
            break
    return distance, shade


def mask_agreement(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[int, float, float]]:
    """Per type: images in which mask or rule has it, IoU of all their pixels, mean of the images' IoUs.

    pairs: image uint8 [H, W, 3] and index mask uint8 [H, W] of each sample.
    """
    rules = [tint_rule(image) for image, _ in pairs]
    found = {}
    for name, index in LABEL_MAP.items():
        compared = [(rule == index, mask == index) for rule, (_, mask) in zip(rules, pairs, strict=True)]
        both = np.array([(rule & mask).sum() for rule, mask in compared])
        either = np.array([(rule | mask).sum() for rule, mask in compared])
        seen = either > 0
        mean = float((both[seen] / either[seen]).mean()) if seen.any() else 0.0
        found[name] = (int(seen.sum()), float(both.sum() / max(1, either.sum())), mean)
    return found


def check(samples: str) -> None:
    """Print how the masks of generated samples overlap with the colours of their images, which no network was told."""
    from guided_diffusion.data.prepared import find_samples, read_pair

    pairs = [read_pair(sample, len(LABEL_MAP)) for sample in find_samples(samples)]
    found = mask_agreement(pairs)
    print(f"{'type':10} {'images':>6} {'IoU, all pixels':>16} {'IoU, mean of images':>20}")
    for name, (count, overall, mean) in found.items():
        print(f"{name:10} {count:6d} {overall:16.2f} {mean:20.2f}")
    overall, mean = (np.mean([row[k] for row in found.values()]) for k in (1, 2))
    print(f"{'average':10} {len(pairs):6d} {overall:16.2f} {mean:20.2f}")


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
    parser.add_argument("out", metavar="OUT", help="folder for the data set; with --check, of generated samples")
    parser.add_argument("--check", action="store_true", help="draw nothing: compare masks with colours")
    parser.add_argument("--num_images", type=int, default=24, help="how many images (default 24)")
    parser.add_argument("--size", type=int, default=64, help="width and height in pixels (default 64)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed draws the same set (default 0)")
    args = parser.parse_args(argv)
    if args.check:
        check(args.out)
        return
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
