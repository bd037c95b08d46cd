"""What the decoder reports beside records: rejected frames, gaps, answers, shutdowns. All of it is rare."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from ...codecs.record import Flag
from ...codecs.sink import Reason
from ...codecs.symbols import Instrument
from ...ringbuf import StreamReader
from ..gaps import Gap, GapLedger

log = logging.getLogger(__name__)

SAMPLE_BYTES_MAX = 160
KINDS = {"trade": "trade", "aggregate": "agg_trade", "depth": "book"}  # the decoder's words to the ledger's


class FeedHooks:
    """Hooks of one feed's decoder (see `codecs.sink.Hooks`).

    Args:
        name: of the feed, for the log.
        instruments: by key id; filled before the first frame.
        gaps: where gaps are written down.
        readers: the feed's own streams by record name, for when a gap began.
        samples_per_minute: rejected frames shown in the log.
        want_snapshot, shutdown, refused, answered: what to do then; the last with the id of the request.
    """

    def __init__(
        self,
        name: str,
        instruments: Mapping[int, Instrument],
        gaps: GapLedger[Gap],
        readers: Mapping[str, StreamReader],
        samples_per_minute: int,
        *,
        want_snapshot: Callable[[int], None],
        shutdown: Callable[[str], None],
        refused: Callable[[str], None],
        answered: Callable[[object], None],
    ) -> None:
        self.gap_events = dict.fromkeys(KINDS.values(), 0)
        self.missing_ids = dict.fromkeys(KINDS.values(), 0)
        self.controls = 0  # frames that answered a control frame, or announced a shutdown
        self.refusals = 0
        self._want_snapshot = want_snapshot
        self._name = name
        self._instruments = instruments
        self._gaps = gaps
        self._readers = readers
        self._shutdown = shutdown
        self._refused, self._answered = refused, answered
        self._samples_per_minute = samples_per_minute
        self._sample_minute = -1
        self._samples = 0
        self._not_shown = 0

    def want_snapshot(self, key_id: int) -> None:
        self._want_snapshot(key_id)

    def on_gap(self, key_id: int, kind: str, first_missing: int, last_missing: int) -> None:
        kind = KINDS[kind]
        instrument = self._instruments[key_id]
        from_ns = self._last_received_ns(key_id, kind, first_missing)
        gap = Gap(
            instrument.exchange, instrument.instrument, kind, first_missing, last_missing, from_ns, time.time_ns()
        )
        self.gap_events[kind] += 1
        self.missing_ids[kind] += last_missing - first_missing + 1
        self._gaps.add(gap)
        log.info(
            "feed=%s instrument=%s gap=%s first=%d last=%d after=%.3f s",
            self._name, gap.instrument, kind, first_missing, last_missing,
            (gap.to_ns - from_ns) / 1e9 if from_ns else 0.0,
        )  # fmt: skip

    def _last_received_ns(self, key_id: int, kind: str, first_missing: int) -> int:
        """When the last record before the gap came; 0 where it is no longer held."""
        if kind == "book":
            rows = self._readers["book_top"].last(key_id, 4)
            rows = rows[rows["update_id"] < first_missing]
        else:
            rows = self._readers["trade"].last(key_id, 1024)
            aggregated = (rows["flags"] & Flag.AGGREGATED) != 0
            rows = rows[(aggregated == (kind == "agg_trade")) & (rows["trade_id"] < first_missing)]
        return int(rows["ts_recv_ns"][-1]) if len(rows) else 0

    def on_reject(self, reason: Reason, frame: bytes) -> None:
        """Show a few of them a minute. How many there were is counted by the decoder, for each reason."""
        minute = int(time.monotonic() // 60)
        if minute != self._sample_minute:
            if self._not_shown:
                log.warning("feed=%s rejected frames not shown: %d", self._name, self._not_shown)
            self._sample_minute, self._samples, self._not_shown = minute, 0, 0
        if self._samples >= self._samples_per_minute:
            self._not_shown += 1
            return
        self._samples += 1
        log.warning(
            "feed=%s rejected=%s bytes=%d sample=%r. No record was made of it; if this goes on, the exchange has "
            "changed its format: look for a newer tickring", self._name, reason.value, len(frame),
            frame[:SAMPLE_BYTES_MAX],
        )  # fmt: skip

    def on_control(self, message: dict[str, Any]) -> None:
        self.controls += 1
        error = message.get("error", message)
        if isinstance(error, dict) and "code" in error:
            self.refusals += 1
            text = f"{error.get('code')} {error.get('msg')}"[:SAMPLE_BYTES_MAX]
            log.error("feed=%s refused by the exchange: %s. Correct its symbols and channels", self._name, text)
            self._refused(text)
        else:
            self._answered(message.get("id"))

    def on_shutdown(self, ts_event_ns: int) -> None:
        self.controls += 1
        self._shutdown("the exchange announced a shutdown")
