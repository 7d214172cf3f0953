"""The one function that opens images: the way up, modes, bits, pages, limits, damage."""

import io
import struct

import cv2
import numpy as np
import pytest
from drawn_formats import coded, refusal, save
from PIL import Image
from scipy.ndimage import label

from guided_diffusion.data import image_files
from guided_diffusion.data.image_files import Picture, open_image, read_image, read_index_mask, resize_mask, turned
from guided_diffusion.data.prepared import IndexMask, Sample, read_pair
from guided_diffusion.errors import InputError

RNG = np.random.default_rng(0)
PHOTOGRAPH = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
BITMAP = coded(Image.new("L", (4, 4)), "bmp")
MASK = RNG.integers(0, 4, (5, 7), dtype=np.uint8)


@pytest.mark.parametrize(
    ("image_tag", "mask_tag", "mask", "found"),  # found: orientation to which image and mask are turned
    [
        (3, 3, MASK, (3, 3)),
        (6, 6, MASK, (6, 6)),
        (6, 1, MASK, (1, 1)),
        (6, 1, MASK.T, (6, 1)),
        (1, 8, MASK.T, (1, 8)),
        (1, 8, MASK, (1, 1)),
        (3, 1, MASK, "a.tif: carries"),
        (1, 2, MASK, "m.png: carries"),
        (6, 6, MASK.T, "a.tif: carries"),
        (1, 1, MASK.T, "5 x 7 pixels"),
    ],
)
def test_an_image_and_its_mask_are_turned_alike(tmp_path, image_tag, mask_tag, mask, found):
    save(tmp_path / "a.tif", coded(Image.fromarray(PHOTOGRAPH), "tif", image_tag))
    save(tmp_path / "m.png", coded(Image.fromarray(mask), "png", mask_tag))
    image, drawn = str(tmp_path / "a.tif"), str(tmp_path / "m.png")
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            read_pair(Sample(image, IndexMask(drawn)), 3)
    else:
        assert image_files.orientations(open_image(image), image, mask.shape, drawn, tag=mask_tag) == found
        pair = read_pair(Sample(image, IndexMask(drawn)), 3)
        assert all(np.array_equal(*two) for two in zip(pair, map(turned, (PHOTOGRAPH, mask), found), strict=True))
    assert np.array_equal(read_index_mask(drawn, 3), turned(mask, mask_tag))
    assert np.array_equal(read_image(image), turned(PHOTOGRAPH, image_tag))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_16_bits_are_not_cut_to_8(tmp_path, suffix):
    levels = RNG.integers(0, 4096, (5, 7, 3), dtype=np.uint16)
    path = str(tmp_path / f"a.{suffix}")
    cv2.imwrite(path, levels[..., ::-1])
    assert np.array_equal(open_image(path).levels, levels)
    assert np.array_equal(image_files.to_rgb(open_image(path), path, bits=12), np.round(levels / 4095 * 255))
    with pytest.raises(InputError, match="a camera of 12 bits"):
        read_image(path)


@pytest.mark.parametrize(
    ("kind", "options", "lossy"),
    [
        ("PNG", {}, False),
        ("TIFF", {}, False),
        ("TIFF", {"compression": "jpeg"}, True),
        ("WEBP", {"lossless": True}, False),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0"}, False),
        ("WEBP", {"quality": 30}, True),
        ("JPEG2000", {}, True),  # may be cut, whatever its wavelet
    ],
)
def test_masks_must_not_be_compressed_with_loss(tmp_path, kind, options, lossy):
    Image.fromarray(np.dstack([MASK] * 3)).save(path := str(tmp_path / "a"), kind, **options)
    if not lossy:
        assert np.array_equal(read_index_mask(path, 3), MASK)
        return
    with pytest.raises(InputError, match=f"is a {kind}, whose compression alters indices"):
        read_index_mask(path, 3)


def test_masks_of_16_bits():
    def levels(values):
        picture = Picture(Image.new("I;16", (3, 1)), "PNG", levels=np.array([values], np.int32))
        return image_files.mask_levels(picture, "m.png")[0]

    for values, found in (((0, 1, 200), [0, 1, 200]), ((1, 2, 65535), [1, 2, 255]), ((0, 257, 65535), [0, 1, 255])):
        assert levels(values).tolist() == found
    assert levels((0, 0, 4095)).tolist() == [0, 0, 16]
    with pytest.raises(InputError, match="m.png: a 16-bit mask that holds 1 beside 1000"):
        levels((0, 1, 1000))


def many(kind, **options):
    buffer = io.BytesIO()
    other = Image.fromarray(PHOTOGRAPH[::-1])
    Image.fromarray(PHOTOGRAPH).save(buffer, kind, save_all=True, append_images=[other], **options)
    return buffer.getvalue()


def with_smaller_page():
    pages = [Image.fromarray(PHOTOGRAPH), Image.fromarray(PHOTOGRAPH[::2, ::2])]
    pages[1].encoderinfo = {"tiffinfo": {image_files.NEW_SUBFILE: 1}}
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    return buffer.getvalue()


def test_one_page(tmp_path):
    for kind in ("TIFF", "GIF", "PNG", "WEBP"):
        with pytest.raises(InputError, match="2 pages or frames"):
            open_image("a", lambda _, kind=kind: many(kind))
    assert open_image("a", lambda _: many("MPO")).size == (5, 7)
    assert np.array_equal(open_image("a", lambda _: with_smaller_page()).pixels, PHOTOGRAPH)


def tiff(photometric, *bits):
    """A TIFF of 2 x 2 black or white pixels of these bits a channel."""
    data = b"\xff" * (4 * sum(bits) // 8)
    tags = [(256, 2), (257, 2), (258, bits[0]), (259, 1), (262, photometric), (273, 122), (277, 1), (278, 2)]
    rows = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in [*tags, (279, len(data))])
    return b"II*\0" + struct.pack("<IH", 8, 9) + rows + bytes(4) + data


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (coded(Image.new("F", (4, 4)), "tif"), "unusual kind"),
        (coded(Image.new("LAB", (4, 4)), "tif"), "unusual kind"),
        (tiff(0, 16), "white at 0"),
        (coded(Image.new("RGB", (4, 4)), "eps"), "not an image"),  # would run a program
        (BITMAP[:18] + struct.pack("<ii", 40000, 40000) + BITMAP[26:], "1600 million pixels"),
    ],
)
def test_refused_files(content, words):
    line = refusal(open_image, "folder/a.png", lambda _: content)
    assert words in line and "folder/a.png" in line


def test_more_pixels_than_pillow_allows_by_itself(monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 35)
    assert Image.MAX_IMAGE_PIXELS is None and open_image("a", lambda _: many("MPO")).size == (5, 7)


def test_a_flipped_bit_of_a_png_is_refused_or_harmless():
    whole = coded(Image.fromarray(MASK), "png")
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert np.array_equal(open_image("a", lambda _, damaged=damaged: bytes(damaged)).pixels, MASK)
        except InputError:
            continue


def pieces(where):
    return label(where, np.ones((3, 3)))[1]


@pytest.mark.parametrize(("shape", "size"), [((256, 256), (64, 64)), ((200, 230), (64, 64)), ((300, 40), (48, 64))])
def test_thin_defects_stay_whole_when_masks_shrink(shape, size):
    torn = 0
    for turn in range(16):
        way = np.pi * turn / 16
        reach = 0.4 * np.array(shape) * (np.sin(way), np.cos(way))
        (top, left), (bottom, right) = ((np.array(shape) / 2 + side * reach).astype(int).tolist() for side in (-1, 1))
        mask = cv2.line(np.zeros(shape, np.uint8), (left, top), (right, bottom), 2)
        small, nearest = resize_mask(mask, size), np.array(Image.fromarray(mask).resize(size[::-1], Image.NEAREST))
        torn += pieces(nearest) != 1
        assert small.shape == size and set(np.unique(small)) == {0, 2} and pieces(small) == 1
        (down, across), (height, width) = np.divide(shape, size), np.ceil(np.divide(shape, size)).astype(int)
        for y, x in np.argwhere(small):  # nothing but what the line touches
            assert mask[int(y * down) :, int(x * across) :][: height + 1, : width + 1].any()
    assert torn > 6


def test_crooked_scratches_stay_whole_and_leave_no_holes_in_a_patch():
    rng, whole = np.random.default_rng(0), []
    for kind in (1, 3) * 100:
        shape = rng.integers(80, 260, 2)
        mask = np.full(shape, 2, np.uint8)
        points = np.stack([rng.integers(5, side - 5, 4) for side in shape[::-1]], axis=1)
        cv2.polylines(mask, [points.astype(np.int32)], False, kind, int(rng.integers(1, 4)))
        small = resize_mask(mask, rng.integers(24, 64, 2).tolist())
        assert small.all()
        whole.append(pieces(small == kind) == 1)
    assert np.mean(whole) > 0.97  # the nearest pixel alone keeps a third; the others slivers of the patch cross


@pytest.mark.parametrize("radius", [6, 9, 20])
def test_thick_defects_shrink_to_the_nearest_pixel(radius):
    mask = cv2.circle(np.zeros((100, 130), np.uint8), (50, 40), radius, 3, cv2.FILLED)
    mask[:10, 100:] = 1
    assert np.array_equal(resize_mask(mask, (32, 41)), Image.fromarray(mask).resize((41, 32), Image.NEAREST))


@pytest.mark.parametrize(("side", "least", "kept"), [(3, 0.5, 16), (2, 0.5, 4), (2, 0, 16), (1, 0, 16)])
def test_dots_of_half_a_pixel_or_more_are_kept_wherever_they_lie(side, least, kept):
    found = []
    for top, left in np.ndindex(4, 4):
        mask = np.zeros((40, 40), np.uint8)
        mask[8 + top : 8 + top + side, 8 + left : 8 + left + side] = 1
        found.append(int(resize_mask(mask, (10, 10), least).sum()))
    assert np.count_nonzero(found) == kept and max(found) <= 4  # smaller ones by luck, as the nearest pixel has it
