"""What the exchange said, as the rows that tables ought to have of it; read with nothing but `json`."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

from ..system.oracle import Market
from ..system.tree import Tree
from .campaign import COINS

MS = 1_000_000
SNAPSHOT, LAST, SELL, ASK, RESYNC = 1, 2, 32, 64, 256  # bits of `flags`
EVENT_TIME = "toUnixTimestamp64Nano(ts_event_ns)"

Row = tuple[Any, ...]


class Instrument(NamedTuple):
    product: str
    native: str
    market: Market
    feed: str  # that carries a table's stream of it

    @property
    def name(self) -> str:
        return self.market.instrument


@dataclass(frozen=True)
class Form:
    """How the messages of one stream become the rows of a table.

    Attributes:
        columns: of the table, all that follow from the message; behind the time of the event.
        wire: the stream's name behind the symbol.
        row: a message to those columns.
        sampled: the table has some of the messages only, the last one among them.
    """

    table: str
    record: str
    columns: str
    wire: str
    row: Callable[[dict[str, Any]], Row]
    products: Sequence[str]
    sampled: bool = False

    def instruments(self) -> list[Instrument]:
        public = self.record in ("quote", "book_level", "book_top")
        return [one for product in self.products for one in instruments(product, public=public)]

    def select(self, tree: Tree, one: Instrument) -> list[Stored]:
        return stored(tree, self.table, f"{EVENT_TIME}, {self.columns}", one)

    def sent(self, tree: Tree, one: Instrument) -> list[Row]:
        return [self.row(message) for message in sent(tree, one.product, f"{one.native.lower()}@{self.wire}")]


class Stored(NamedTuple):
    """A row of a table: its place, and what the exchange decided."""

    epoch: int
    nth: int
    row: Row
    recv_ns: int = 0  # by the daemon's clock


def instruments(product: str, *, public: bool = False) -> list[Instrument]:
    """All instruments of a product. `public`: of those streams that USD-M has on the address for them."""
    feed = "spot" if product == "spot" else "usdm-public" if public else "usdm-market"
    kind = "spot" if product == "spot" else "perpetual"
    return [Instrument(product, native, Market(kind, pair), f"feed-binance-{feed}-0") for native, pair in COINS.items()]


def _floats(*texts: Any) -> Row:
    return tuple(float(text) for text in texts)


def _quote(x: dict[str, Any]) -> Row:
    return (x.get("T", 0) * MS, 0, *_floats(x["b"], x["B"], x["a"], x["A"]))


def _ticker(x: dict[str, Any]) -> Row:
    decimals = _floats(x["c"], x["o"], x["h"], x["l"], x["v"], x["q"], x["P"], x.get("b", 0), x.get("a", 0))
    return (x["E"] * MS, 0, *decimals, x["n"])


def _mark_price(x: dict[str, Any]) -> Row:
    return (x["E"] * MS, 0, *_floats(x["p"], x["i"], x["P"]))


def _liquidation(x: dict[str, Any]) -> Row:
    order = x["o"]
    assert order["X"] == "FILLED", order
    flags = SELL if order["S"] == "SELL" else 0
    notional = float(Decimal(order["z"]) * Decimal(order["ap"]))
    return (order["T"] * MS, flags, 0, *_floats(order["p"], order["q"], order["z"], order["ap"]), notional, 0)


BOTH = ("spot", "usdm")
QUOTES = Form("quotes", "quote", "flags, bid, bid_qty, ask, ask_qty", "bookTicker", _quote, BOTH, sampled=True)
TICKERS = Form(
    "tickers", "ticker",
    "flags, last, open_24h, high_24h, low_24h, volume_24h, quote_volume_24h, change_pct, bid, ask, trade_count_24h",
    "ticker", _ticker, BOTH,
)  # fmt: skip
MARK_PRICES = Form(
    "mark_prices", "mark_price", "flags, mark_price, index_price, settle_price", "markPrice@1s", _mark_price, ("usdm",)
)
LIQUIDATIONS = Form(
    "liquidations", "liquidation",
    "flags, liquidation_id, price, quantity, filled_quantity, average_price, notional, status",
    "forceOrder", _liquidation, ("usdm",),
)  # fmt: skip
FORMS = (QUOTES, TICKERS, MARK_PRICES, LIQUIDATIONS)


# -- the two sides


def lines(tree: Tree, path: str) -> list[dict[str, Any]]:
    response = tree.sim_raw(path)
    if response.status == 404:  # nobody has subscribed to it yet
        return []
    assert response.headers["X-Complete"] == "1", f"the exchange forgot what it said: {path}"
    return [json.loads(line) for line in response.body.splitlines()]


def sent(tree: Tree, product: str, stream: str) -> list[dict[str, Any]]:
    """Messages in the order in which they went out to at least one connection."""
    return lines(tree, f"sent?product={product}&stream={stream}")


def answered(tree: Tree, product: str, path: str, native: str) -> list[dict[str, Any]]:
    """Bodies of REST answers."""
    return lines(tree, f"answered?product={product}&path={path}&symbol={native}")


def stored(tree: Tree, table: str, columns: str, one: Instrument, where: str = f"epoch < {1 << 63}") -> list[Stored]:
    """Rows of an instrument that came through rings, in the order in which they came."""
    market = f"instrument = '{one.name}' AND market_type = '{one.market.market_type}'"
    rows = tree.select(
        f"SELECT epoch, nth, toUnixTimestamp64Nano(ts_recv_ns), {columns} FROM tickring.{table} "
        f"WHERE {market} AND {where} ORDER BY epoch, nth"
    )
    return [Stored(row[0], row[1], tuple(row[3:]), row[2]) for row in rows]


# -- one beside the other


class Walk(NamedTuple):
    """How stored rows lie among sent ones: both have one order."""

    strangers: list[Stored]  # that were never sent, or not behind the one before
    holes: list[tuple[Stored | None, Stored]]  # messages are missing between these two
    missing: int  # messages in all holes
    behind: int  # messages behind the last row


def walk(sent_rows: Sequence[Row], stored_rows: Iterable[Stored]) -> Walk:
    """Find each stored row behind the one before it. A message that was sent twice in a row may be stored once."""
    at, begun = 0, False
    strangers, holes, missing = [], [], 0
    before: Stored | None = None
    places: dict[Row, list[int]] = {}
    for place, row in enumerate(sent_rows):
        places.setdefault(row, []).append(place)
    for one in stored_rows:
        of_row = places.get(one.row, [])
        found = next(iter(of_row[bisect_left(of_row, at) :]), None)
        if found is None:
            strangers.append(one)
            continue
        skipped = [row for row in sent_rows[at:found] if row != one.row and (before is None or row != before.row)]
        if begun and skipped:
            holes.append((before, one))
            missing += len(skipped)
        at, begun, before = found + 1, True, one
    last = before.row if before else None
    return Walk(strangers, holes, missing, sum(row != last for row in sent_rows[at:]))
