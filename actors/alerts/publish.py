"""Changes of alerts as records."""

from __future__ import annotations

import logging
import time

import msgspec

from ...codecs.desk.canonical import Alert
from ...codecs.desk.records import ALERT_STATE, TEXTS
from ...ringbuf import (
    ByteRingWriter,
    DirectoryFull,
    KeyTooLong,
    KeyWriter,
    NoSpace,
    StreamReader,
    StreamSpec,
    StreamWriter,
    bytes_filename,
    keys_filename,
)
from ..runtime import ActorContext
from .config import Config

log = logging.getLogger(__name__)

OVERFLOW = "*overflow*"  # account of alerts whose own has no row in the key directory
_encode = msgspec.json.Encoder().encode


def streams(name: str, config: Config) -> list[StreamSpec]:
    """The stream of the alerts."""
    return [ALERT_STATE.spec(name, capacity=config.capacity, keys_max=config.accounts_max + 1)]


def byte_rings(name: str, config: Config) -> dict[str, int]:
    """Its byte ring, with its capacity."""
    return {TEXTS: config.texts_capacity}


def keys_numbered(config: Config, record: str) -> int:
    """Keys that are expected in the stream."""
    return min(8, config.accounts_max)


class Publisher:
    """The producer's side.

    Raises:
        RingError: the stream is not as configured, or another process produces it.
    """

    def __init__(self, ctx: ActorContext, config: Config) -> None:
        (spec,) = streams(ctx.name, config)
        self._folder, self._name, self._default = ctx.folder, ctx.name, config.default_account
        self._texts = ByteRingWriter(ctx.folder / bytes_filename(ctx.name, TEXTS))
        self._keys = KeyWriter(ctx.folder / keys_filename(ctx.name))
        self._writer = StreamWriter(ctx.folder, spec, ctx.doorbells, time.time_ns())
        self._publish = self._writer.publisher(ALERT_STATE.struct, ALERT_STATE.values)
        self._rows: dict[str, int] = {}
        self.epoch = self._writer.epoch
        self._row(OVERFLOW)

    def _row(self, account: str) -> int:
        row = self._rows.get(account)
        if row is None:
            try:
                row = self._keys.add(f"account:{account}", {"account_id": account})
                self._writer.add_key(row)
            except (DirectoryFull, KeyTooLong, NoSpace) as error:
                if account == OVERFLOW:
                    raise
                log.error("account=%s: its alerts go to %s: %s", account[:60], OVERFLOW, error)
                row = self._row(OVERFLOW)
            self._rows[account] = row
        return row

    def put(self, alert: Alert, changed_ns: int) -> None:
        """Publish the state of an alert; the one with the highest `changed_ns` is its newest."""
        text = _encode(alert)
        row = self._row(alert.account_id or self._default)
        self._publish(row, changed_ns, alert.timestamp, 0, self._texts.append(text), len(text))

    def held(self) -> tuple[int, set[int]]:
        """When the oldest of the changes in the ring was made, and when all of them were."""
        reader = StreamReader(self._folder, self._name, ALERT_STATE.name, ALERT_STATE.dtype, ALERT_STATE.fingerprint)
        try:
            rows, _, _ = reader.read(reader.oldest(), reader.capacity)
        finally:
            reader.close()
        times = rows["ts_recv_ns"].tolist()
        return (times[0] if times else 0), set(times)

    def close(self) -> None:
        for part in (self._writer, self._keys, self._texts):
            part.close()
