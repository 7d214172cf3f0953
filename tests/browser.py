"""A headless Chromium, for the tests of pages; scripts/setup_browser.sh installs what it needs."""

import json
import shutil
from pathlib import Path

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: scripts/setup_browser.sh")
ui = pytest.importorskip("selenium.webdriver.support.ui")
StaleElementReferenceException = pytest.importorskip("selenium.common").StaleElementReferenceException
for program in ("chromium", "chromedriver"):
    if not shutil.which(program):
        pytest.skip(f"no {program} here: scripts/setup_browser.sh", allow_module_level=True)
FLAGS = "--headless --no-sandbox --hide-scrollbars --window-size=1440,900 --enable-unsafe-swiftshader"  # for WebGL


class Browser:
    """A Chromium with an empty profile, at an address."""

    def __init__(self, address: str, downloads: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        self.run, self.downloads = self.driver.execute_script, downloads
        self.driver.get(address)

    def find(self, selector: str, text: str = "") -> object:
        """The first element of a CSS selector that shows this text, waited for."""

        def found(driver: object) -> object:
            return next((one for one in driver.find_elements("css selector", selector) if text in one.text), None)

        return ui.WebDriverWait(self.driver, 60, 0.05, [StaleElementReferenceException]).until(found)

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def shows(self, selector: str, text: str) -> bool:
        return ui.WebDriverWait(self.driver, 20, 0.05).until(lambda _: text in self.text(selector))

    def complaints(self) -> list[str]:
        """Errors on the console, and addresses that were fetched from elsewhere than the page itself."""
        said = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        fetched = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        own = ("file:", "http://127.0.0.1:", "data:", "blob:", "chrome:")
        return said + [url for url in fetched if not url.startswith(own)]
