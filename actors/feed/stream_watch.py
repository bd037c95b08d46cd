"""Watches the streams of a feed for those that fell silent, and subscribes them anew.

What a stream brought is counted by the rings already, so watching costs the frames nothing. Liquidations are not
watched: they come in cascades, hours apart, and have no cadence that could be learned.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping

import numpy as np

from ...codecs.binance.decoder import BinanceDecoder
from ...codecs.binance.wire import stream_name
from ...codecs.symbols import Instrument
from ...ringbuf import KeyReader, StreamWriter
from .config import Config
from .klines import series_key
from .links import Links
from .protocol import CHANNELS, RECORDS, channels_of
from .silence import SilenceDetector

log = logging.getLogger(__name__)

# Channel on the wire, up to its speed or interval, to the record that counts its messages: of a book the one of which
# each event makes one.
_COUNTED = {CHANNELS.get(channel, channel): record for channel, record in RECORDS.items() if channel != "liquidation"}
_COUNTED["depth"] = "book_top"
# Sent once in so many seconds, whether or not there was a trade.
_PACED = ("markPrice", "ticker")


class StreamWatch:
    """Looks at the streams a few times a second.

    Args:
        name: of the feed, for the log.
        instruments: by key id.
        keys: the feed's directory, for the keys of bars.
        writers: the feed's streams of records.
        decoder: knows which books wait for a snapshot; theirs are not judged, whose events count once it came.
        links: subscribes.
    """

    def __init__(
        self,
        name: str,
        config: Config,
        instruments: Mapping[int, Instrument],
        keys: KeyReader,
        writers: Mapping[str, StreamWriter],
        decoder: BinanceDecoder,
        links: Links,
    ) -> None:
        self.named: Counter[str] = Counter()  # silent streams found, by channel
        self.resubscribed = 0
        self._name, self._writers, self._links = name, writers, links
        self._tick_s = config.silence_tick_s
        self._streams: list[str] = []
        self._channels: list[str] = []
        records: list[str] = []
        self._key_ids: list[int] = []
        symbols: list[str] = []
        for key_id, instrument in instruments.items():
            for channel in channels_of(config, instrument.instrument):
                kind, _, interval = channel.partition("@")[0].partition("_")
                if kind not in _COUNTED:
                    continue
                counted = keys.id_of(series_key(instrument, interval)[0]) if interval else key_id
                assert counted is not None, f"{instrument.instrument} has no key of its {interval} bars"
                self._streams.append(stream_name(instrument.native, channel))
                self._channels.append(channel)
                self._key_ids.append(counted)
                records.append(_COUNTED[kind])
                symbols.append(instrument.native)
        self._places = {  # of a record: its streams, and their keys
            record: (places := np.flatnonzero(np.array(records) == record), np.array(self._key_ids)[places])
            for record in dict.fromkeys(records)
        }
        book_places = self._places["book_top"][0].tolist() if "book_top" in self._places else []
        self._books = [(place, decoder.sync(self._key_ids[place])) for place in book_places]
        paced = {channel for channel in self._channels if channel.partition("@")[0] in _PACED}
        self._detector = SilenceDetector(
            symbols, self._channels, self._tick_s, config.silence_min_s, config.silence_learn_s, paced
        )

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            known = self._detector.silent
            for place in self._detector.tick(self._counts(), self._excused()):
                await self._renew(self._streams[place], self._channels[place], known=bool(known[place]))

    def restart(self) -> None:
        """The connection is gone: what was still until now proves nothing."""
        self._detector.restart()

    def silent_names(self) -> list[str]:
        """Streams that were named and have not moved since."""
        return [self._streams[place] for place in np.flatnonzero(self._detector.silent).tolist()]

    def _counts(self) -> np.ndarray:
        counts = np.zeros(len(self._streams), np.uint64)
        for record, (places, key_ids) in self._places.items():
            counts[places] = np.frombuffer(self._writers[record].counts, np.uint64)[key_ids]
        return counts

    def _excused(self) -> np.ndarray | None:
        waiting = [place for place, sync in self._books if sync.wanting]  # one without any event wants none yet
        if not waiting:
            return None
        excused = np.zeros(len(self._streams), bool)
        excused[waiting] = True
        return excused

    async def _renew(self, stream: str, channel: str, *, known: bool) -> None:
        if not known:  # it stays one line, however often it is tried again
            log.warning("feed=%s stream=%s is silent while others move: subscribing it anew", self._name, stream)
        self.named[channel] += 1
        if await self._links.resubscribe(stream):
            self.resubscribed += 1
