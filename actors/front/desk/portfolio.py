"""Positions and PnL as the portfolio has them now."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from operator import is_
from typing import Any, Generic, TypeVar

import msgspec

from ....codecs.desk.canonical import ALL_SYMBOLS
from ....codecs.desk.money import amount_of
from ....codecs.desk.records import PNL, POSITION
from ....codecs.record import RecordType
from ....ringbuf import StreamReader
from ...recent import PORTFOLIO_ACTOR
from .params import plain_symbol
from .streams import DeskStreams

R = TypeVar("R")
ALL = ALL_SYMBOLS
ASKED_MAX = 4096  # different questions whose answers are kept
READ_ROWS = 1024  # who is further behind looks at each key instead
NTH, RECV_NS, _, KEY_ID, FLAGS = range(5)  # of an unpacked record; its fields follow
FIRST_FIELD = 5


class Latest(msgspec.Struct, frozen=True, gc=False, eq=False):
    """The newest record of one key. Amounts are in units of 1e-8; members by their names in the declaration."""

    key: Mapping[str, Any]  # account_id, strategy_id, symbol, venue
    account: str
    strategy: str
    symbol: str
    recv_ns: int
    flags: int
    values: Mapping[str, Any]
    count: int  # records of the key so far

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


class LatestRows:
    """The newest record of every key of a stream. What is published is read once."""

    def __init__(self, reader: StreamReader, record: RecordType) -> None:
        self._reader, self._record = reader, record
        self._names = frozenset(record.key_names)
        self._fields = [(field.name, field.kind.name == "amount") for field in record.fields]
        self._cursor = -1
        self._by_key: dict[int, Latest] = {}
        self._asked: dict[Hashable, list[int]] = {}  # what was asked for -> its keys, in the order they were added in

    def rows(self, account: str | None = None, strategy: str | None = None, symbol: str | None = None) -> list[Latest]:
        """Of the keys that have a record and these names, in the order in which the keys were added."""
        self._refresh()
        asked = account, strategy, symbol
        keys = self._asked.get(asked)
        if keys is None:
            if len(self._asked) >= ASKED_MAX:
                self._asked.clear()
            keys = self._asked[asked] = [
                key_id
                for key_id, row in sorted(self._by_key.items())
                if (account is None or row.account == account)
                and (strategy is None or row.strategy == strategy)
                and (symbol is None or row.symbol == symbol)
            ]
        by_key = self._by_key
        return [by_key[key_id] for key_id in keys]

    def _refresh(self) -> None:
        published = self._reader.published()
        if self._cursor < 0 or published - self._cursor > READ_ROWS:
            self._cursor = published
            self._look_at_all()
        while self._cursor < published:
            data, self._cursor, lost = self._reader.read_raw(self._cursor, READ_ROWS)
            if lost:
                self._look_at_all()
            newest = {row[KEY_ID]: row for row in self._record.struct.iter_unpack(data)}
            for key_id, row in newest.items():
                self._put(key_id, row)

    def _look_at_all(self) -> None:
        self._reader.keys.refresh()
        for key in self._reader.keys:
            known = self._by_key.get(key.key_id)
            count = self._reader.count(key.key_id)
            if count and (known is None or known.count != count):
                row = self._reader.latest(key.key_id)
                if row is not None:
                    self._put(key.key_id, self._record.struct.unpack(row.tobytes()))

    def _put(self, key_id: int, row: Sequence[Any]) -> None:
        known = self._by_key.get(key_id)
        if known is None:
            keys = self._reader.keys
            if key_id >= len(keys):
                keys.refresh()
            key = keys[key_id].attributes
            if not self._names <= key.keys():
                return
            self._asked.clear()
        else:
            key = known.key
        values = {
            name: amount_of(value) if amount else value
            for (name, amount), value in zip(self._fields, row[FIRST_FIELD:], strict=True)
        }
        self._by_key[key_id] = Latest(
            key, key["account_id"], key["strategy_id"], key["symbol"], row[RECV_NS], row[FLAGS], values, row[NTH] + 1
        )


class Once(Generic[R]):
    """What follows from some rows, worked out again when one of them is another.

    Args:
        make: from rows to the result, which nobody changes.
    """

    def __init__(self, make: Callable[[list[Latest]], R]) -> None:
        self._make = make
        self._kept: dict[Hashable, tuple[list[Latest], R]] = {}

    def of(self, name: Hashable, rows: list[Latest]) -> R:
        """The result. The name says which rows are likely to be the same as the last time."""
        kept = self._kept.get(name)
        if kept is None or len(kept[0]) != len(rows) or not all(map(is_, kept[0], rows)):
            if len(self._kept) >= ASKED_MAX:
                self._kept.clear()
            kept = self._kept[name] = rows, self._make(rows)
        return kept[1]


class Portfolio:
    """What the portfolio's streams say now."""

    def __init__(self, streams: DeskStreams) -> None:
        self._streams = streams
        self._kept: dict[str, tuple[StreamReader, LatestRows]] = {}
        self._whole: Once[Mapping[str, Any]] = Once(together)

    def _latest(
        self, record: RecordType, account: str | None, strategy: str | None, symbol: str | None
    ) -> list[Latest]:
        reader = self._streams.reader(PORTFOLIO_ACTOR, record)
        if reader is None:
            return []
        kept = self._kept.get(record.name)
        if kept is None or kept[0] is not reader:
            kept = self._kept[record.name] = (reader, LatestRows(reader, record))
        return kept[1].rows(account, strategy, symbol)

    @property
    def running(self) -> bool:
        """Whether anybody produces positions here."""
        return self._streams.reader(PORTFOLIO_ACTOR, PNL) is not None

    def positions(self, account: str | None = None, strategy: str | None = None, *, flat: bool = False) -> list[Latest]:
        """Positions of one account or all; flat ones only if asked for."""
        rows = self._latest(POSITION, account, strategy, None)
        return rows if flat else [row for row in rows if row.values["quantity"]]

    def pnl(self, account: str | None = None, strategy: str = ALL, symbol: str = ALL) -> list[Latest]:
        """PnL rows: of one account or each, of everything together unless a strategy or symbol is named."""
        return self._latest(PNL, account, strategy, symbol)

    def pnl_by_symbol(self, account: str | None = None, strategy: str = ALL) -> list[Latest]:
        """PnL rows of each symbol."""
        return [row for row in self._latest(PNL, account, strategy, None) if row.symbol != ALL]

    def whole(self, account: str | None, strategy: str = ALL, symbols: Sequence[str] = (ALL,)) -> Mapping[str, Any]:
        """The rows of these symbols `together`, worked out when one of them has changed."""
        rows = [row for symbol in symbols for row in self.pnl(account, strategy, symbol)]
        return self._whole.of((account, strategy, symbols), rows)

    def spellings(self, symbol: str) -> tuple[str, ...]:
        """A symbol as the fills of all accounts write it; as it is where there are none."""
        plain = plain_symbol(symbol)
        found = {row.symbol for row in self.pnl_by_symbol() if plain_symbol(row.symbol) == plain}
        return tuple(sorted(found)) or (symbol,)


# How rows of several accounts become one: everything else is a sum.
_LARGEST = frozenset(("largest_win", "largest_loss", "max_drawdown"))


def together(rows: list[Latest]) -> dict[str, Any]:
    """PnL of several accounts as one. The Sharpe ratio is that of the account with the largest volume."""
    if not rows:
        return {**{field.name: 0 for field in PNL.fields}, "updated_ns": 0}
    whole = dict(rows[0].values)
    for row in rows[1:]:
        for name, value in row.values.items():
            whole[name] = max(whole[name], value) if name in _LARGEST else whole[name] + value
    if len(rows) > 1:
        whole["sharpe_ratio"] = max(rows, key=lambda row: row["volume"])["sharpe_ratio"]
    whole["updated_ns"] = max(row.recv_ns for row in rows)
    return whole
