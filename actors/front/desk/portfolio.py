"""Positions and PnL as the portfolio has them now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ....codecs.desk.canonical import ALL_SYMBOLS
from ....codecs.desk.money import amount_of
from ....codecs.desk.records import PNL, POSITION
from ....codecs.record import RecordType
from ....ringbuf import StreamReader
from ...recent import PORTFOLIO_ACTOR
from .streams import DeskStreams

ALL = ALL_SYMBOLS
Reader = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest record of one key. Amounts are in units of 1e-8; members by their names in the declaration."""

    key: Mapping[str, Any]  # account_id, strategy_id, symbol, venue
    recv_ns: int
    flags: int
    values: Mapping[str, Any]
    count: int  # records of the key so far

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def account(self) -> str:
        return self.key["account_id"]

    @property
    def strategy(self) -> str:
        return self.key["strategy_id"]

    @property
    def symbol(self) -> str:
        return self.key["symbol"]


class LatestRows:
    """The newest record of every key of a stream, read again when something was published."""

    def __init__(self, reader: StreamReader, record: RecordType) -> None:
        self._reader, self._record = reader, record
        self._version = -1
        self._rows: list[Latest] = []
        self._by_key: dict[int, Latest] = {}

    def rows(self) -> list[Latest]:
        """One for each key that has a record, in the order in which the keys were added."""
        version = self._reader.published()
        if version != self._version:
            names = set(self._record.key_names)
            for key in self._iterate_keys():
                known = self._by_key.get(key.key_id)
                count = self._reader.count(key.key_id)
                if names <= key.attributes.keys() and count and (known is None or known.count != count):
                    row = self._reader.latest(key.key_id)
                    if row is not None:
                        self._by_key[key.key_id] = self._read(key.attributes, row)
            self._rows = [self._by_key[key_id] for key_id in sorted(self._by_key)]
            self._version = version
        return self._rows

    def _iterate_keys(self) -> Iterator[Any]:
        self._reader.keys.refresh()
        return iter(self._reader.keys)

    def _read(self, key: Mapping[str, Any], row: Any) -> Latest:
        values = {}
        for field in self._record.fields:
            value = row[field.name]
            values[field.name] = amount_of(bytes(value)) if field.kind.name == "amount" else value.item()
        return Latest(key, int(row["ts_recv_ns"]), int(row["flags"]), values, int(row["nth"]) + 1)


class Portfolio:
    """What the portfolio's streams say now."""

    def __init__(self, streams: DeskStreams) -> None:
        self._streams = streams
        self._kept: dict[str, tuple[StreamReader, LatestRows]] = {}

    def _latest(self, record: RecordType) -> list[Latest]:
        reader = self._streams.reader(PORTFOLIO_ACTOR, record)
        if reader is None:
            return []
        kept = self._kept.get(record.name)
        if kept is None or kept[0] is not reader:
            kept = self._kept[record.name] = (reader, LatestRows(reader, record))
        return kept[1].rows()

    @property
    def running(self) -> bool:
        """Whether anybody produces positions here."""
        return self._streams.reader(PORTFOLIO_ACTOR, PNL) is not None

    def positions(self, account: str | None = None, strategy: str | None = None, *, flat: bool = False) -> list[Latest]:
        """Positions of one account or all; flat ones only if asked for."""
        return [
            row
            for row in self._latest(POSITION)
            if (flat or row["quantity"])
            and (account is None or row.account == account)
            and (strategy is None or row.strategy == strategy)
        ]

    def pnl(self, account: str | None = None, strategy: str = ALL, symbol: str = ALL) -> list[Latest]:
        """PnL rows: of one account or each, of everything together unless a strategy or symbol is named."""
        return [
            row
            for row in self._latest(PNL)
            if row.strategy == strategy and row.symbol == symbol and (account is None or row.account == account)
        ]

    def pnl_by_symbol(self, account: str | None = None, strategy: str = ALL) -> list[Latest]:
        """PnL rows of each symbol."""
        return [
            row
            for row in self._latest(PNL)
            if row.strategy == strategy and row.symbol != ALL and (account is None or row.account == account)
        ]


# How rows of several accounts become one: everything else is a sum.
_LARGEST = frozenset(("largest_win", "largest_loss", "max_drawdown"))


def together(rows: list[Latest]) -> dict[str, Any]:
    """PnL of several accounts as one. The Sharpe ratio is that of the account with the largest exposure or volume."""
    whole: dict[str, Any] = {field.name: 0 for field in PNL.fields}
    for row in rows:
        for name, value in row.values.items():
            whole[name] = max(whole[name], value) if name in _LARGEST else whole[name] + value
    if rows:
        whole["sharpe_ratio"] = max(rows, key=lambda row: row["volume"])["sharpe_ratio"]
    whole["updated_ns"] = max((row.recv_ns for row in rows), default=0)
    return whole
