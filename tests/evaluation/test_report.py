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

import numpy as np
import pytest
from PIL import Image
from report_material import EVIL, lift_result, scores, write_all, write_lines

from guided_diffusion.errors import InputError
from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.report import choose_encoding, data_uri
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
        self.text = " ".join(self.text.split())
        self.samples = json.loads(self.scripts["data"])["samples"]
        self.sections = {attributes.get("id") for tag, attributes in self.elements if tag == "section"}

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


def open_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def write_report(samples: Path, *flags: object) -> Page:
    """The page that evaluate.py report writes with these flags."""
    parser = ArgumentParser()
    report.add_arguments(parser)
    args = parser.parse_args(["--samples", str(samples), *map(str, flags)])
    report.main(args)
    return Page(Path(args.out or samples / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with all results. Shared: copy them before changing them."""
    return write_all(tmp_path_factory.mktemp("material") / "samples", COUNT)


@pytest.fixture(scope="module")
def page(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return write_report(samples, "--out", tmp_path_factory.mktemp("page") / "all.html")


@pytest.fixture
def own(samples: Path, tmp_path: Path) -> Path:
    """A copy of the samples and their results to break."""
    return Path(shutil.copytree(samples, tmp_path / "samples"))


def test_embedded_json_equals_the_inputs(samples: Path, page: Page) -> None:
    expected = scores(samples)
    for k, row in enumerate(expected):
        rule = {0: "empty", 3: "near-copy", 9: "near-copy"}.get(k)
        row |= {"kept": rule is None, "reason": rule and f"{rule} of {EVIL}"}
    assert page.samples == expected


def test_the_page_holds_every_picture(samples: Path, page: Page) -> None:
    pictures = [open_uri(a["src"]) for tag, a in page.elements if tag == "img" and a.get("class") != "plot"]
    files = sorted((samples / "images").iterdir())
    assert len(pictures) == 2 * COUNT
    for path, image, mask in zip(files, pictures[::2], pictures[1::2], strict=True):
        index = np.asarray(Image.open(samples / "masks_converted_dir" / path.name))
        coloured = np.asarray(mask.convert("RGBA"))
        assert np.array_equal(image, Image.open(path))
        assert np.array_equal(coloured[..., 3] > 0, index > 0)
        assert np.array_equal(coloured[..., :3][index > 0], palette(3)[index][index > 0])
    assert sum(attributes.get("class") == "plot" for _, attributes in page.elements) == 3


def test_figures_of_all_results_are_shown(page: Page) -> None:
    for shown in (
        *(lift_result()["verdict"]["sentence"], "made-up lift", "made-up figures", "made-up comparison"),
        *("+4.9 [+2.7, +7.1]", "over copy-paste: +2.8 [-0.2, +5.8]"),  # lift
        *("400.0 [350.0, 450.0]", "0.61 [0.56, 0.66]", "too few", "0.123", "flipped 96%."),  # quality
        *("4 17 37.5 [32.5, 42.5]", "s200 30.0 [-20.0, 80.0] +20.0 [-30.0, +70.0]", "reference"),  # asked, compare
    ):
        assert shown in page.text
    assert "not measured" not in page.text


def test_without_results_the_gallery_remains(own: Path) -> None:
    for name in ("quality", "lift", "compare", "curated"):
        shutil.rmtree(own / name)
    page = write_report(own)
    assert "evaluate.py quality --real HELD_OUT" in page.text and "evaluate.py lift --train TRAIN" in page.text
    for row, expected in zip(page.samples, scores(own), strict=True):
        pixels = ({name: type_["pixels"] for name, type_ in of["types"].items()} for of in (row, expected))
        assert next(pixels) == next(pixels)
        assert row["kept"] is None and row["empty"] == expected["empty"]
    assert page.sections == {"gallery"}


def test_nan_is_no_number_for_browsers(own: Path) -> None:
    path = own / "quality/samples.jsonl"
    path.write_text(path.read_text().replace('"clipped": 0.01', '"clipped": NaN'))
    assert write_report(own).samples[0]["clipped"] is None


def test_names_stay_text_and_only_our_script_runs(page: Page) -> None:
    assert EVIL in page.text and "<img" not in page.scripts["data"]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    policy = next(a["content"] for t, a in page.elements if t == "meta" and a.get("http-equiv"))
    digest = base64.b64encode(hashlib.sha256(page.scripts["js"].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{digest}'" in policy
    addresses = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert addresses and all(address.startswith(("#", "data:")) for address in addresses)
    pattern = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|https?:"
    assert not re.search(pattern, page.scripts["js"])


def test_small_sets_are_exact_and_large_ones_reduced() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    assert choose_encoding(noise) == ("png", 1)
    assert choose_encoding(noise, exact_size=1000) == ("jpeg", 1)
    kind, scale = choose_encoding(noise, 20_000, 20_000)
    assert kind == "jpeg" and 0.1 < scale < 0.9
    assert choose_encoding(np.zeros((1, 300, 2048, 3), np.uint8)) == ("jpeg", 0.5)
    mask = open_uri(data_uri(np.eye(64, dtype=np.uint8) * 3, "png", scale))
    assert mask.width < 64 and set(np.unique(mask)) <= {0, 3}


# --- bad input -------------------------------------------------------------------------------------------------------


def spoil(name: str, old: str, new: str) -> Callable[[Path], list[object]]:
    def change(own: Path) -> list[object]:
        (own / name).write_text((own / name).read_text().replace(old, new, 1))
        return []

    return change


def other_size(own: Path) -> list[object]:
    for part in ("images", "masks_converted_dir"):
        Image.open(own / part / "000004.png").resize((30, 30)).save(own / part / "000004.png")
    return []


def other_curated(own: Path) -> list[object]:
    write_lines(own / "curated" / "kept.jsonl", [{"name": "000900"}])
    return []


LINES = "quality/samples.jsonl"
BAD = {
    "--quality .*samples.jsonl: line 1 does not describe a sample": spoil(LINES, "{", "["),
    "--quality .*samples.jsonl: the row of 000001 is incomplete": spoil(LINES, '"pixels"', '"area"'),
    "--quality .*samples.jsonl: tells of other samples": spoil(LINES, '"name": "000019"', '"name": "19"'),
    "--quality .*samples.jsonl: tells of .* but 000001 has": spoil(LINES, '"pixels": ', '"pixels": 1'),
    "--quality .*quality.json: was not written by": spoil("quality/quality.json", '"quality"', '"lift"'),
    "--lift .*lift.json: was not written by evaluate.py lift": spoil("lift/lift.json", "{", "["),
    "--lift --quality --compare: results are not as": spoil("lift/lift.json", '"arms"', '"legs"'),
    "--compare .*images: holds no compare.json": lambda own: ["--compare", own / "images"],
    "--curated .*: tells of 000900, which is not in --samples": other_curated,
    "000004.png: is 30 x 30 pixels": other_size,
    "--out .*: is a folder; name a file": lambda own: ["--out", own],
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_gets_one_line(own: Path, message: str) -> None:
    flags = BAD[message](own)
    with pytest.raises(InputError, match=message) as error:
        write_report(own, *flags)
    assert "\n" not in str(error.value) and not (own / "report.html").exists()
