"""The report in a real headless Chromium: filters, overlay, keyboard, marks, export and import.

scripts/setup_browser.sh installs what it needs.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn_boxes import SIZE
from evaluating import evaluate
from PIL import Image
from report_material import EVIL, TYPES, scores, write_all

from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.curation import read_list
from guided_diffusion.pictures import overlay

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: scripts/setup_browser.sh")
ui = pytest.importorskip("selenium.webdriver.support.ui")
for program in ("chromium", "chromedriver"):
    if not shutil.which(program):
        pytest.skip(f"no {program} here: scripts/setup_browser.sh", allow_module_level=True)
Keys = webdriver.Keys
COUNT = 40


class Browser:
    """A Chromium with an empty profile, that keeps what it was told and what it fetched."""

    def __init__(self, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in ("--headless", "--no-sandbox", "--hide-scrollbars"):
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.run, self.downloads = self.driver.execute_script, downloads

    def open(self, path: Path) -> None:
        metrics = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.get(path.resolve().as_uri())

    def find(self, selector: str) -> object:
        return self.driver.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, condition: Callable[[], object]) -> None:
        ui.WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def painted(self, selector: str) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]: what the screen shows of a picture, at the middle of each of its pixels."""
        shot = np.asarray(Image.open(io.BytesIO(self.find(selector).screenshot_as_png)).convert("RGB"))
        rows, columns = ((np.arange(SIZE) + 0.5) * side / SIZE for side in shot.shape[:2])
        return shot[np.ix_(rows.astype(int), columns.astype(int))]

    def complaints(self) -> list[str]:
        """Errors on the console, and addresses that were fetched from elsewhere than the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        fetched = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return said + [url for url in fetched if not url.startswith(("file:", "data:", "blob:", "chrome:"))]

    def shown(self) -> int:
        return int(self.text("#count").split()[0].replace(",", ""))

    def choose(self, name: str, value: str) -> int:
        """The number of samples shown then."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.run(script, self.find(f"[name={name}]"), value)
        return self.shown()

    def reset(self) -> None:
        self.find("#filters button[type=reset]").click()
        self.until(lambda: self.shown() == COUNT)

    def focused(self) -> str:
        return self.run("return document.activeElement.querySelector('.title')?.textContent")

    def enter_grid(self) -> None:
        self.run("document.querySelector('#import').focus()")  # the last tool
        self.press(Keys.TAB)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with all results of them, and report.html."""
    samples = write_all(tmp_path_factory.mktemp("material") / "samples", COUNT)
    evaluate(report, samples=samples)
    return samples


@pytest.fixture
def page(chromium: Browser, samples: Path) -> Iterator[Browser]:
    """The report, freshly opened, with no marks; at the end nothing may have been complained of or fetched."""
    chromium.open(samples / "report.html")
    chromium.run("localStorage.clear()")
    chromium.driver.refresh()
    yield chromium
    assert chromium.complaints() == []


def test_filters_and_sorting(page: Browser, samples: Path) -> None:
    rows = scores(samples)
    areas = [100 * sum(type_["share"] for type_ in row["types"].values()) for row in rows]
    agrees = [row["agreement"] is not None and row["agreement"] >= 0.5 for row in rows]
    distances = [row["nearest_train"]["distance"] for row in rows]
    assert page.shown() == COUNT
    assert page.choose("type", TYPES[1]) == sum(TYPES[1] in row["types"] for row in rows)
    page.reset()
    for name, value in (("area-min", "5"), ("area-max", "10"), ("agreement-min", "0.5")):
        shown = page.choose(name, value)
    assert 0 < shown == sum(5 <= area <= 10 and ok for area, ok in zip(areas, agrees, strict=True)) < COUNT
    page.reset()
    for value, number in (("dropped", 3), ("kept", COUNT - 3), ("copy", 1), ("duplicate", 1), ("empty", 1)):
        assert page.choose("status", value) == number
    assert page.choose("name", "no such name") == 0 and not page.driver.find_elements("css selector", ".tile")
    page.reset()
    page.choose("sort", "distance")
    assert page.text(".tile .title") == f"{np.argmin(distances):06d}"
    page.find("[name=descending]").click()
    assert page.text(".tile .title") == f"{np.argmax(distances):06d}"
    page.choose("sort", "agreement")  # those without the measure come last, whatever the direction
    assert page.text(".tile:last-child .title") == "000000"


def test_overlay_changes_pixels(page: Browser, samples: Path) -> None:
    frame = ".tile:nth-child(2) .frame"
    mask, image = (np.asarray(Image.open(samples / part / "000001.png")) for part in ("masks_converted_dir", "images"))
    with_mask = page.painted(frame)
    page.find("#overlay").click()
    assert np.array_equal(page.painted(frame), image)
    assert np.array_equal((with_mask != image).any(axis=-1), mask > 0)
    page.press("m")
    assert np.array_equal(page.painted(frame), with_mask)
    assert np.abs(with_mask - overlay(image, mask, 0.55).astype(int)).max() <= 1


def test_keyboard(page: Browser) -> None:
    columns = page.run("return getComputedStyle(document.querySelector('#grid')).gridTemplateColumns").count("px")
    page.enter_grid()
    for keys, focused in (
        ((), 0),
        ((Keys.ARROW_RIGHT, Keys.ARROW_RIGHT), 2),
        ((Keys.ARROW_DOWN,), 2 + columns),
        ((Keys.ARROW_UP, Keys.ARROW_LEFT), 1),
        ((Keys.HOME,), 0),
        ((Keys.END,), COUNT - 1),
    ):
        page.press(*keys)
        assert page.focused() == f"{focused:06d}"
    page.press(Keys.ENTER, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.text("#viewer-title") == f"{COUNT - 3:06d}" and page.text("#viewer-place") == "38 of 40"
    page.press("k")
    assert page.find("#viewer [data-act=keep]").get_attribute("aria-pressed") == "true"
    page.press(Keys.ESCAPE)
    page.until(lambda: page.focused() == f"{COUNT - 3:06d}")
    page.press("/", "k")  # is text here
    assert page.run("return document.activeElement.value") == "k" and "1 marked keep" in page.text("#count")


def exported(page: Browser) -> dict:
    """The marks as the page exports them, read as curate.py does."""
    path = page.downloads / "marks.json"
    path.unlink(missing_ok=True)
    page.find("#export").click()
    page.until(path.exists)
    keep, drop = read_list(str(path), [f"{k:06d}" for k in range(COUNT)])
    return {"keep": sorted(keep), "drop": sorted(drop)}


def test_marks_stay_and_are_exported_and_imported(page: Browser, tmp_path: Path) -> None:
    marks = {"keep": ["000001", "000002"], "drop": ["000000", "000003"]}
    page.find(".tile").click()
    page.press("d", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "d")
    details = page.text("#viewer-details")
    assert f"dropped: near-copy of {EVIL}" in details and "some/003 (near-copy), 0.130" in details
    page.driver.refresh()
    assert "2 marked keep, 2 marked drop" in page.text("#count") and page.text(".tile .badge") == "✕ drop"
    assert exported(page) == marks and page.choose("mark", "keep") == 2
    page.find(".tile").click()
    page.press("k")  # takes the mark off, so that the sample leaves what is shown; the next one comes up
    assert page.shown() == 1 and page.text("#viewer-title") == "000002"
    page.press("k")
    page.until(lambda: not page.find("#viewer").is_displayed())
    page.reset()
    for content, said in (
        (json.dumps(marks), "Imported 4 marks."),
        *((bad, "was not imported") for bad in ("not JSON", "null", "[]", '{"keep": [1]}', '{"type": "other"}')),
        ('{"keep": ["000005", "999999"]}', "Imported 1 marks; 1 names are not in this report"),
    ):
        (tmp_path / "marks.json").write_text(content)
        page.run("document.querySelector('#message').textContent = ''")
        page.find("#import").send_keys(str(tmp_path / "marks.json"))
        page.until(lambda said=said: said in page.text("#message"))
        assert exported(page) == ({"keep": ["000005"], "drop": []} if "1 names" in said else marks)
