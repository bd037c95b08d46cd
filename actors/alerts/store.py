"""Alerts, rules and the place in the topic, on disk.

``alerts/state.jsonl`` in the instance's data folder: one change a line, the newest of each name counts. It is written
anew when it has grown to several times what it says. Fronts read there which alerts are active for longer than memory
tells: their changes are in the file before they are in the ring.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ...codecs.desk.canonical import Alert
from ...codecs.desk.reading import DEFAULT_ACCOUNT
from .book import Entry
from .rules import Rule

log = logging.getLogger(__name__)

COMPACT_BYTES_MIN = 1 << 20
FOLDER, FILE = "alerts", "state.jsonl"


class Place(msgspec.Struct, kw_only=True):
    """How far the topic was read."""

    epoch: int = 0
    sequence: int = 0
    offsets: dict[str, int] = {}  # partition -> offset of the next event


class _Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    entry: Entry | None = None
    rule: Rule | None = None
    no_rule: str = ""  # a rule that was taken away
    place: Place | None = None
    shown: int = 0  # epoch of our stream, once every alert is in it
    account: str = ""  # of alerts that name none


class _AlertLine(msgspec.Struct):
    """What fronts read of a line."""

    entry: Entry | None = None
    account: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode
_decode_alert = msgspec.json.Decoder(_AlertLine).decode


def read_active(data: Path) -> tuple[dict[str, Alert], str] | None:
    """The alerts that are not resolved, by id, and the account of those that name none; None without a file.

    Args:
        data: the instance's data folder.
    """
    try:
        lines = (data / FOLDER / FILE).read_bytes().splitlines()
    except OSError:
        return None
    found, account = dict[str, Alert](), ""
    for text in lines:
        try:
            line = _decode_alert(text)
        except (msgspec.DecodeError, UnicodeDecodeError):  # being written, or damaged
            continue
        account = line.account or account
        if line.entry is not None:
            alert = line.entry.alert
            found.pop(alert.alert_id, None)
            if not alert.resolved:
                found[alert.alert_id] = alert
    return found, account


class Store:
    """The file.

    Args:
        account: of alerts that name none.

    Raises:
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, account: str = DEFAULT_ACCOUNT) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._account = folder / FILE, account
        self.entries: dict[str, Entry] = {}
        self.rules: dict[str, Rule] = {}
        self.place = Place()
        self.shown = 0
        self.damaged = 0  # lines that could not be read
        self.failed = 0  # changes that the disk refused; they are in the next compaction
        self._read()
        self._fd = -1
        self._size = self._base = 0
        try:
            self.compact(self.entries.values())
        except OSError as error:  # a full disk is what alerts are about: go on behind what is there
            log.error("file=%s not written anew: %s: make room on that disk", self._path, error.strerror)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_APPEND, 0o640)
            self.failed = 1

    def _read(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            for line in self._path.read_bytes().splitlines():
                try:
                    self._apply(_decode(line))
                except (msgspec.DecodeError, UnicodeDecodeError) as error:  # the last one may have been cut short
                    self.damaged += 1
                    log.warning("file=%s line left out: %s", self._path, error)

    def _apply(self, line: _Line) -> None:
        if line.entry is not None:
            self.entries[line.entry.alert.alert_id] = line.entry
        if line.rule is not None:
            self.rules[line.rule.rule_id] = line.rule
        if line.no_rule:
            self.rules.pop(line.no_rule, None)
        if line.place is not None:
            self.place = line.place
        self.shown = line.shown or self.shown

    # -- changes ----------------------------------------------------------------------------------------------------

    def put(self, entry: Entry) -> None:
        """An alert changed."""
        self._append(_Line(entry=entry))

    def put_rule(self, rule: Rule) -> None:
        """A rule was made or changed by somebody."""
        self.rules[rule.rule_id] = rule
        self._append(_Line(rule=rule))

    def drop_rule(self, rule_id: str) -> None:
        """A rule that somebody had made is taken away."""
        self.rules.pop(rule_id, None)
        self._append(_Line(no_rule=rule_id))

    def put_place(self, place: Place) -> None:
        """Everything before this place is in the file."""
        self.place = place
        self._append(_Line(place=place))

    def put_shown(self, epoch: int) -> None:
        """Every alert was published in our stream of this epoch."""
        self.shown = epoch
        self._append(_Line(shown=epoch))

    def _append(self, line: _Line) -> None:
        data = _encode(line) + b"\n"
        try:
            if os.write(self._fd, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self.failed:
                log.error("file=%s: %s: make room on that disk; changes are kept in memory", self._path, error.strerror)
            self.failed += 1
        self._size += len(data)

    def sync(self, entries: Iterable[Entry]) -> None:
        """Bring what was written to the disk; now and then write the file anew."""
        with contextlib.suppress(OSError):
            if self.failed or self._size > max(COMPACT_BYTES_MIN, 4 * self._base):
                self.compact(entries)
            else:
                os.fdatasync(self._fd)

    def compact(self, entries: Iterable[Entry]) -> None:
        """Write what counts into a new file. Raises OSError."""
        lines = [_Line(entry=entry) for entry in entries]
        lines += [_Line(rule=rule) for rule in self.rules.values()]
        lines.append(_Line(place=self.place, shown=self.shown, account=self._account))
        data = b"".join(_encode(line) + b"\n" for line in lines)
        fresh = self._path.with_suffix(".new")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_APPEND, 0o640)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.fdatasync(fd)
            os.rename(fresh, self._path)
        except OSError:
            os.close(fd)
            raise
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._size, self._base, self.failed = fd, len(data), len(data), 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.fdatasync(self._fd)
        os.close(self._fd)
