"""The report in a real headless Chromium: filters, overlay, keyboard, marks, export and import, 5,000 samples.

scripts/setup_browser.sh installs what it needs.
"""

from __future__ import annotations

import io
import json
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_material import EVIL, SIZE, TYPES, scores, write_all

from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.curation import read_list
from guided_diffusion.evaluation.report import choose_encoding, data_uri
from guided_diffusion.pictures import overlay

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: scripts/setup_browser.sh")
ui = pytest.importorskip("selenium.webdriver.support.ui")
for program in ("chromium", "chromedriver"):
    if not shutil.which(program):
        pytest.skip(f"no {program} here: scripts/setup_browser.sh", allow_module_level=True)
Keys = webdriver.Keys

COUNT = 40
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


class Browser:
    """A Chromium of its own with an empty profile, that keeps what it was told and what it fetched."""

    def __init__(self, profile: Path, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.downloads = downloads

    def view(self, width: int = 1440, height: int = 900) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, path: Path) -> None:
        self.driver.get(path.resolve().as_uri())

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> object:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, condition: Callable[[], object]) -> None:
        ui.WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def painted(self, selector: str, size: int) -> np.ndarray:
        """uint8 [size, size, 3]: what the screen shows of a picture, at the middle of each of its pixels."""
        shot = np.asarray(Image.open(io.BytesIO(self.find(selector).screenshot_as_png)).convert("RGB"))
        rows, columns = ((np.arange(size) + 0.5) * side / size for side in shot.shape[:2])
        return shot[rows.astype(int)[:, None], columns.astype(int)]

    def complaints(self) -> list[str]:
        """Errors on the console, and addresses that were fetched from elsewhere than the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        fetched = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return said + [url for url in fetched if not url.startswith(("file:", "data:", "blob:", "chrome:"))]

    # What the tests do often

    def shown(self) -> int:
        return int(self.text("#count").split()[0].replace(",", ""))

    def fill(self, name: str, text: str) -> None:
        self.find(f"[name={name}]").clear()
        self.find(f"[name={name}]").send_keys(text)

    def choose(self, name: str, value: str) -> None:
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.run(script, self.find(name), value)

    def focused(self) -> str:
        return self.run("return document.activeElement.querySelector('.title')?.textContent")

    def tile(self, k: int) -> None:
        self.find(f".tile:nth-child({k + 1})").click()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with all results of them, and report.html."""
    samples = write_all(tmp_path_factory.mktemp("material") / "samples", COUNT)
    named = dict.fromkeys(("quality", "lift", "compare", "curated", "out"))
    report.main(Namespace(samples=str(samples), **named))
    return samples


@pytest.fixture
def page(chromium: Browser, samples: Path) -> Iterator[Browser]:
    """The report, freshly opened, with no marks; at the end nothing may have been complained of or fetched."""
    chromium.view()
    chromium.open(samples / "report.html")
    chromium.run("localStorage.clear()")
    chromium.driver.refresh()
    yield chromium
    assert chromium.complaints() == []


def test_filters_change_what_is_shown(page: Browser, samples: Path) -> None:
    rows = scores(samples)
    areas = [100 * sum(type_["share"] for type_ in row["types"].values()) for row in rows]
    agrees = [row["agreement"] is not None and row["agreement"] >= 0.5 for row in rows]
    assert page.shown() == COUNT
    page.choose("[name=type]", TYPES[1])
    assert page.shown() == sum(TYPES[1] in row["types"] for row in rows)
    page.find("#filters button[type=reset]").click()
    page.until(lambda: page.shown() == COUNT)
    page.fill("area-min", "5")
    page.fill("area-max", "10")
    page.fill("agreement-min", "0.5")  # None passes no range
    assert 0 < page.shown() == sum(5 <= area <= 10 and ok for area, ok in zip(areas, agrees, strict=True)) < COUNT
    page.find("#filters button[type=reset]").click()
    page.until(lambda: page.shown() == COUNT)
    for value, number in (("dropped", 3), ("kept", COUNT - 3), ("copy", 1), ("duplicate", 1), ("empty", 1)):
        page.choose("[name=status]", value)
        assert page.shown() == number
    page.fill("name", "no such name")
    assert page.shown() == 0 and not page.driver.find_elements("css selector", ".tile")


def test_sorting(page: Browser, samples: Path) -> None:
    distances = [row["nearest_train"]["distance"] for row in scores(samples)]
    page.choose("[name=sort]", "distance")
    assert page.text(".tile .title") == f"{np.argmin(distances):06d}"
    page.find("[name=descending]").click()
    assert page.text(".tile .title") == f"{np.argmax(distances):06d}"
    page.choose("[name=sort]", "agreement")  # those without the measure come last, whatever the direction
    assert page.text(".tile:last-child .title") == "000000"


def test_overlay_changes_pixels(page: Browser, samples: Path) -> None:
    frame = ".tile:nth-child(2) .frame"
    mask = np.asarray(Image.open(samples / "masks_converted_dir" / "000001.png"))
    image = np.asarray(Image.open(samples / "images" / "000001.png"))
    with_mask = page.painted(frame, SIZE)
    page.find("#overlay").click()
    assert np.array_equal(page.painted(frame, SIZE), image)
    assert np.array_equal((with_mask != image).any(axis=-1), mask > 0)
    page.press("m")
    assert page.find("#overlay").is_selected() and np.array_equal(page.painted(frame, SIZE), with_mask)
    blended = overlay(image, mask, 0.55).astype(int)
    assert np.abs(with_mask - blended).max() <= 1


def test_viewer_tells_what_is_known(page: Browser) -> None:
    page.tile(3)
    details = page.text("#viewer-details")
    assert f"dropped: near-copy of {EVIL}" in details and "some/003 (near-copy), 0.130" in details
    assert page.run("return document.querySelector('#viewer-picture .frame').clientWidth") > 300


def test_keyboard(page: Browser) -> None:
    page.run("document.querySelector('#import').focus()")  # the last tool; from there into the grid
    page.press(Keys.TAB)
    assert page.focused() == "000000"
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.focused() == "000002"
    columns = page.run("return getComputedStyle(document.querySelector('#grid')).gridTemplateColumns").count("px")
    page.press(Keys.ARROW_DOWN)
    assert page.focused() == f"{2 + columns:06d}"
    page.press(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.HOME)
    assert page.focused() == "000000"
    page.press(Keys.END)
    assert page.focused() == f"{COUNT - 1:06d}"
    assert page.run("return document.activeElement.getBoundingClientRect().bottom <= innerHeight")
    page.press(Keys.ENTER, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.text("#viewer-title") == f"{COUNT - 3:06d}" and page.text("#viewer-place") == "38 of 40"
    page.press("k")
    assert page.find("#viewer [data-act=keep]").get_attribute("aria-pressed") == "true"
    page.press(Keys.ESCAPE)
    page.until(lambda: page.focused() == f"{COUNT - 3:06d}")
    page.press("/", "k")  # is text here
    assert page.run("return document.activeElement.value") == "k" and "1 marked keep" in page.text("#count")


def mark_some(page: Browser) -> None:
    page.tile(0)
    page.press("d", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "d", Keys.ESCAPE)


def exported(page: Browser) -> Path:
    path = page.downloads / "marks.json"
    path.unlink(missing_ok=True)
    page.find("#export").click()
    page.until(path.exists)
    return path


def test_marks_and_reload(page: Browser) -> None:
    mark_some(page)
    assert "2 marked keep, 2 marked drop" in page.text("#count") and page.text(".tile .badge") == "✕ drop"
    page.driver.refresh()
    assert "2 marked keep, 2 marked drop" in page.text("#count")
    page.choose("[name=mark]", "keep")
    assert page.shown() == 2
    page.tile(0)
    page.press("k")  # takes the mark off, so that the sample leaves what is shown; the next one comes up
    assert page.shown() == 1 and page.text("#viewer-title") == "000002"
    page.press("k")
    page.until(lambda: not page.find("#viewer").is_displayed())
    assert page.shown() == 0


def test_export_and_import(page: Browser, tmp_path: Path) -> None:
    marks = {"keep": ["000001", "000002"], "drop": ["000000", "000003"]}
    mark_some(page)
    kept = Path(shutil.copy(exported(page), tmp_path / "mine.json"))
    assert json.loads(kept.read_text()) == marks
    keep, drop = read_list(str(kept), [f"{k:06d}" for k in range(COUNT)])  # as curate.py reads it
    assert (sorted(keep), sorted(drop)) == (marks["keep"], marks["drop"])
    page.run("localStorage.clear()")
    page.driver.refresh()
    page.find("#import").send_keys(str(kept))
    page.until(lambda: "Imported 4 marks." in page.text("#message"))
    assert json.loads(exported(page).read_text()) == marks
    (tmp_path / "strange.json").write_text('{"keep": ["000005", "999999"]}')
    page.find("#import").send_keys(str(tmp_path / "strange.json"))
    page.until(lambda: "Imported 1 marks; 1 names are not in this report" in page.text("#message"))
    for content in ("not JSON", "null", "[]", '{"keep": [1]}', '{"keep": "000001"}', '{"type": "other"}'):
        (tmp_path / "bad.json").write_text(content)
        page.run("document.querySelector('#message').textContent = ''")
        page.find("#import").send_keys(str(tmp_path / "bad.json"))
        page.until(lambda: "was not imported" in page.text("#message"))
    assert "1 marked keep, 0 marked drop" in page.text("#count")


@pytest.mark.parametrize("width", [380, 760, 1600])
def test_no_width_scrolls_sideways(page: Browser, width: int) -> None:
    page.view(width)
    page.until(lambda: page.run("return innerWidth") == width)
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('.tile').click()")
    box = page.run("return document.querySelector('#viewer').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0 and box["right"] <= width
    assert page.run("const v = document.querySelector('#viewer'); return v.scrollWidth <= v.clientWidth")


def test_five_thousand_samples(chromium: Browser, tmp_path: Path) -> None:
    """Made in memory: 5,000 samples of 64 px, of pure noise."""
    images = np.random.default_rng(0).integers(0, 256, (500, 64, 64, 3), dtype=np.uint8)
    kind, scale = choose_encoding(np.tile(images, (10, 1, 1, 1)))
    mask = data_uri(np.eye(64, dtype=np.uint8), "png", scale)
    pictures = [(data_uri(image, kind, scale), mask) for image in images] * 10
    near = {"name": "a", "copy": False}
    bare = {"types": {"crack": {"pixels": 64, "share": 1 / 64}}, "empty": False, "nearest_sample": None, "kept": None}
    rows = [
        {**bare, "name": f"{k:06d}", "nearest_train": {**near, "distance": k / 5000}, "agreement": k % 100 / 100}
        for k in range(5000)
    ]
    path = tmp_path / "many.html"
    path.write_text(report.render("made up", ("crack",), {}, {}, rows, pictures, ""))
    assert path.stat().st_size < 40e6
    chromium.view()
    chromium.open(path)
    assert chromium.shown() == 5000
    chromium.run("document.querySelector('#import').focus()")
    chromium.press(Keys.TAB, Keys.END)
    assert chromium.focused() == "004999"
    assert chromium.run("return document.activeElement.getBoundingClientRect().bottom <= innerHeight")
    chromium.fill("distance-min", "0.9")
    assert chromium.shown() == 500 and chromium.complaints() == []
