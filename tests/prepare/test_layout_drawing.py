"""Where the masks of each layout come to lie: kinds of mask files, thresholds, overlaps, and annotated shapes."""

from collections import Counter

import numpy as np
import pytest
from drawn_formats import NAMES, SIZE
from one_image import MASK, PHOTOGRAPH, coco, labelme, lay, read_all
from PIL import Image, ImageDraw

from guided_diffusion.data.index_masks import DrawingRule, read_labelled
from guided_diffusion.prepare.layouts import find_samples, read_layout


def test_a_rare_value_tells_the_kind_of_masks_that_say_little(tmp_path):
    empty, rare = np.zeros((8, 8), np.uint8), np.eye(8, dtype=np.uint8)
    photographs = {f"images/{i:02}.png": PHOTOGRAPH[:8, :8] for i in range(40)}
    lay(tmp_path, {**photographs, **{f"masks/{i:02}.png": empty for i in range(40)}, "masks/05.png": rare * 255})
    assert read_layout(str(tmp_path)).label_map == {"defect": 1}
    assert sum(mask.sum() for _, _, mask in read_all(tmp_path)) == 8


def test_indices_in_type_folders_are_told_from_black_and_white(tmp_path):
    for i in range(60):
        folder, index = NAMES[i % 2], 2 if i == 7 else 1
        lay(
            tmp_path,
            {f"images/{folder}/{i}.png": PHOTOGRAPH, f"masks/{folder}/{i}.png": index * (MASK > 0).astype("u1")},
        )
    assert Counter(mask.max() for _, _, mask in read_all(tmp_path)) == {1: 59, 2: 1}


@pytest.mark.parametrize("threshold", [0, 127, 200])
def test_soft_masks_are_thresholded_exactly(tmp_path, threshold):
    soft = np.random.default_rng(0).choice(np.array([0, 1, 9, 127, 128, 200, 201, 255], np.uint8), SIZE)
    lay(tmp_path, {"test/crack/a.png": PHOTOGRAPH, "ground_truth/crack/a_mask.png": soft})
    ((_, _, mask),) = read_all(tmp_path, rule=DrawingRule(mask_threshold=threshold))
    assert np.array_equal(mask, (soft > threshold).astype(np.uint8))


def box(name, left, top, right, bottom):
    return {"label": name, "shape_type": "rectangle", "points": [[left, top], [right, bottom]]}


@pytest.mark.parametrize(
    ("priority", "corner", "middle"), [((), 2, 3), ((1,), 1, 1), ((2, 1), 2, 2), ((3, 1), 1, 3), ((1, 2, 3), 1, 1)]
)
def test_overlaps_are_counted_and_decided_by_priority(tmp_path, priority, corner, middle):
    shapes = [
        box("crack", 0, 0, 9, 9),
        box("hole", 5, 5, 14, 14),
        box("hole", 5, 5, 7, 7),
        box("scratch", 8, 8, 12, 12),
    ]
    lay(tmp_path, labelme(*shapes))
    (sample,) = find_samples(str(tmp_path))
    found = read_labelled(sample, 3, DrawingRule(priority=priority))
    assert found.overlaps == {(1, 2): 25, (1, 3): 4, (2, 3): 25}
    assert found.mask[6, 6] == corner and found.mask[8, 8] == middle
    assert (found.mask > 0).sum() == 100 + 100 - 25


def test_background_cuts_holes_whatever_the_priority(tmp_path):
    lay(tmp_path, labelme(box("crack", 0, 0, 9, 9), box("_background_", 3, 3, 5, 5), box("hole", 5, 5, 5, 5)))
    (sample,) = find_samples(str(tmp_path))
    found = read_labelled(sample, 2, DrawingRule(priority=(1, 2)))
    assert Counter(found.mask.ravel().tolist()) == {0: 48 * 40 - 92, 1: 91, 2: 1} and not found.overlaps


def distance_to(points, closed):
    """Distance of every pixel's centre from a chain of points (x, y), float [H, W]."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ends = points[1:] + points[:1] if closed else points[1:]
    distances = []
    for (x1, y1), (x2, y2) in zip(points, ends, strict=False):
        along = ((x - x1) * (x2 - x1) + (y - y1) * (y2 - y1)) / ((x2 - x1) ** 2 + (y2 - y1) ** 2)
        along = along.clip(0, 1)
        distances.append(np.hypot(x - x1 - along * (x2 - x1), y - y1 - along * (y2 - y1)))
    return np.min(distances, axis=0)


def around(x, y):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.hypot(columns - x, rows - y)


CHAIN = [[6, 6], [30, 10], [24, 30]]
RECTANGLE = np.zeros(SIZE, bool)
RECTANGLE[5:21, 7:31] = True


@pytest.mark.parametrize(
    ("shape", "surely", "perhaps"),
    [
        ({"shape_type": "rectangle", "points": [[30, 5], [7, 20]]}, RECTANGLE, RECTANGLE),
        ({"shape_type": "rectangle", "points": [[7, 5], [30, 5], [30, 20], [7, 20]]}, RECTANGLE, RECTANGLE),
        ({"shape_type": "circle", "points": [[20, 18], [29, 18]]}, around(20, 18) < 8, around(20, 18) < 10),
        ({"shape_type": "point", "points": [[20, 18]]}, around(20, 18) < 4, around(20, 18) < 6),
        ({"shape_type": "line", "points": CHAIN[:2]}, None, distance_to(CHAIN[:2], False) < 6.5),
        ({"shape_type": "linestrip", "points": CHAIN}, None, distance_to(CHAIN, False) < 7),
    ],
)
def test_labelme_shapes_lie_where_they_were_drawn(tmp_path, shape, surely, perhaps):
    lay(tmp_path, labelme(shape))
    ((_, _, mask),) = read_all(tmp_path)
    if surely is None:  # a line, whose ends are cut straight
        ends = np.min([around(*point) for point in shape["points"]], axis=0) < 6
        surely = (distance_to(shape["points"], False) < 3.5) & ~ends
    assert surely.any() and mask[surely].all() and not mask[~perhaps].any()


@pytest.mark.parametrize("layout", ["coco", "labelme"])
def test_slanted_polygons_lie_where_they_were_drawn(tmp_path, layout):
    rng = np.random.default_rng(3)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = rng.uniform(12, 18, 9)
    points = [[24 + r * np.cos(a), 20 + r * np.sin(a)] for r, a in zip(radii, angles, strict=True)]
    if layout == "coco":
        lay(tmp_path, coco([[[value for point in points for value in point]]]))
        points = [[x - 0.5, y - 0.5] for x, y in points]  # COCO measures from the pixel's corner
    else:
        lay(tmp_path, labelme({"points": points}))
    ((_, _, mask),) = read_all(tmp_path)
    fine = Image.new("1", (SIZE[1] * 16, SIZE[0] * 16))
    ImageDraw.Draw(fine).polygon([((x + 0.5) * 16, (y + 0.5) * 16) for x, y in points], fill=1)
    truth = np.array(fine)[8::16, 8::16]
    differing = (mask > 0) != truth
    assert distance_to(points, True)[differing].max() <= (1 if layout == "coco" else 1.5)
    overlap = ((mask > 0) & truth).sum() / ((mask > 0) | truth).sum()
    assert truth.sum() > 100 and overlap > (0.98 if layout == "coco" else 0.9)  # labelme draws the outline as well
