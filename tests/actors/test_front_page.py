"""The first page in a real browser: the tree is shown, quotes change, a lost connection comes back."""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tickring.ringbuf import make_bell

from .front_rig import FrontThread, Producer, instance_folder, instrument

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'tickring[test]'")

DEADLINE_S = 60.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="no Chromium with its driver on this machine: apt-get install chromium chromium-driver",
)


def until(condition: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {DEADLINE_S} s: {what}")


class Market:
    """Publishes quotes and trades of a few symbols, about `per_s` records a second."""

    def __init__(self, folder: Path, per_s: int) -> None:
        self.bell = make_bell()
        self.producer = Producer(folder, doorbells=[self.bell])
        self.keys = [self.producer.add(instrument(base)) for base in ("BTC", "ETH", "SOL", "XRP")]
        self._pause_s = len(self.keys) * 2 / per_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            for key_id in self.keys:
                mid = round(random.uniform(90, 110), 2)
                self.producer.quote(key_id, round(mid - 0.01, 2), round(mid + 0.01, 2))
                self.producer.trade(key_id, mid, flags=random.choice((0, 32)))

    def __enter__(self) -> Market:
        self._thread.start()
        return self

    def stop(self) -> None:
        """Publish no more."""
        self._stop.set()
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.producer.close()
        os.close(self.bell)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1400,900",
        "--disable-background-networking", "--no-first-run",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def folder() -> Iterator[Path]:
    with instance_folder() as folder:
        yield folder


def text(browser: Any, selector: str) -> str:
    script = "const at = document.querySelector(arguments[0]); return at ? at.textContent : ''"
    return browser.execute_script(script, selector)


def complaints(browser: Any) -> list[str]:
    """What the browser logged: refused by the policy, script errors, failed requests."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


BID = "tr[data-symbol='BTC-USDT'] td.bid"


def test_page_shows_processes_and_changing_quotes(browser: Any, folder: Path) -> None:
    with Market(folder, 200) as market, FrontThread(folder, bell=market.bell) as front:
        browser.get(f"http://127.0.0.1:{front.port}/")
        until(lambda: text(browser, "#connection") == "live", "the stream is open")
        until(lambda: text(browser, BID) not in ("", "–"), "a quote is shown")
        seen = set()
        until(lambda: seen.add(text(browser, BID)) or len(seen) > 5, "the quote changes")
        until(lambda: text(browser, "#tape tbody td:nth-child(2)"), "trades are shown")
        until(lambda: "running" in text(browser, "tr[data-actor='front-0']"), "the process tree is shown")
        assert len(browser.find_elements("css selector", "#market tbody tr")) == 4
        box = browser.find_element("id", "filter")
        box.send_keys("eth")
        until(lambda: len(browser.find_elements("css selector", "#market tbody tr")) == 1, "the filter works")
        assert text(browser, "#tape-of") == "ETH-USDT"
        assert complaints(browser) == []


def test_page_reconnects_after_the_front_was_away(browser: Any, folder: Path) -> None:
    with Market(folder, 200) as market:
        with FrontThread(folder, bell=market.bell) as front:
            port = front.port
            browser.get(f"http://127.0.0.1:{port}/")
            until(lambda: text(browser, BID) not in ("", "–"), "a quote is shown")
        until(lambda: text(browser, "#connection") != "live", "the loss is shown")
        with FrontThread(folder, bell=market.bell, port=port):
            until(lambda: text(browser, "#connection") == "live", "the page is back")
            before = text(browser, BID)
            until(lambda: text(browser, BID) != before, "the quote changes again")
    browser.get_log("browser")  # the refused connections of the pause are expected


def test_page_keeps_up_with_a_thousand_messages_a_second(browser: Any, folder: Path) -> None:
    with Market(folder, 1000) as market, FrontThread(folder, bell=market.bell) as front:
        browser.get(f"http://127.0.0.1:{front.port}/")
        until(lambda: int(text(browser, "#rate") or 0) > 0, "messages flow")
        key_id = market.keys[0]
        counts = market.producer.writers["trade"].counts
        cell = "tr[data-symbol='BTC-USDT'] td:last-child"
        time.sleep(3)  # of load, which the page has digested when it shows all
        market.stop()
        until(lambda: int(text(browser, cell)) == counts[key_id], "the page is not behind")
        # the page of the test before may have asked once more for its own front, which is gone
        assert [line for line in complaints(browser) if f":{front.port}/" in line] == []


def test_description_is_drawn_from_our_own_files_alone(browser: Any, folder: Path) -> None:
    pytest.importorskip("offapi", reason="pip install offapi")
    with FrontThread(folder) as front:
        browser.get_log("browser")
        browser.get(f"http://127.0.0.1:{front.port}/docs")
        until(lambda: len(browser.find_elements("css selector", ".opblock")) > 30, "Swagger UI shows the endpoints")
        # the page of the test before may have asked once more for its own front, which is gone
        mine = [line for line in browser.get_log("browser") if f":{front.port}/" in line["message"]]
        assert [line for line in mine if line["level"] == "SEVERE"] == []
        browser.get(f"http://127.0.0.1:{front.port}/redoc")
        until(lambda: "tickring" in text(browser, "h1"), "Redoc shows the description")
        loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        ours = (f"http://127.0.0.1:{front.port}/", "blob:", "data:")
        # the policy refuses its maker's logo, which is still listed
        assert [name for name in loaded if not name.startswith(ours) and "logo" not in name] == []
