"""evaluate.py report: what the page holds, that it holds it safely, and what it says of bad input. No browser here."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from argparse import ArgumentParser
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_material import (
    EVIL,
    SIZE,
    TYPES,
    draw,
    lift_result,
    quality_result,
    scores,
    sweep_result,
    write_lines,
    write_samples,
    write_train,
)

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.report_html import interval_text, number, table
from guided_diffusion.evaluation.report_pictures import Album, Encoding, choose_encoding
from guided_diffusion.evaluation.report_plots import Axis, Mark, Point, interval_row, trade_off
from guided_diffusion.pictures import palette

COUNT = 20


class Page(HTMLParser):
    """A page as a browser reads it: its elements, its text, and what its scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}  # id -> content
        self.text = ""
        self._inside: str | None = None  # the id of the script that is open, or "style"
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = dict(attrs).get("id", "js" if tag == "script" else "style")
            self.scripts[self._inside] = ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[self._inside] += data
        else:
            self.text += data + " "

    @property
    def data(self) -> dict[str, Any]:
        return json.loads(self.scripts["data"])

    def picture(self, name: str) -> Image.Image:
        return Image.open(io.BytesIO(base64.b64decode(self.scripts[name].partition(",")[2])))


def write_report(*flags: object) -> Page:
    """The page that evaluate.py report writes with these flags."""
    parser = ArgumentParser()
    report.add_arguments(parser)
    args = parser.parse_args([str(flag) for flag in flags])
    report.main(args)
    return Page(Path(args.out or Path(args.samples) / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples (and their quality), train, lift, sweep and curated. Shared: copy it before changing it."""
    folder = tmp_path_factory.mktemp("material")
    write_samples(folder / "samples", COUNT)
    write_train(folder / "train")
    write_lines(folder / "samples" / "quality" / "samples.jsonl", scores(folder / "samples"))
    result = quality_result(folder / "samples", folder / "train")
    (folder / "samples" / "quality" / "quality.json").write_text(json.dumps(result))
    for name, content in (("sweep", sweep_result()), ("lift", lift_result())):
        (folder / name).mkdir()
        (folder / name / f"{name}.json").write_text(json.dumps(content))
    dropped = [{"name": "000003", "rule": "near-copy", "reason": f"near-copy of {EVIL}", "score": 0.1}]
    write_lines(folder / "curated" / "dropped.jsonl", dropped)
    write_lines(folder / "curated" / "kept.jsonl", [{"name": f"{k:06d}"} for k in range(COUNT) if k != 3])
    return folder


@pytest.fixture(scope="module")
def page(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page with everything in it."""
    out = tmp_path_factory.mktemp("page") / "all.html"
    named = [part for name in ("sweep", "lift", "curated") for part in (f"--{name}", material / name)]
    return write_report("--samples", material / "samples", *named, "--out", out)


@pytest.fixture
def own(material: Path, tmp_path: Path) -> Path:
    """A copy of the material to break."""
    return Path(shutil.copytree(material, tmp_path / "own"))


# --- what the page holds -------------------------------------------------------------------------------------------


def test_embedded_json_equals_the_inputs(material: Path, page: Page) -> None:
    rows = scores(material / "samples")
    for k, row in enumerate(rows):
        verdict = {"rule": "near-copy", "reason": f"near-copy of {EVIL}"} if k == 3 else {"rule": None, "reason": None}
        row |= {"kept": k != 3, **verdict}
    assert page.data["samples"] == rows
    assert page.data["class_names"] == list(TYPES)
    assert page.data["results"] == {
        "quality": json.loads((material / "samples" / "quality" / "quality.json").read_text()),
        "sweep": sweep_result(),
        "lift": lift_result(),
    }
    colours = [tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5)) for colour in page.data["colours"]]
    assert colours == [tuple(row) for row in palette(3)[1:].tolist()]


def test_sheets_hold_every_image_and_mask(material: Path, page: Page) -> None:
    album = page.data["album"]
    assert album["size"] == [SIZE, SIZE] and album["cell"] == [24, 24]
    image, mask = page.picture("samples-image-0"), page.picture("samples-mask-0").convert("RGBA")
    columns = image.width // 24
    assert columns == min(COUNT, album["sheet"][1])
    for k in range(COUNT):
        top, left = k // columns * 24, k % columns * 24
        box = (left, top, left + SIZE, top + SIZE)
        name = f"{k:06d}.png"
        assert np.array_equal(image.crop(box), Image.open(material / "samples" / "images" / name))
        index = np.asarray(Image.open(material / "samples" / "masks_converted_dir" / name))
        coloured = np.asarray(mask.crop(box))
        assert np.array_equal(coloured[..., 3] > 0, index > 0)
        assert np.array_equal(coloured[..., :3][index > 0], palette(3)[index][index > 0])


def test_nearest_training_images_are_there(material: Path, page: Page) -> None:
    assert [entry["name"] for entry in page.data["train"]] == [f"some/{k:03d}" for k in range(6)]
    for k, entry in enumerate(page.data["train"]):
        assert entry["size"] == entry["shown"] == [SIZE, SIZE]
        original = Image.open(material / "train" / "test" / f"some/{k:03d}.png")
        assert np.array_equal(page.picture(f"train-image-{k}"), original)


def test_key_figures_and_tables(page: Page) -> None:
    assert "not measured" not in page.text
    assert "Made up: +4.9 mIoU, 95% interval 2.7 to 7.1, at ratio 1." in page.text
    assert "Real + copy-paste, × 1" in page.text.replace("\u00a0", " ") and "−6.4 to −2.0" in page.text
    assert "5.0%" in page.text and "1 of 20 samples" in page.text  # near-copies, empty masks
    assert "3 of 3" in page.text
    assert "400.0" in page.text and "350.0 to 450.0" in page.text  # KID x 1000
    assert "too few: 2 samples" in page.text
    assert "0.123" in page.text and "flipped 96%" in page.text and "30.0% (25.0 to 35.0) of patches" in page.text
    assert "Take S = 200 & look." in page.text
    assert "made-up figures" in page.text and "made-up lift" in page.text
    assert "0.68 to 0.78" in page.text  # agreement on real images
    strong = [attributes for tag, attributes in page.elements if tag == "tr" and attributes.get("class") == "strong"]
    assert len(strong) == 4  # the recommended point, and the verdict's arm in three tables


def test_without_results_the_gallery_remains(material: Path, tmp_path: Path) -> None:
    samples = Path(shutil.copytree(material / "samples", tmp_path / "samples"))
    shutil.rmtree(samples / "quality")
    page = write_report("--samples", samples)
    assert "evaluate.py quality --real HELD_OUT" in page.text
    assert "was not measured" in page.text and "evaluate.py lift --train TRAIN" in page.text
    rows = page.data["samples"]
    assert rows[0]["types"] == {} and rows[0]["empty"] and not rows[1]["empty"]
    areas = [{name: t["pixels"] for name, t in row["types"].items()} for row in scores(samples)]
    assert [{name: t["pixels"] for name, t in row["types"].items()} for row in rows] == areas
    assert {row["kept"] for row in rows} == {None} and page.data["train"] == []
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert "gallery" in ids and not ids & {"fidelity", "labels", "sweep", "copies", "lift"}


def test_partial_results_leave_parts_out(own: Path) -> None:
    folder = own / "samples" / "quality"
    (folder / "quality.json").write_text('{"command": "quality", "overall": {"kid": null}, "reference": null}')
    (own / "sweep" / "sweep.json").write_text("{}")
    page = write_report("--samples", own / "samples", "--sweep", own / "sweep")
    assert "No recommendation." in page.text and "Not measured." in page.text and page.data["train"] == []
    assert "training images are not shown" in page.text


def test_not_a_number_becomes_null(own: Path) -> None:
    for file, old in (("samples.jsonl", '"clipped": 0.01'), ("quality.json", '"seed": 0')):
        path = own / "samples" / "quality" / file
        path.write_text(path.read_text().replace(old, old.partition(":")[0] + ": NaN"))
    page = write_report("--samples", own / "samples")
    assert page.data["samples"][0]["clipped"] is None
    assert page.data["results"]["quality"]["settings"]["seed"] is None


# --- safety ----------------------------------------------------------------------------------------------------------


def test_names_stay_text(page: Page) -> None:
    assert EVIL in page.text  # as text, of the tables
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]


def test_json_cannot_end_its_script_element() -> None:
    value = {"a": "</script><script>alert(1)</script><!-- \u2028"}
    text = report.script_json(value)
    assert "<" not in text and json.loads(text) == value


def test_nothing_is_loaded_and_only_our_script_runs(page: Page) -> None:
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts["js"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    addresses = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    js = page.scripts["js"]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|https?:", js)


# --- size ------------------------------------------------------------------------------------------------------------


def noise(count: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def test_small_sets_are_exact_and_large_ones_reduced() -> None:
    smooth = [np.full((64, 64, 3), 90 + k, np.uint8) for k in range(8)]
    assert choose_encoding(smooth, 64) == Encoding(1.0, True)
    images = noise(8, 64, 64)
    assert choose_encoding(images, 8) == Encoding(1.0, True)
    assert choose_encoding(images, 1000) == Encoding(1.0, False)
    huge = choose_encoding(images, 100_000)
    assert not huge.exact and 0.1 < huge.scale < 0.9
    assert choose_encoding([np.zeros((300, 2048, 3), np.uint8)], 1).size(300, 2048) == (150, 1024)


def test_five_thousand_samples_of_pure_noise_stay_under_forty_megabytes() -> None:
    images = noise(32, 64, 64)
    encoding = choose_encoding(images, 5000)
    album = Album(64, 64, encoding)
    per_sheet = album.rows * album.columns
    for k in range(per_sheet):
        album.add(images[k % 32], np.zeros((64, 64), np.uint8))
    assert len(album.sheets) == 1  # closed by itself when full
    assert sum(map(len, album.sheets[0])) * 5000 / per_sheet < 34e6


@pytest.mark.parametrize("shape", [(20, 28), (64, 64), (100, 37)])
def test_cells_of_an_album_do_not_bleed(shape: tuple[int, int]) -> None:
    encoding = Encoding(1.0, False)
    album = Album(*shape, encoding)
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (7, 3), dtype=np.uint8)
    for colour in colours:
        album.add(np.broadcast_to(colour, (*shape, 3)), np.ones(shape, np.uint8))
    album.close_sheet()
    uri = album.sheets[0][0]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")).astype(int)
    layout = album.layout()
    for k, colour in enumerate(colours):
        row, column = divmod(k, layout["sheet"][1])
        top, left = row * layout["cell"][0], column * layout["cell"][1]
        difference = sheet[top : top + shape[0], left : left + shape[1]] - colour.astype(int)
        assert np.abs(difference).max() <= 3


def test_reduced_masks_keep_their_labels() -> None:
    _, masks = draw(6, 0, 3, 64)
    small = Encoding(0.37, False).mask(masks[4])
    assert small.shape == (24, 24) and set(np.unique(small)) <= set(np.unique(masks[4]))


def test_a_report_over_the_limit_says_so(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = report.gather.__globals__["choose_encoding"]
    monkeypatch.setitem(report.gather.__globals__, "choose_encoding", lambda t, n, *_: real(t, n, 0, 2000))
    page = write_report("--samples", material / "samples", "--out", tmp_path / "small.html")
    assert re.search(r"images are reduced from 24 × 24 to \d+ × \d+ px", page.text)
    height, width = page.data["album"]["size"]
    assert height == width < SIZE and len(page.data["samples"]) == COUNT


# --- bad input -------------------------------------------------------------------------------------------------------


def no_samples(own: Path) -> list[object]:
    shutil.rmtree(own / "samples" / "images")
    (own / "samples" / "images").mkdir()
    shutil.rmtree(own / "samples" / "masks_converted_dir")
    (own / "samples" / "masks_converted_dir").mkdir()
    return ["--samples", own / "samples"]


def broken_line(own: Path) -> list[object]:
    path = own / "samples" / "quality" / "samples.jsonl"
    path.write_text(path.read_text() + '{"name": "0000')
    return ["--samples", own / "samples"]


def incomplete_row(own: Path) -> list[object]:
    path = own / "samples" / "quality" / "samples.jsonl"
    path.write_text(path.read_text().replace('"pixels"', '"area"'))
    return ["--samples", own / "samples"]


def other_names(own: Path) -> list[object]:
    path = own / "samples" / "quality" / "samples.jsonl"
    write_lines(path, [row for row in scores(own / "samples") if row["name"] != "000007"])
    return ["--samples", own / "samples"]


def other_masks(own: Path) -> list[object]:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:5, :5] = 2
    Image.fromarray(mask).save(own / "samples" / "masks_converted_dir" / "000004.png")
    return ["--samples", own / "samples"]


def no_result(own: Path) -> list[object]:
    return ["--samples", own / "samples", "--lift", own / "train"]


def other_result(own: Path) -> list[object]:
    shutil.copy(own / "sweep" / "sweep.json", own / "sweep" / "lift.json")
    return ["--samples", own / "samples", "--lift", own / "sweep"]


def other_train(own: Path) -> list[object]:
    write_train(own / "other", count=3)
    return ["--samples", own / "samples", "--train", own / "other"]


def other_curated(own: Path) -> list[object]:
    write_lines(own / "curated" / "kept.jsonl", [{"name": "000900"}])
    return ["--samples", own / "samples", "--curated", own / "curated"]


def other_size(own: Path) -> list[object]:
    for part in ("images", "masks_converted_dir"):
        path = own / "samples" / part / "000004.png"
        Image.open(path).resize((30, 30)).save(path)
    return ["--samples", own / "samples"]


def folder_as_out(own: Path) -> list[object]:
    return ["--samples", own / "samples", "--out", own]


BAD = {
    no_samples: "--samples .*images: holds no images",
    broken_line: r"--quality .*samples.jsonl: line 21 does not describe a sample; run evaluate.py quality again",
    incomplete_row: "samples.jsonl: the row of 000001 is incomplete; run evaluate.py quality again",
    other_names: r"tells of other samples than --samples \(does not have 000007\)",
    other_masks: r"was measured on other samples than --samples \(the mask of .*000004.png has {'hole': 25} pixels",
    no_result: "--lift .*train: holds no lift.json",
    other_result: "--lift .*lift.json: was not written by evaluate.py lift",
    other_train: "--train .*other: has no image some/003",
    other_curated: "--curated .*: tells of 000900, which is not in --samples",
    other_size: "000004.png: is 30 x 30 pixels",
    folder_as_out: "--out .*: is a folder; name a file",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_bad_input_gets_one_line(own: Path, spoil: Callable[[Path], list[object]]) -> None:
    flags = spoil(own)
    before = sorted(own.rglob("*"))
    with pytest.raises(InputError, match=BAD[spoil]) as error:
        write_report(*flags)
    assert "\n" not in str(error.value)
    assert sorted(own.rglob("*")) == before


def test_command_line(run_script: Callable, own: Path) -> None:
    bad = run_script("evaluate.py", "report", *broken_line(own))
    assert bad.returncode == 2 and bad.stderr.startswith("error: --quality") and bad.stderr.count("\n") == 1


# --- small pieces ----------------------------------------------------------------------------------------------------


def test_numbers() -> None:
    assert number(-0.0312, 1, 1000) == "−31.2" and number(-0.0001, 2) == "0.00"
    assert number(None) == number(float("nan")) == "–" and number(12345.6, 1) == "12,345.6"
    assert interval_text([-0.5, 0.25], 1) == "−0.5 to 0.2" and interval_text(None) == ""


def test_table_marks_rows_and_columns() -> None:
    html = table(["", "a"], [["x", "1"], ["y", "2"]], strong=[False, True], plot=1, spans=[("both", 1)])
    assert html.count('class="strong"') == 1 and html.index('class="strong"') > html.index(">x<")
    assert html.count('class="plot"') == 3 and 'colspan="1">both<' in html


@pytest.mark.parametrize("values", [(0.2, 0.9), (-3, 17), (5, 5), (0, 0), (1e-7, 3e-7), (-4000, -3999)])
def test_an_axis_has_round_ticks_around_its_values(values: tuple[float, float]) -> None:
    axis = Axis.of(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 2 <= len(axis.ticks) <= 7
    steps = np.diff(axis.ticks)
    mantissa = steps[0] / 10 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert np.allclose(steps, steps[0]) and np.isclose(mantissa, [1, 2, 2.5, 5, 10]).any()
    assert axis.place(axis.low) == 0 and axis.place(axis.high) == 1
    assert axis.place(axis.high + 1e6) == 1


def test_a_logarithmic_axis() -> None:
    axis = Axis.of([0.003, 0.2], log=True)
    assert axis.ticks == pytest.approx((0.001, 0.01, 0.1, 1))
    assert axis.place(0.01) == pytest.approx(1 / 3) and axis.place(0) == 0


def test_an_interval_is_drawn_where_it_lies() -> None:
    svg = interval_row([Mark(0.5, (0.25, 1.0))], Axis(0, 2, (0, 1, 2)), zero=0)
    assert 'x1="12.50%" x2="50.00%"' in svg and 'cx="25.00%"' in svg and 'class="zero" x1="0.00%"' in svg


def test_labels_of_close_points_keep_apart() -> None:
    points = [Point(1.0, 1.0 + k / 1000, None, None, f"S = {k}") for k in range(4)]
    points += [Point(2, 3, None, None, "right"), Point(0, 3, None, None, "left")]
    svg = trade_off(points, "x", "y", (str, str))
    labels = re.findall(r'class="label" x="[\d.]+%" dx="(-?\d+)" y="([\d.]+)"', svg)
    assert len({(dx, round(float(y), -1)) for dx, y in labels[:4]}) == 4
    assert [dx for dx, _ in labels[4:]] == ["-10", "10"]  # at the edges, inwards
