"""evaluate.py report: what the page holds, that it holds it safely, and what it says of bad input. No browser here."""

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluating import evaluate
from markupsafe import Markup
from PIL import Image
from report_material import EVIL, RESULTS, figure, scores, write_all

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.report import choose_encoding, conclude, data_uri
from guided_diffusion.pictures import palette

COUNT, LINES = 20, "quality/samples.jsonl"


class Page:
    """The page that evaluate.py report writes with these flags."""

    def __init__(self, samples: Path, **flags: object) -> None:
        evaluate(report, samples=samples, **flags)
        self.html = Path(flags.get("out", samples / "report.html")).read_text("utf-8")
        self.data, self.js = re.findall(r"<script.*?>(.*?)</script>", self.html, re.DOTALL)
        self.samples = json.loads(self.data)["samples"]
        self.body = re.sub(r"<(script|style).*?</\1>", "", self.html, flags=re.DOTALL)
        self.text = Markup(self.body).striptags()


def open_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with all results. Shared: copy them before changing them."""
    return write_all(tmp_path_factory.mktemp("material") / "samples", COUNT)


@pytest.fixture(scope="module")
def page(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(samples, out=tmp_path_factory.mktemp("page") / "all.html")


@pytest.fixture
def own(samples: Path, tmp_path: Path) -> Path:
    """A copy of the samples and their results to break."""
    return Path(shutil.copytree(samples, tmp_path / "samples"))


def test_the_page_holds_every_row_picture_and_figure(samples: Path, page: Page) -> None:
    expected = scores(samples)
    for k, row in enumerate(expected):
        rule = {0: "empty", 3: "near-copy", 9: "near-copy"}.get(k)
        row |= {"kept": rule is None, "reason": rule and f"{rule} of {EVIL}"}
    assert page.samples == expected
    plots = re.findall('<img class="plot"', page.html)
    pictures = [open_uri(uri) for uri in re.findall(r'<img (?:class="mask" )?src="(.*?)"', page.html)]
    assert len(pictures) == 2 * COUNT and len(plots) == 3
    for path, image, mask in zip(sorted((samples / "images").iterdir()), pictures[::2], pictures[1::2], strict=True):
        index = np.asarray(Image.open(samples / "masks_converted_dir" / path.name))
        coloured = np.asarray(mask.convert("RGBA"))
        assert np.array_equal(image, Image.open(path))
        assert np.array_equal(coloured[..., 3] > 0, index > 0)
        assert np.array_equal(coloured[..., :3][index > 0], palette(3)[index][index > 0])
    for shown in (
        *("Made up.", "4.9 [+2.7, +7.1]", "over copy-paste: +2.8 [-0.2, +5.8]", "400.0 [350.0, 450.0]"),
        *("Also made up.", "training images: 100.0 [50.0, 150.0]", "-3.0 [-3.5, -2.5]"),
        *("0.61 [0.56, 0.66]", "real images: 25.0 [20.0, 30.0]", "made-up lift", "made-up quality", "Of compare"),
        f"measure crack {EVIL} compare 12.5 [2.5, 22.5] too few",
    ):
        assert shown in page.text
    assert "<td>12.5 <small>[2.5, 22.5]</small></td>" in page.html and "<p>A <b>bold</b> &lt;img" in page.html
    assert "not measured" not in page.text


def test_without_results_the_gallery_remains(own: Path, capsys: pytest.CaptureFixture) -> None:
    """And images that the manifest does not list are left out and counted."""
    scored = own / LINES
    scored.write_text(scored.read_text().replace('"clipped": 0.01', '"clipped": NaN'))
    assert Page(own).samples[0]["clipped"] is None  # nan is no number for browsers
    for name in ("quality", "lift", "compare", "curated"):
        shutil.rmtree(own / name)
    page = Page(own)
    assert "evaluate.py quality --real HELD_OUT" in page.text and "evaluate.py lift --train TRAIN" in page.text
    for row, expected in zip(page.samples, scores(own), strict=True):
        shown, counted = ({name: type_["pixels"] for name, type_ in of["types"].items()} for of in (row, expected))
        assert shown == counted
        assert row["kept"] is None and row["empty"] == expected["empty"]
    assert re.findall(r'<section id="(\w+)"', page.body) == ["gallery"]
    lines = (own / "manifest.jsonl").read_text().splitlines(keepends=True)
    (own / "manifest.jsonl").write_text("".join(lines[:-3]))
    assert len(Page(own).samples) == COUNT - 3
    assert f"note: --samples {own}: 3 images are not in manifest.jsonl" in capsys.readouterr().out


def test_names_stay_text_and_only_our_script_runs(page: Page) -> None:
    assert EVIL in page.text and "<img" not in page.data and EVIL not in page.html
    assert not re.search(r"<[^>]*\son\w+=", page.body)
    digest = base64.b64encode(hashlib.sha256(page.js.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', page.body)[1]
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    addresses = re.findall(r'<[^>]*\s(?:src|href)="([^"]*)"', page.body)
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    pattern = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|https?:"
    assert not re.search(pattern, page.js)


@pytest.mark.parametrize(
    ("precision", "gain", "specks", "step"),
    [
        (0.1, 4, 0, "Use these samples"),
        (0.1, 0, 9, "Train longer"),
        (0.7, None, 9, "Curate"),
        (0.7, -4, 1, "Leave these samples out"),
        (0.7, 0, 0, "Label more real images"),
        (0.7, None, 0, "Measure next whether these samples make a segmenter better"),
        (None, None, 0, "Measure next whether these samples look like real images"),
    ],
)
def test_the_headline_says_what_to_do_next(precision: float, gain: float, specks: int, step: str) -> None:
    results = {}
    if precision is not None:
        quality = RESULTS["quality"]
        results["quality"] = quality | {"overall": quality["overall"] | {"precision": figure(precision)}}
    if gain is not None:
        results["lift"] = {"verdict": {"sentence": "Made up.", "difference": figure(gain, 2)}, "others": []}
    rows = [{"speck": k < specks, "nearest_train": None, "kept": None} for k in range(20)]
    headline, said = conclude(results, rows)
    assert headline.startswith(step) and ("Made up." in said) == (gain is not None)
    assert len(said) == len(results)


def test_small_sets_are_exact_and_large_ones_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    assert choose_encoding(noise) == ("png", 1)
    many = np.broadcast_to(noise[0], (5000, 64, 64, 3))
    assert choose_encoding(many[:513]) == ("jpeg", 1)
    kind, scale = choose_encoding(many)
    assert kind == "jpeg" and 5000 * (64 * scale) ** 2 == pytest.approx(10 << 20)
    mask = open_uri(data_uri(np.eye(64, dtype=np.uint8) * 3, "png", scale))
    assert mask.width < 64 and set(np.unique(mask)) <= {0, 3}


OTHERS = "--quality .*samples.jsonl: tells of other samples .*see "


@pytest.mark.parametrize(
    ("message", "file", "old", "new"),
    [
        ("--quality .*samples.jsonl: is no file with a sample in each line", LINES, "{", "["),
        (f"{OTHERS}000001", LINES, '"pixels"', '"area"'),
        (f"{OTHERS}000019", LINES, '"name": "000019"', '"name": "19"'),
        (f"{OTHERS}00000", LINES, '"pixels": ', '"pixels": 1'),
        ("--quality .*: holds no quality.json and quality.md of", "quality/quality.json", '"quality"', '"lift"'),
        ("--lift .*lift: holds no lift.json and", "lift/lift.json", "{", "["),
        ("--lift --quality --compare: results are not as", "lift/lift.json", '"interval"', '"range"'),
        ("--curated .*: tells of 000900, which is not in --samples", "curated/kept.jsonl", "000001", "000900"),
        ("--compare .*images: holds no compare.json", "compare", "", "images"),
        ("--out .*: is no name of a page; name a file", "out", "", ""),
        ("--out .*manifest.jsonl: is no name of a page", "out", "", "manifest.jsonl"),
    ],
)
def test_bad_input_gets_one_line(own: Path, message: str, file: str, old: str, new: str) -> None:
    flags = {} if old else {file: own / new}
    if old:
        (own / file).write_text((own / file).read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as error:
        Page(own, **flags)
    assert "\n" not in str(error.value) and not (own / "report.html").exists()
