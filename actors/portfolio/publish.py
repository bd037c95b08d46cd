"""Positions and PnL as records: into the rings, with the numbers that readers see."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable

from ...codecs.desk.money import AMOUNT_MAX, UNIT, amount_bytes, divide
from ...codecs.desk.records import PNL, POSITION
from ...ringbuf import (
    DirectoryFull,
    KeyTooLong,
    KeyWriter,
    NoSpace,
    StreamReader,
    StreamSpec,
    StreamWriter,
    keys_filename,
)
from ..runtime import ActorContext
from .book import Position
from .config import Config
from .fold import DAY_NS, to_units
from .statistics import MONTH, WEEK
from .totals import Group, Totals

log = logging.getLogger(__name__)

COUNT_MAX = 2**64 - 1
STALE, LIVE = 0, 1  # indices in `records.MARK_STATES`
QUOTE = 1


def streams(name: str, config: Config) -> list[StreamSpec]:
    """The streams of the portfolio."""
    return [
        POSITION.spec(name, capacity=config.position_capacity, keys_max=config.keys_max),
        PNL.spec(name, capacity=config.pnl_capacity, keys_max=config.keys_max),
    ]


def keys_numbered(config: Config, record: str) -> int:
    """Keys that are expected in a stream; more find room as long as the file system has some."""
    return min(256, config.keys_max)


def key_text(parts: Iterable[str]) -> str:
    """What names a key: its parts, in which "|" and "\\" are escaped, so that no two keys share a name."""
    return "|".join(part.replace("\\", r"\\").replace("|", r"\|") for part in parts)


class Publisher:
    """The portfolio's side of its streams."""

    def __init__(self, ctx: ActorContext, config: Config) -> None:
        self._name, self._folder = ctx.name, ctx.folder
        self.stale_after_ns = int(config.stale_after_s * 1e9)
        self.keys = KeyWriter(ctx.folder / keys_filename(ctx.name))
        position, pnl = streams(ctx.name, config)
        self._positions = StreamWriter(ctx.folder, position, ctx.doorbells, time.time_ns())
        self._pnl = StreamWriter(ctx.folder, pnl, ctx.doorbells, time.time_ns())
        self._publish_position = self._positions.publisher(POSITION.struct, POSITION.values)
        self._publish_pnl = self._pnl.publisher(PNL.struct, PNL.values)
        self._rows: dict[str, int | None] = {}
        self.live: dict[int, int] = {}  # position -> the state it was published with
        self.unnamed = 0  # positions and groups that found no row in the key directory
        self.overflows = 0  # amounts that were cut off
        self.flags = 0  # of all records: PARTIAL while fills are missing

    def _row(self, writer: StreamWriter, text: str, **attributes: str) -> int | None:
        """The key's row, added at first use; None where there is no room for it."""
        if text not in self._rows:
            try:
                row = self.keys.add(text, attributes)
                writer.add_key(row)
                self._rows[text] = row
            except (DirectoryFull, KeyTooLong, NoSpace) as error:
                log.error("key=%s not published: %s", text[:120], error)
                self.unnamed += 1
                self._rows[text] = None
        return self._rows[text]

    def state_of(self, position: Position, now_ns: int) -> int:
        """Whether what it is valued at is of now."""
        mark = position.valued.mark
        return LIVE if mark.kind == QUOTE and now_ns - mark.seen_ns <= self.stale_after_ns else STALE

    def _amount(self, units: int) -> bytes:
        """Units of 1e-8 as a record has them; what does not fit is cut off at the largest amount there is.

        A fill of absurd numbers must not end the actor, now and at each start again.
        """
        if not -AMOUNT_MAX <= units <= AMOUNT_MAX:
            self.overflows += 1
            units = AMOUNT_MAX if units > 0 else -AMOUNT_MAX
        return amount_bytes(units)

    def _money(self, value: int) -> bytes:
        """Money in units of 1e-16 as a record's amount."""
        return self._amount(divide(value, UNIT))

    def position(self, position: Position, now_ns: int) -> None:
        """Publish a position as it is."""
        account, strategy, venue, symbol = position.key
        row = self._row(
            self._positions, key_text(position.key),
            account_id=account, strategy_id=strategy, venue=venue, symbol=symbol,
        )  # fmt: skip
        if row is None:
            return
        state, valued = position.state, position.valued
        amount, money = self._amount, self._money
        mark = valued.mark
        live = self.live[position.number] = self.state_of(position, now_ns)
        market_value, cost = to_units(valued.market_value), to_units(valued.cost)
        unrealized = cost - market_value if position.terms.inverse else market_value - cost
        self._publish_position(
            row, now_ns, max(state.ts_ns, mark.seen_ns), self.flags,
            amount(state.quantity), amount(cost),
            amount(position.terms.average(state.quantity, state.cost)), amount(mark.price),
            amount(market_value), amount(unrealized), money(state.realized), money(state.fees),
            amount(state.claimed), state.fills, mark.seen_ns, state.opened_ns, mark.kind, live,
        )  # fmt: skip

    def pnl(self, group: Group, now_ns: int) -> None:
        """Publish a group as it is."""
        account, strategy, symbol = group.name
        row = self._row(self._pnl, key_text(group.name), account_id=account, strategy_id=strategy, symbol=symbol)
        group.dirty = False
        if row is None:
            return
        sums, today = group.sums, now_ns // DAY_NS
        amount, money = self._amount, self._money
        _, sharpe = group.history(today)
        realized, unrealized, fees = map(to_units, (sums.realized, sums.unrealized, sums.fees))
        self._publish_pnl(
            row, now_ns, now_ns, self.flags,
            amount(realized), amount(unrealized), amount(fees),
            amount(realized + unrealized - fees), money(sums.volume),
            money(sums.long_exposure + sums.short_exposure), money(sums.long_exposure), money(sums.short_exposure),
            money(group.peak), money(group.start_of(today, 1)), money(group.start_of(today, WEEK)),
            money(group.start_of(today, MONTH)), money(sums.gross_profit), money(sums.gross_loss),
            money(group.largest_win), money(group.largest_loss), money(sums.claimed), sums.fills, sums.wins,
            sums.losses, min(sums.holding_ns, COUNT_MAX), group.max_drawdown, sharpe, sums.open,
        )  # fmt: skip

    def recover(self, totals: Totals) -> None:
        """Take up peaks and drawdowns that were published and not stored yet."""
        reader = StreamReader(self._folder, self._name, PNL.name, PNL.dtype, PNL.fingerprint)
        try:
            for key in reader.keys:
                name = (key.attributes["account_id"], key.attributes["strategy_id"], key.attributes["symbol"])
                group = totals.groups.get(name)
                row = reader.latest(key.key_id) if group is not None and reader.count(key.key_id) else None
                if group is not None and row is not None:
                    peak = int.from_bytes(bytes(row["peak_pnl"]), "little", signed=True) * UNIT
                    group.restore(max(group.peak, peak), max(group.max_drawdown, float(row["max_drawdown"])))
        finally:
            reader.close()

    def close(self) -> None:
        self._positions.close()
        self._pnl.close()
        self.keys.close()
