"""Logging of the supervisor and of every actor: JSON lines under a service manager, text on a terminal.

A JSON line has the members timestamp (ISO 8601, UTC, ms), level, logger, message, then `actor` and whatever the caller
passed as `extra`; `exception` holds a traceback. Lines of all processes go to stderr, each by one write, which keeps
them whole: a pipe takes up to 4,096 bytes at once and longer lines are rare.

A line that repeats is written the first time and then once for each `REPEAT_WINDOW_S` with `repeated`, how often it
came meanwhile, and the times of the first and the last repeat. Of lines that differ only in their values, a client's
address or a number, at most `ALIKE_MAX` are written in that time, and the rest are counted in the same way under the
last of them: an error in a loop must neither fill the disk nor hide what else is said.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

LogFormat = Literal["auto", "json", "text"]
Level = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

REPEAT_WINDOW_S = 10.0
REPEAT_KEYS_MAX = 256  # lines remembered at once; the oldest goes, after its count is written
ALIKE_MAX = 50
_PLAIN = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}
_COLORS = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}


def setup(level: Level = "INFO", log_format: LogFormat = "auto", *, actor: str = "") -> RepeatFilter:
    """Send everything below the root logger to stderr; called again in each actor after the fork, with its name."""
    handler = _LineHandler()
    handler.setFormatter(JsonFormatter(actor) if wants_json(log_format) else TextFormatter(actor, sys.stderr.isatty()))
    repeats = RepeatFilter()
    handler.addFilter(repeats)
    repeats.emit = handler.emit
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("picows").setLevel(max(logging.INFO, root.level))
    return repeats


def flush_repeats(*, everything: bool = False) -> None:
    """Write the counts of lines held back whose window is over, or of all; now and then, and before a process ends."""
    for handler in logging.getLogger().handlers:
        for one in handler.filters:
            if isinstance(one, RepeatFilter):
                one.flush() if everything else one.flush_due()


def wants_json(log_format: LogFormat) -> bool:
    """`auto` means JSON where systemd collects the output: it sets one of these variables for a service."""
    if log_format == "auto":
        return "JOURNAL_STREAM" in os.environ or "INVOCATION_ID" in os.environ
    return log_format == "json"


def timestamp(seconds: float) -> str:
    """UNIX seconds as ISO 8601 with milliseconds, `2025-03-04T09:20:10.124Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class _LineHandler(logging.Handler):
    """One write(2) for each line, to whatever stderr is now."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # stderr was closed: there is nowhere left to say so
        except Exception:  # noqa: BLE001 - a bad log call must not end an actor
            self.handleError(record)


class JsonFormatter(logging.Formatter):
    def __init__(self, actor: str = "") -> None:
        super().__init__()
        self.actor = actor

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": timestamp(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self.actor:
            line["actor"] = self.actor
        line.update(extra_members(record))
        if record.exc_info:
            line["exception"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    def __init__(self, actor: str = "", colored: bool = False) -> None:
        super().__init__()
        self.actor = actor or "supervisor"
        self.colored = colored

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        extra = "".join(f" {name}={value}" for name, value in extra_members(record).items())
        line = f"{at} {record.levelname:<7} {self.actor:<24} {record.getMessage()}{extra}"
        if record.exc_info:
            line += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        if self.colored and (color := _COLORS.get(record.levelname)):
            return f"{color}{line}\x1b[0m"
        return line


def extra_members(record: logging.LogRecord) -> Mapping[str, Any]:
    """What the caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _PLAIN}


class RepeatFilter(logging.Filter):
    """Let a line through once for each window, of lines that are alike a few, and count the rest; errors with a
    traceback are alike where the same place raised them."""

    def __init__(self) -> None:
        super().__init__()
        self.window_s = REPEAT_WINDOW_S
        self.emit = lambda record: None
        self._seen: dict[tuple, _Repeats] = {}
        self._alike: Counter[tuple] = Counter()  # lines in `_seen` by what they have in common
        self._due_at = 0.0  # no window of a line in `_seen` ends before

    def filter(self, record: logging.LogRecord) -> bool:
        if getattr(record, "repeated", None) is not None:
            return True
        now = time.monotonic()
        if now >= self._due_at:
            self.flush_due()
        # the arguments tell lines apart: two actors that die are two events, a thousand bad frames with equal text one
        template = (record.name, record.levelno, str(record.msg), _raised_at(record))
        key = (template, str(record.args))
        if key not in self._seen and self._alike[template] >= ALIKE_MAX:
            key = (template, None)
        repeats = self._seen.get(key)
        if repeats is not None:
            repeats.add(record)
            return False
        while len(self._seen) >= REPEAT_KEYS_MAX:
            self._flush(next(iter(self._seen)))
        until = now + self.window_s
        self._due_at = min(self._due_at, until) if self._seen else until
        self._seen[key] = _Repeats(record, until)
        self._alike[template] += 1
        return True

    def flush(self) -> None:
        """Write the counts of all lines held back; before the process ends, and now and then while it runs."""
        for key in list(self._seen):
            self._flush(key)

    def flush_due(self) -> None:
        now = time.monotonic()
        for key in [key for key, repeats in list(self._seen.items()) if repeats.until <= now]:
            self._flush(key)
        self._due_at = min((repeats.until for repeats in list(self._seen.values())), default=0.0)

    def _flush(self, key: tuple) -> None:
        repeats = self._seen.pop(key, None)
        if repeats is None:
            return  # another thread was faster
        template = key[0]
        self._alike[template] -= 1
        if self._alike[template] <= 0:
            del self._alike[template]
        if repeats.count:
            self.emit(repeats.summary())


class _Repeats:
    __slots__ = ("count", "first", "last", "record", "until")

    def __init__(self, record: logging.LogRecord, until: float) -> None:
        self.record = record
        self.until = until
        self.count = 0
        self.first = self.last = 0.0

    def add(self, record: logging.LogRecord) -> None:
        self.record = record
        self.count += 1
        self.first = self.first or record.created
        self.last = record.created

    def summary(self) -> logging.LogRecord:
        said = self.record
        summary = logging.LogRecord(said.name, said.levelno, said.pathname, said.lineno, said.getMessage(), (), None)
        summary.created = self.last
        vars(summary).update(extra_members(said))
        summary.repeated = self.count
        summary.first = timestamp(self.first)
        summary.last = timestamp(self.last)
        return summary


def _raised_at(record: logging.LogRecord) -> tuple[str, int] | None:
    if not record.exc_info or record.exc_info[2] is None:
        return None
    *_, last = traceback.walk_tb(record.exc_info[2])
    return last[0].f_code.co_filename, last[1]
