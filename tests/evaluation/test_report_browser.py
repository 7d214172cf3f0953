"""The report in a real headless Chromium: filters, overlay, keyboard, marks, export and import."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, ui, webdriver
from evaluating import SIZE, evaluate
from PIL import Image
from report_material import EVIL, TYPES, scores, write_all

from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.curation import read_list
from guided_diffusion.pictures import colorize

COUNT = 40


class Page(Browser):
    """A report."""

    def painted(self, selector: str) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]: what the screen shows of a picture, at the middle of each of its pixels."""
        shot = np.asarray(Image.open(io.BytesIO(self.find(selector).screenshot_as_png)).convert("RGB"))
        rows, columns = ((np.arange(SIZE) + 0.5) * side / SIZE for side in shot.shape[:2])
        return shot[np.ix_(rows.astype(int), columns.astype(int))]

    def choose(self, name: str, value: str) -> int:
        """The number of samples shown then."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.run(script, self.find(f"[name={name}]"), value)
        return int(self.text("#count").split()[0].replace(",", ""))

    def reset(self) -> None:
        self.find("#filters button[type=reset]").click()
        self.shows("#count", f"{COUNT} of")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with all results of them, and report.html."""
    samples = write_all(tmp_path_factory.mktemp("material") / "samples", COUNT)
    evaluate(report, samples=samples)
    return samples


@pytest.fixture
def page(samples: Path, tmp_path: Path) -> Iterator[Page]:
    """The report with no marks; at the end nothing may have been complained of or fetched."""
    page = Page((samples / "report.html").resolve().as_uri(), tmp_path)
    yield page
    complaints = page.complaints()
    page.driver.quit()
    assert complaints == []


def test_filters_sorting_and_the_overlay(page: Page, samples: Path) -> None:
    rows = scores(samples)
    areas = [100 * sum(type_["share"] for type_ in row["types"].values()) for row in rows]
    distances = [row["nearest_train"]["distance"] for row in rows]
    assert page.choose("type", TYPES[1]) == sum(TYPES[1] in row["types"] for row in rows)
    page.reset()
    page.choose("area-min", "5")
    assert 0 < page.choose("area-max", "10") == sum(5 <= a <= 10 for a in areas) < COUNT
    page.reset()
    for value, number in (("dropped", 3), ("kept", COUNT - 3), ("copy", 1), ("duplicate", 1), ("empty", 1)):
        assert page.choose("status", value) == number
    page.reset()
    page.choose("sort", "distance")
    assert page.text(".tile .title") == f"{np.argmin(distances):06d}"
    page.find("[name=descending]").click()
    assert page.text(".tile .title") == f"{np.argmax(distances):06d}"
    page.choose("sort", "agreement")  # those without the measure come last, whatever the direction
    assert page.text(".tile:last-child .title") == "000000"
    page.reset()

    frame = ".tile:nth-child(2) .frame"
    mask, image = (np.asarray(Image.open(samples / part / "000001.png")) for part in ("masks_converted_dir", "images"))
    with_mask = page.painted(frame)
    page.find("#overlay").click()
    assert np.array_equal(page.painted(frame), image)
    assert np.array_equal((with_mask != image).any(axis=-1), mask > 0)
    blended = np.where(mask[..., None] > 0, 0.45 * image + 0.55 * colorize(mask), image)
    assert np.abs(with_mask - blended).max() <= 1.5


def exported(page: Page) -> tuple[set[str], set[str]]:
    """The marks (keep, drop) as the page exports them, read as curate.py does."""
    path = page.downloads / "marks.json"
    path.unlink(missing_ok=True)
    page.find("#export").click()
    ui.WebDriverWait(page.driver, 20, 0.05).until(lambda _: path.exists() and path.stat().st_size)
    return read_list(str(path), [f"{k:06d}" for k in range(COUNT)])


def test_marks_stay_and_are_exported_and_imported(page: Page, tmp_path: Path) -> None:
    marks = {"keep": ["000001", "000002"], "drop": ["000000", "000003"]}
    page.find(".tile").click()
    right = webdriver.Keys.ARROW_RIGHT
    webdriver.ActionChains(page.driver).send_keys("d", right, "k", right, "k", right, "d").perform()
    details = page.text("#viewer-details")
    assert f"dropped: near-copy of {EVIL}" in details and "some/003 (near-copy), 0.130" in details
    page.driver.refresh()
    assert "2 marked keep, 2 marked drop" in page.text("#count") and page.text(".tile .badge") == "✕ drop"
    assert exported(page) == tuple(map(set, marks.values())) and page.choose("mark", "keep") == 2
    page.reset()
    for content, said in (
        (json.dumps(marks), "Imported 4 marks."),
        *((bad, "was not imported") for bad in ("not JSON", "null", "[]", '{"keep": [1]}', '{"type": "other"}')),
        ('{"keep": ["000005", "999999"]}', "Imported 1 marks; 1 names are not in this report"),
    ):
        (tmp_path / "given.json").write_text(content)
        page.run("document.querySelector('#message').textContent = ''")
        page.find("#import").send_keys(str(tmp_path / "given.json"))
        assert page.shows("#message", said)
        assert exported(page) == (({"000005"}, set()) if "1 names" in said else tuple(map(set, marks.values())))
