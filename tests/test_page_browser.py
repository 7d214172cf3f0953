"""The page of `defect-gen ui` in a real headless Chromium, with a real pair: draw, generate, keep, find the files."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, webdriver
from command_line import ROOT, plain_environment
from PIL import Image

from guided_diffusion.data.records import read_manifest
from guided_diffusion.diffusion.conditioning import DEFAULT_MARGIN

pytest.importorskip("gradio", reason="gradio is not installed: scripts/setup_browser.sh")
SIZE = 60, 90
SERVER = """
import sys
from guided_diffusion.cli import main
def listen(event, args):
    if event == "socket.connect" and args[1][0] not in ("127.0.0.1", "::1"):
        print("called", *args, flush=True)
sys.addaudithook(listen)
main()
"""


class Page(Browser):
    """The page, driven as people do."""

    def stroke(self, *points: tuple[int, int]) -> None:
        """Brush, in pixels of the screen from the middle of the canvas."""
        canvas, act = self.find("canvas"), webdriver.ActionChains(self.driver)
        act.move_to_element_with_offset(canvas, *points[0]).click_and_hold()
        for point in points[1:]:
            act.move_to_element_with_offset(canvas, *point)
        act.release().perform()
        time.sleep(1)  # the editor sends what is drawn after a while, and says nothing of it

    def click(self, selector: str, text: str = "") -> None:
        self.run("arguments[0].click()", self.find(selector, text))  # wherever the page has moved it to

    def choose(self, name: str) -> None:
        self.find("input[aria-label*='Type of defect']").click()
        self.find("[role=option]", name).click()
        time.sleep(3)

    def keep(self, first: int, *seeds: int) -> None:
        """Generate, the first seed being this, and keep some of the variants."""
        seed = self.find("input[aria-label='Seed']")
        seed.send_keys(webdriver.Keys.CONTROL, "a")
        seed.send_keys(str(first))
        self.click("button", "4. Generate")
        self.find("label", f"seed {first + 3}")
        for seed in seeds:
            self.click("label", f"seed {seed}")
        self.click("button", "Keep what")
        self.find("p", f"{len(seeds)} added to")


@pytest.fixture
def page(trained_pair, tmp_path: Path) -> Iterator[Page]:
    """The page of the tiny pair; at the end nothing may have been complained of, or fetched from elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    flags = {"--large_recep": trained_pair.large, "--small_recep": trained_pair.small}
    flags |= {"--sample_dir": tmp_path / "kept", "--port": port}
    command = [sys.executable, "-c", SERVER, "ui", *(str(part) for flag in flags.items() for part in flag)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=plain_environment(), **pipes) as server:
        try:
            assert f"http://127.0.0.1:{port}" in server.stdout.readline()
            page = Page(f"http://127.0.0.1:{port}", tmp_path)
            yield page
            complaints = page.complaints()
            page.driver.quit()
        finally:
            server.terminate()
        assert (complaints, server.stdout.read()) == ([], "")


def test_draw_generate_keep(page: Page, tmp_path: Path) -> None:
    photograph = np.random.default_rng(0).integers(60, 200, (*SIZE, 3), np.uint8)
    Image.fromarray(photograph).save(tmp_path / "part.png")
    names = [row.split("\n")[0] for row in page.text(".html-container").split("■") if row.strip()]
    page.find("p", "no photograph")
    page.click("button", "4. Generate")
    assert "Traceback" not in page.find(".toast-body", "no defect is drawn").text
    page.click(".toast-close")
    page.find("input[type=file]").send_keys(str(tmp_path / "part.png"))
    page.find("p", "90 x 60 pixels")
    time.sleep(2)
    page.stroke((-100, 0), (-60, 0))
    page.choose(names[1].strip())
    page.stroke((60, 40), (100, 40))
    page.keep(0, 1, 2)
    page.find("label", "seed 0")

    def kept(index: int) -> tuple[np.ndarray, np.ndarray, dict]:
        row = read_manifest(str(tmp_path / "kept"))[index]
        return *(np.asarray(Image.open(tmp_path / "kept" / row[key])) for key in ("image", "index_mask")), row

    for index, seed in enumerate((1, 2)):
        image, mask, row = kept(index)
        assert row["condition"] == {"step_inference": 400, "background": "part.png", "seed": seed}
        halves = mask[:, :45], mask[:, 45:]
        assert [np.unique(half).tolist() for half in halves] == [[0, 1], [0, 2]]
        far = np.ones(SIZE, bool)
        for y, x in np.argwhere(mask):
            far[
                max(0, y - DEFAULT_MARGIN - 1) : y + DEFAULT_MARGIN + 2,
                max(0, x - DEFAULT_MARGIN - 1) : x + DEFAULT_MARGIN + 2,
            ] = False
        assert far.any() and np.array_equal(image[far], photograph[far]) and (image != photograph).any()
    assert (kept(0)[0] != kept(1)[0]).any()

    page.click("button", "Or a mask")
    slider = page.find("input[type=range]")
    time.sleep(2)
    webdriver.ActionChains(page.driver).move_to_element_with_offset(
        slider, -slider.size["width"] // 4, 0
    ).click().perform()
    time.sleep(2)
    page.keep(10, 13)
    added = kept(2)[1] != kept(1)[1]
    assert set(np.unique(kept(2)[1])) == {0, 1, 2} and added.any() and np.argwhere(added)[:, 1].mean() < 45
    page.click("button[role=tab]", "Gallery")
    assert f"000002 · {names[0].strip()}, {names[1].strip()} · seed 13" in page.find(".caption-label", "000002").text
