from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from tickring.daemon import logs


@pytest.fixture
def logger():
    """Root logging as it was, whatever the test sets up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield logging.getLogger("tickring.test.logs")
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_json_line_has_the_documented_members_and_what_was_passed_as_extra(logger, capsys):
    logs.setup("INFO", "json", actor="feed-binance-spot-0")
    logger.warning("book resync", extra={"exchange": "binance", "symbol": "ETH-USDT", "gap": 3})
    [line] = lines(capsys)
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("timestamp"))
    assert found == {
        "level": "WARNING", "logger": "tickring.test.logs", "message": "book resync", "actor": "feed-binance-spot-0",
        "exchange": "binance", "symbol": "ETH-USDT", "gap": 3,
    }  # fmt: skip


def test_json_line_of_an_exception_stays_one_line(logger, capsys):
    logs.setup("INFO", "json")
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        logger.exception("failed")
    [line] = lines(capsys)
    assert "ValueError: bad\nvalue" in json.loads(line)["exception"]


@pytest.mark.parametrize(("variable", "expected"), [("JOURNAL_STREAM", True), ("INVOCATION_ID", True), (None, False)])
def test_format_is_json_where_systemd_collects_it(monkeypatch, variable, expected):
    for name in ("JOURNAL_STREAM", "INVOCATION_ID"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "8:123")
    assert logs.wants_json("auto") is expected


def test_text_line_names_level_actor_and_message(logger, capsys):
    logs.setup("INFO", "text", actor="writer")
    logger.info("ring=%s lost=%d", "a", 3, extra={"key": "BTC"})
    [line] = lines(capsys)
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    writer +ring=a lost=3 key=BTC", line)


def test_repeated_line_becomes_one_with_count_and_first_and_last_time(logger, capsys):
    repeats = logs.setup("INFO", "json")
    for _ in range(1000):
        logger.error("frame refused: %s", "not JSON")
    logger.error("something else")
    repeats.flush()
    first, other, summary = map(json.loads, lines(capsys))
    assert (first["message"], other["message"]) == ("frame refused: not JSON", "something else")
    assert (summary["message"], summary["repeated"]) == ("frame refused: not JSON", 999)
    assert summary["first"] <= summary["last"]


def test_repeats_are_written_when_their_window_is_over(logger, capsys):
    repeats = logs.setup("INFO", "json")
    repeats.window_s = 0.0
    for _ in range(3):
        logger.error("again")
    assert [json.loads(line)["message"] for line in lines(capsys)] == ["again"] * 3


def test_many_different_lines_forget_the_oldest_and_lose_no_count(logger, capsys):
    repeats = logs.setup("INFO", "json")
    logger.info("n=%d", 0)
    logger.info("n=%d", 0)
    for number in range(1, logs.REPEAT_KEYS_MAX + 1):
        logger.info(f"n={number}")
    assert json.loads(lines(capsys)[-2])["repeated"] == 1
    assert len(repeats._seen) == logs.REPEAT_KEYS_MAX


def test_lines_that_differ_only_in_their_values_are_limited_too(logger, capsys):
    repeats = logs.setup("INFO", "json")
    for number in range(100):
        logger.warning("client=%d read too slowly", number, extra={"exchange": "binance"})
    logger.warning("actor=%s died", "writer")
    repeats.flush()
    *shown, other, summary = map(json.loads, lines(capsys))
    assert len(shown) == logs.ALIKE_MAX + 1
    assert other["message"] == "actor=writer died", "nothing else is held back"
    assert (summary["message"], summary["repeated"]) == ("client=99 read too slowly", 100 - len(shown))
    assert summary["exchange"] == "binance"


def test_lines_that_are_alike_are_shown_again_once_their_window_is_over(logger, capsys):
    repeats = logs.setup("INFO", "json")
    repeats.window_s = 0.0
    for number in range(3 * logs.ALIKE_MAX):
        logger.warning("client=%d read too slowly", number)
    assert len(lines(capsys)) == 3 * logs.ALIKE_MAX
    assert len(repeats._seen) == 1 and sum(repeats._alike.values()) == 1


def test_log_call_with_bad_arguments_does_not_raise(logger, capsys, monkeypatch):
    logs.setup("INFO", "json")
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.info("%d", "no number")
    logger.info("object %s", {1: object()}, extra={"thing": sys})
    assert "object" in lines(capsys)[-1]
