"""Open interest has no stream: it is asked for, one symbol after the other, evenly over the interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from decimal import Decimal

from ...codecs.binance.rest_market import OPEN_INTEREST_WEIGHT, open_interest_path, parse_open_interest
from ...codecs.errors import CodecError
from ...codecs.record import Flag
from ...codecs.records import OPEN_INTEREST
from ...codecs.symbols import Instrument
from ...ringbuf import StreamReader, StreamWriter
from ..ledger import Priority
from .errors import RestFailed
from .rest import RestClient

log = logging.getLogger(__name__)

MS = 1_000_000


class OpenInterestPoller:
    """Asks for the open interest of each instrument once in an interval.

    The requests have the lowest priority: while the weight is used up by others, the interval becomes longer.

    Args:
        product: of all instruments.
        instruments: by key id.
        writer: of `open_interest`.
        marks: the feed's own `mark_price`, for the value in money; None where it has none.
        interval_s: between two requests for the same instrument.
    """

    def __init__(
        self,
        product: str,
        instruments: Mapping[int, Instrument],
        writer: StreamWriter,
        marks: StreamReader | None,
        rest: RestClient,
        interval_s: float,
        clock: Callable[[], int],
    ) -> None:
        self.failed = 0
        self._product, self._instruments, self._marks, self._rest = product, instruments, marks, rest
        self._interval_s, self._clock = interval_s, clock
        self._publish = writer.publisher(OPEN_INTEREST.struct, OPEN_INTEREST.values)

    async def run(self) -> None:
        while True:
            loop = asyncio.get_running_loop()
            started = loop.time()
            for n, (key_id, instrument) in enumerate(list(self._instruments.items())):
                await asyncio.sleep(max(0.0, started + n * self._interval_s / len(self._instruments) - loop.time()))
                try:
                    await self._ask(key_id, instrument)
                except (RestFailed, CodecError) as error:
                    self.failed += 1
                    log.warning("open_interest=%s not known: %s", instrument.instrument, error)
            await asyncio.sleep(max(0.0, started + self._interval_s - loop.time()))

    async def _ask(self, key_id: int, instrument: Instrument) -> None:
        path = open_interest_path(self._product, instrument.native)
        body = await self._rest.get(path, OPEN_INTEREST_WEIGHT, Priority.BACKFILL)
        found = parse_open_interest(body)
        row = self._marks.latest(key_id) if self._marks is not None else None
        mark = float(row["mark_price"]) if row is not None else 0.0
        value = float(Decimal(repr(found.open_interest)) * Decimal(repr(mark)))
        flags = int(Flag.INVERSE) if instrument.inverse else 0
        self._publish(key_id, self._clock(), found.ts_ms * MS, flags, found.open_interest, value, mark)
