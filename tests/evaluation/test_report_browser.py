"""The report in a real headless Chromium: filters, overlay, keyboard, marks, export and import, 5,000 samples.

scripts/setup_browser.sh installs what it needs. Run as a program it takes screenshots of any report, narrow and wide,
light and dark, of its top, its gallery and its viewer; report_screenshot.png is that of the docs:

    .venv-browser/bin/python tests/test_report_browser.py work/samples/report.html OUT
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a program

pytest.importorskip("selenium", reason="selenium is not installed here: scripts/setup_browser.sh")
for program in ("chromium", "chromedriver"):
    if not shutil.which(program):
        pytest.skip(f"no {program} here: scripts/setup_browser.sh", allow_module_level=True)

from report_material import (  # noqa: E402
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
from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from guided_diffusion.evaluation import report  # noqa: E402
from guided_diffusion.evaluation.curation import read_list  # noqa: E402
from guided_diffusion.evaluation.report_data import UNCURATED, Contents  # noqa: E402
from guided_diffusion.evaluation.report_pictures import Album, choose_encoding  # noqa: E402

COUNT = 40
TRAIN_SIZE, TOP, LEFT = 32, 3, 8  # samples are windows of training images, and nearest to this one
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)
PIXELS = "const c = arguments[0]; return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"


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

    def view(self, width: int = 1440, height: int = 900, *, dark: bool = False, media: str = "") -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": scheme})

    def open(self, path: Path) -> None:
        self.driver.get(path.resolve().as_uri())

    def run(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> object:
        return self.driver.find_element("css selector", selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements("css selector", selector))

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()

    def until(self, condition: Callable[[], object]) -> object:
        return WebDriverWait(self.driver, 20, 0.05).until(lambda _: condition())

    def painted(self, selector: str) -> np.ndarray:
        """The pixels uint8 [H, W, 4] of a canvas, once the page has painted it."""
        canvas = self.find(selector)
        opacity = "return String(document.querySelector('#overlay').checked * document.querySelector('#opacity').value)"
        self.until(lambda: canvas.get_attribute("data-painted") == self.run(opacity))
        height, width = (int(canvas.get_attribute(side)) for side in ("height", "width"))
        return np.array(self.run(PIXELS, canvas), np.uint8).reshape(height, width, 4)

    def complaints(self) -> list[str]:
        """Errors on the console, and addresses that were fetched from elsewhere than the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = message["params"]["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:", "chrome:")):
                    said.append(address)
        return said


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads"))
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples, all results of them, and report.html."""
    folder = tmp_path_factory.mktemp("material")
    samples = folder / "samples"
    write_samples(samples, COUNT, windows_of=TRAIN_SIZE)
    write_train(folder / "train", size=TRAIN_SIZE)
    write_lines(samples / "quality" / "samples.jsonl", scores(samples, top=TOP, left=LEFT))
    results = {"quality": quality_result(samples, folder / "train"), "lift": lift_result(), "sweep": sweep_result()}
    for name, result in results.items():
        (samples / name).mkdir(exist_ok=True)
        (samples / name / f"{name}.json").write_text(json.dumps(result))
    rules = {"000000": "empty", "000003": "near-copy", "000009": "near-copy"}
    dropped = [{"name": name, "rule": rule, "reason": f"{rule} of {name}"} for name, rule in rules.items()]
    write_lines(samples / "curated" / "dropped.jsonl", dropped)
    kept = [{"name": f"{k:06d}"} for k in range(COUNT) if f"{k:06d}" not in rules]
    write_lines(samples / "curated" / "kept.jsonl", kept)
    named = dict.fromkeys(("train", "quality", "lift", "sweep", "curated"))
    report.main(Namespace(samples=str(samples), out=str(folder / "report.html"), **named))
    return folder


@pytest.fixture
def page(chromium: Browser, material: Path) -> Iterator[Browser]:
    """The report, freshly opened, with no marks; at the end nothing may have been complained of or fetched."""
    chromium.view()
    chromium.open(material / "report.html")
    chromium.run("localStorage.clear(); history.replaceState(null, '')")
    reload(chromium)
    yield chromium
    assert chromium.complaints() == []


def reload(page: Browser) -> None:
    page.driver.refresh()
    page.run("document.querySelector('#gallery').scrollIntoView()")  # only tiles in sight are there
    page.until(lambda: page.count(".tile") > 1)


def shown(page: Browser) -> int:
    return int(page.text("#count").split()[0].replace(",", ""))


def fill(page: Browser, selector: str, text: str) -> None:
    page.find(selector).clear()
    page.find(selector).send_keys(text)


def choose(page: Browser, selector: str, value: str) -> None:
    script = "arguments[0].value = arguments[1];"
    for event in ("input", "change"):
        script += f"arguments[0].dispatchEvent(new Event('{event}', {{bubbles: true}}));"
    page.run(script, page.find(selector), value)


def focused_sample(page: Browser) -> str:
    return page.run("return document.activeElement.querySelector('.title')?.textContent")


def test_filters_change_what_is_shown(page: Browser, material: Path) -> None:
    rows = scores(material / "samples")
    assert shown(page) == COUNT
    page.find("#types label:nth-of-type(2) input").click()
    assert shown(page) == sum(TYPES[1] in row["types"] for row in rows)
    page.find("#types label:nth-of-type(1) input").click()  # either of the two
    assert shown(page) == sum(bool({*TYPES[:2]} & set(row["types"])) for row in rows)
    page.find("#filters button[type=reset]").click()
    page.until(lambda: shown(page) == COUNT)

    fill(page, "[name=area-min]", "5")
    fill(page, "[name=area-max]", "10")
    areas = [100 * sum(type_["share"] for type_ in row["types"].values()) for row in rows]
    expected = sum(5 <= area <= 10 for area in areas)
    assert 0 < shown(page) == expected < COUNT
    fill(page, "[name=agreement-min]", "0.5")  # None passes no range
    agreeing = [row["agreement"] is not None and row["agreement"] >= 0.5 for row in rows]
    assert shown(page) == sum(5 <= a <= 10 and ok for a, ok in zip(areas, agreeing, strict=True)) < expected
    page.find("#filters button[type=reset]").click()
    page.until(lambda: shown(page) == COUNT)

    fill(page, "[name=distance-max]", "0.2")
    assert shown(page) == sum(row["nearest_train"]["distance"] <= 0.2 for row in rows)
    page.find("#filters button[type=reset]").click()
    for value, number in (("dropped", 3), ("dropped:near-copy", 2), ("kept", COUNT - 3), ("copy", 1), ("empty", 1)):
        choose(page, "#status", value)
        assert shown(page) == number
    choose(page, "#status", "dropped")
    page.find(".tile[data-position='1']").click()
    assert "dropped: near-copy of 000003" in page.text("#viewer-details")
    page.press(Keys.ESCAPE)
    fill(page, "[name=name]", "no such name")
    assert shown(page) == 0 and page.find("#nothing").is_displayed() and page.count(".tile") == 0


def test_sorting(page: Browser, material: Path) -> None:
    rows = scores(material / "samples")
    choose(page, "#sort", "distance")
    nearest = sorted(range(COUNT), key=lambda k: rows[k]["nearest_train"]["distance"])
    assert page.text(".tile[data-position='0'] .title") == rows[nearest[0]]["name"]
    page.find("#descending").click()
    assert page.text(".tile[data-position='0'] .title") == rows[nearest[-1]]["name"]
    choose(page, "#sort", "agreement")  # those without the measure come last, whatever the direction
    page.find(".tile[data-position='0']").click()
    page.press(Keys.ESCAPE, Keys.END)
    assert focused_sample(page) == "000000"


def test_overlay_changes_pixels(page: Browser, material: Path) -> None:
    canvas = ".tile[data-position='1'] canvas"
    mask = np.asarray(Image.open(material / "samples" / "masks_converted_dir" / "000001.png"))
    image = np.asarray(Image.open(material / "samples" / "images" / "000001.png"))
    with_mask = page.painted(canvas)
    page.find("#overlay").click()
    plain = page.painted(canvas)
    assert np.array_equal(plain[..., :3], image)
    assert np.array_equal((with_mask != plain).any(axis=-1), mask > 0)
    page.run("document.activeElement.blur()")
    page.press("m")
    assert page.find("#overlay").is_selected()
    assert np.array_equal(page.painted(canvas), with_mask)
    page.run("const o = document.querySelector('#opacity'); o.value = 1; o.dispatchEvent(new Event('input'))")
    colours = np.array([[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in page_data(page)["colours"]])
    assert np.array_equal(page.painted(canvas)[mask > 0][:, :3], colours[mask[mask > 0] - 1])


def page_data(page: Browser) -> dict:
    return json.loads(page.run("return document.querySelector('#data').textContent"))


def test_keyboard(page: Browser) -> None:
    page.find("#help").send_keys(Keys.TAB)  # from the last tool into the grid
    assert focused_sample(page) == "000000"
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert focused_sample(page) == "000002"
    tops = page.run("return [...document.querySelectorAll('.tile')].map(t => t.getBoundingClientRect().top)")
    columns = tops.count(min(tops))
    page.press(Keys.ARROW_DOWN)
    assert focused_sample(page) == f"{2 + columns:06d}"
    page.press(Keys.ARROW_UP, Keys.ARROW_LEFT, Keys.HOME)
    assert focused_sample(page) == "000000"
    page.press(Keys.END)
    assert focused_sample(page) == f"{COUNT - 1:06d}"
    assert page.run("return document.activeElement.getBoundingClientRect().bottom <= innerHeight")

    page.press(Keys.ENTER)
    assert page.text("#viewer-title") == f"{COUNT - 1:06d}"
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.text("#viewer-title") == f"{COUNT - 3:06d}" and page.text("#viewer-place") == "38 of 40"
    page.press("k")
    assert page.find("#viewer [data-act=keep]").get_attribute("aria-pressed") == "true"
    page.press(Keys.ESCAPE)
    page.until(lambda: focused_sample(page) == f"{COUNT - 3:06d}")
    assert "marked keep" in page.run("return document.activeElement.getAttribute('aria-label')")

    page.press("?")
    assert page.find("#shortcuts").is_displayed()
    page.press(Keys.ESCAPE, "/")
    assert page.run("return document.activeElement.name") == "name"
    page.press("k")  # is text here
    assert "1 marked keep" in page.text("#count")


def test_viewer_shows_the_matched_part_and_its_place(page: Browser, material: Path) -> None:
    """Sample k of the material is nearest to training image k % 6, flipped by none, h, v, hv in turn."""
    page.find("#overlay").click()
    for k, flips in ((4, []), (5, [1]), (6, [0]), (7, [0, 1])):
        page.find(f".tile[data-position='{k}']").click()
        train = np.asarray(Image.open(material / "train" / "test" / "some" / f"{k % 6:03d}.png"))
        part = np.flip(train[TOP : TOP + SIZE, LEFT : LEFT + SIZE], flips)
        assert np.array_equal(page.painted("#viewer figure:nth-child(2) canvas")[..., :3], part)
        assert np.array_equal(page.painted("#viewer figure:nth-child(3) canvas")[..., :3], train)
        box = page.find("#viewer .box").get_attribute("style")
        assert "left: 25%; top: 9.375%; width: 75%; height: 75%;" in box
        assert f"some/{k % 6:03d}" in page.text("#viewer-details")
        page.press(Keys.ESCAPE)
        page.until(lambda: not page.find("#viewer").is_displayed())


def mark_some(page: Browser) -> None:
    page.find(".tile[data-position='0']").click()
    page.press("d", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "k", Keys.ARROW_RIGHT, "d", Keys.ESCAPE)


MARKS = {"keep": ["000001", "000002"], "drop": ["000000", "000003"]}


def exported(page: Browser) -> Path:
    path = page.downloads / "marks.json"
    path.unlink(missing_ok=True)
    page.find("#export").click()
    page.until(path.exists)
    return path


def test_marks_undo_and_reload(page: Browser) -> None:
    mark_some(page)
    assert "2 marked keep, 2 marked drop" in page.text("#count")
    assert page.text(".tile[data-position='0'] .badge") == "✕ drop"
    page.press("u")
    assert "2 marked keep, 1 marked drop" in page.text("#count")
    reload(page)
    assert "2 marked keep, 1 marked drop" in page.text("#count")
    choose(page, "[name=mark]", "keep")
    assert shown(page) == 2
    page.find(".tile").click()
    page.press("k")  # takes the mark off, so that the sample leaves what is shown; the next one comes up
    assert shown(page) == 1 and page.text("#viewer-title") == "000002"
    page.press("k")
    page.until(lambda: not page.find("#viewer").is_displayed())
    page.find("#undo").click()
    assert shown(page) == 1
    choose(page, "[name=mark]", "none")
    page.find("#help").send_keys(Keys.TAB, "k")  # what is marked in the grid goes; the focus stays in the grid
    assert focused_sample(page) == "000003" and "2 marked keep" in page.text("#count")


def test_export_and_import(page: Browser, tmp_path: Path) -> None:
    mark_some(page)
    path = exported(page)
    assert json.loads(path.read_text()) == MARKS
    kept = shutil.copy(path, tmp_path / "mine.json")
    page.run("localStorage.clear()")
    reload(page)
    assert "0 marked keep, 0 marked drop" in page.text("#count")
    page.find("#import-file").send_keys(str(kept))
    page.until(lambda: "Imported 4 marks." in page.text("#message"))
    assert json.loads(exported(page).read_text()) == MARKS

    (tmp_path / "strange.json").write_text('{"keep": ["000005", "999999"]}')
    page.find("#import-file").send_keys(str(tmp_path / "strange.json"))
    page.until(lambda: "Imported 1 marks; 1 names are not in this report" in page.text("#message"))
    for content in ("not JSON", "null", "[]", '{"keep": [1]}', '{"keep": "000001"}', '{"type": "other"}'):
        (tmp_path / "bad.json").write_text(content)
        page.run("document.querySelector('#message').textContent = ''")
        page.find("#import-file").send_keys(str(tmp_path / "bad.json"))
        page.until(lambda: "was not imported" in page.text("#message"))
    assert "1 marked keep, 0 marked drop" in page.text("#count")
    page.find("#undo").click()
    assert "2 marked keep, 2 marked drop" in page.text("#count")


def test_curate_reads_the_export(page: Browser) -> None:
    mark_some(page)
    keep, drop = read_list(str(exported(page)), [f"{k:06d}" for k in range(COUNT)])
    assert (sorted(keep), sorted(drop)) == (MARKS["keep"], MARKS["drop"])


def test_marks_without_local_storage(page: Browser) -> None:
    denied = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('', 'SecurityError'); }})"
    added = page.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": denied})
    try:
        reload(page)
        mark_some(page)
        assert "for this tab only" in page.text("#message")
        reload(page)
        assert "2 marked keep, 2 marked drop" in page.text("#count")
        page.run("history.replaceState(null, '')")
    finally:
        page.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_closest_pairs_open_the_viewer(page: Browser) -> None:
    fill(page, "[name=name]", "000001")  # the first pair is not shown then
    page.find("[data-sample='000000']").click()
    assert page.text("#viewer-title") == "000000" and shown(page) == COUNT


def test_names_are_never_read_as_html(page: Browser) -> None:
    assert EVIL in page.text("#types") and EVIL in page.text("#labels")
    assert page.count("img") == 0
    page.run(f"document.querySelector(\".tile[title*='{EVIL}']\").click()")
    assert EVIL in page.text("#viewer-details")


@pytest.mark.parametrize("width", [380, 760, 1600])
def test_no_width_scrolls_sideways(page: Browser, width: int) -> None:
    page.view(width)
    page.until(lambda: page.run("return innerWidth") == width)
    assert page.run("return document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('.tile').click()")
    box = page.run("return document.querySelector('#viewer').getBoundingClientRect().toJSON()")
    assert box["left"] >= 0 and box["right"] <= width
    assert page.run("const v = document.querySelector('#viewer'); return v.scrollWidth <= v.clientWidth")


def test_dark_and_print(page: Browser) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(colour)
    page.view(dark=True)
    assert page.run(colour) != light == "rgb(255, 255, 255)"
    page.view(media="print")
    assert not page.find("#gallery").is_displayed() and page.find("#lift").is_displayed()


def test_five_thousand_samples(chromium: Browser, tmp_path: Path) -> None:
    """Made in memory: 5,000 samples of 64 px, as noisy as photographs are."""
    images, masks = draw(64, 5, 2, 64)
    noise = np.random.default_rng(0).integers(-12, 13, images.shape)
    images = np.clip(images + noise, 0, 255).astype(np.uint8)
    album = Album(64, 64, choose_encoding(images[:32], 5000))
    rows = []
    for k in range(5000):
        album.add(np.roll(images[k % 64], k // 64, axis=0), np.roll(masks[k % 64], k // 64, axis=0))
        pixels = int((masks[k % 64] > 0).sum())
        near = {
            "name": "a",
            "distance": k / 5000,
            "feature_distance": 0.1,
            "copy": False,
            "flip": "none",
            "top": 0,
            "left": 0,
        }
        rows.append(
            {
                "name": f"{k:06d}",
                "types": {"crack": {"pixels": pixels, "share": pixels / 4096}} if pixels else {},
                "empty": not pixels,
                "clipped": 0.0,
                "nearest_train": near,
                "nearest_sample": None,
                "agreement": k % 100 / 100,
                **UNCURATED,
            }
        )
    album.close_sheet()
    contents = Contents("made up", ("crack", "hole"), (64, 64), {}, rows, album, [], "5000", [])
    path = tmp_path / "many.html"
    path.write_text(report.render(contents))
    assert path.stat().st_size < 40e6
    chromium.view()
    chromium.open(path)
    assert shown(chromium) == 5000
    most = chromium.count(".tile")
    for share in (0.25, 0.5, 0.75, 1.0):
        chromium.run(f"scrollTo(0, {share} * document.documentElement.scrollHeight)")
        chromium.until(lambda: chromium.run(
            "return [...document.querySelectorAll('.tile')].some(t => { const b = t.getBoundingClientRect();"
            " return b.top > 0 && b.bottom < innerHeight && t.querySelector('canvas').dataset.painted })"
        ))  # fmt: skip
        most = max(most, chromium.count(".tile"))
    assert most <= 150
    last = chromium.run("return Math.max(...[...document.querySelectorAll('.tile')].map(t => +t.dataset.position))")
    assert last == 4999
    fill(chromium, "[name=distance-min]", "0.9")
    assert shown(chromium) == 500
    assert chromium.complaints() == []


def take_screenshots(path: Path, out: Path, profile: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    browser = Browser(profile, out)
    for name, width, height in (("wide", 1440, 900), ("narrow", 390, 844)):
        for dark in (False, True):
            browser.view(width, height, dark=dark)
            browser.open(path)
            shot = out / f"{name}{'_dark' if dark else ''}"
            for part in ("top", "gallery", "viewer"):
                if part == "gallery":
                    browser.run("document.querySelector('#gallery').scrollIntoView()")
                elif part == "viewer":
                    browser.run("document.querySelectorAll('.tile')[1].click()")
                time.sleep(0.5)
                browser.driver.save_screenshot(f"{shot}_{part}.png")
    browser.driver.quit()
    stacked = np.concatenate([np.asarray(Image.open(out / f"wide_{part}.png")) for part in ("top", "gallery")])
    Image.fromarray(stacked[..., :3]).save(out / "report_screenshot.png", optimize=True)


if __name__ == "__main__":
    import tempfile

    take_screenshots(Path(sys.argv[1]), Path(sys.argv[2]), Path(tempfile.mkdtemp()))
