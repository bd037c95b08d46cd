"""What ought to be in the table, read from captures and sent messages with nothing but `json` and `gzip`.

Shares no code with the codecs: this is the other opinion.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

SELL, AGGREGATED = 32, 128  # bits of `flags`
NOT_IN_THE_BOOK = ("INSURANCE_FUND", "ADL")


class TradeRow(NamedTuple):
    """All columns of the table `trades` that follow from what the exchange sent."""

    exchange: str
    market_type: str
    symbol: str
    instrument: str
    nth: int
    ts_event_ns: int
    flags: int
    trade_id: int
    price: float
    quantity: float
    first_trade_id: int
    last_trade_id: int
    quantity_ex_rpi: float


SELECT_TRADES = (
    "SELECT exchange, market_type, symbol, instrument, nth, toUnixTimestamp64Nano(ts_event_ns), flags, trade_id, "
    "price, quantity, first_trade_id, last_trade_id, quantity_ex_rpi FROM tickring.trades ORDER BY instrument, nth"
)


class Market(NamedTuple):
    """How a native symbol of a product is called inside."""

    market_type: str
    symbol: str

    @property
    def instrument(self) -> str:
        return self.symbol if self.market_type == "spot" else f"{self.symbol}-PERP"


def messages(path: Path) -> Iterator[dict[str, Any]]:
    """The messages of a capture in order, without the combined stream's wrapper; whatever its format is."""
    with gzip.open(path, "rt") as lines:
        for line in lines:
            at = line.find("{")
            if at >= 0 and line.startswith('{"stream":', at):
                yield json.loads(line[at:])["data"]


def trade_rows(sent: Iterable[Mapping[str, Any]], markets: Mapping[str, Market]) -> list[TradeRow]:
    """Rows of the trades among messages of one product; `nth` is their order within the symbol."""
    counts: dict[str, int] = defaultdict(int)
    rows = []
    for x in sent:
        kind = x.get("e")
        if kind not in ("trade", "aggTrade") or x.get("X") in NOT_IN_THE_BOOK:
            continue
        market = markets[x["s"]]
        aggregated = kind == "aggTrade"
        rows.append(
            TradeRow(
                "binance", market.market_type, market.symbol, market.instrument, counts[x["s"]], x["T"] * 1_000_000,
                (SELL if x["m"] else 0) | (AGGREGATED if aggregated else 0), x["a" if aggregated else "t"],
                float(x["p"]), float(x["q"]), x["f"] if aggregated else 0, x["l"] if aggregated else 0,
                float(x.get("nq", 0)) if aggregated else 0.0,
            )
        )  # fmt: skip
        counts[x["s"]] += 1
    return rows


def table_rows(selected: Iterable[list[Any]]) -> list[TradeRow]:
    """Rows of `SELECT_TRADES`."""
    rows = [TradeRow(*row) for row in selected]
    floats = [  # JSON shows a whole one without its point
        {name: float(getattr(row, name)) for name in ("price", "quantity", "quantity_ex_rpi")} for row in rows
    ]
    return [row._replace(**values) for row, values in zip(rows, floats, strict=True)]


def digest(rows: Iterable[TradeRow]) -> str:
    """SHA-256 over all columns of all rows in the table's order."""
    total = hashlib.sha256()
    for row in sorted(rows, key=lambda row: (row.instrument, row.nth)):
        total.update(repr(tuple(row)).encode() + b"\n")
    return total.hexdigest()


def levels(side: Iterable[Iterable[str]], depth: int) -> list[tuple[Decimal, Decimal]]:
    """The best levels of a side as numbers: exchanges pad their decimals, and so do we, each in their own way."""
    return [(Decimal(price), Decimal(quantity)) for price, quantity in list(side)[:depth]]
