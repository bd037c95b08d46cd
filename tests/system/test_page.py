"""The first page of the demo, as a person sees it who has just started it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from .tree import Demo, until

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'tickring[test]'")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
CHANGES = 3

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium with its driver on this machine: apt-get install chromium chromium-driver",
)


@pytest.fixture
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # its sockets lie in the folder for temporary files, and the path of a socket is short
    service = webdriver.ChromeService(DRIVER, env={**os.environ, "TMPDIR": "/tmp"})
    driver = webdriver.Chrome(options, service)
    yield driver
    driver.quit()


def test_first_page_of_the_demo_shows_the_tree_and_changing_quotes(demo: Demo, browser) -> None:
    browser.get(demo.url)

    def text(selector: str) -> str:
        return browser.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def bid() -> str:
        """Of the first instrument in the table."""
        return text("#market tbody tr td.bid")

    names = set(demo.names())
    until("every process on the page", lambda: all(name in text("#tree tbody") for name in names))
    until("all of them running", lambda: text("#tree tbody").count("running") >= len(names))
    seen: list[str] = []

    def changed() -> bool:
        if (now := bid()) and (not seen or now != seen[-1]):
            seen.append(now)
        return len(seen) > CHANGES

    until(f"{CHANGES} changes of a quote", changed)
    until("trades on the page", lambda: text("#tape tbody"))
    until("positions on the page", lambda: text("#positions tbody"))
    marks: set[str] = set()
    until("marks that change", lambda: marks.add(text("#positions tbody td.mark")) or len(marks) > CHANGES)
    totals: set[str] = set()
    until("PnL that changes", lambda: totals.add(text("#unrealized")) or len(totals) > CHANGES)
    until("fills on the page", lambda: "USDT" in text("#fills tbody"))
    until("an alert on the page", lambda: text("#alerts tbody"))
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
