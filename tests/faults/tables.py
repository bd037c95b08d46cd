"""What must hold of the tables after a campaign: each is what the exchange sent, less what the ledgers name."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from ..system.oracle import SELECT_TRADES, Market, TradeRow, digest, table_rows, trade_rows
from ..system.tree import Tree, fetch, until
from .campaign import Campaign
from .ledgers import Lost, lost_by_writer, named_by_feed, outages_by_feed
from .machine import Shim
from .told import (
    EVENT_TIME,
    FORMS,
    MARK_PRICES,
    MS,
    Form,
    Instrument,
    Stored,
    Walk,
    answered,
    instruments,
    sent,
    stored,
    walk,
)

ARRIVE_S = 120.0  # the last rows reach the tables within this
LOOKS = 3  # in a row at which the writer says that nothing waits: what it tells of itself is a moment old
SHOWN = 4
RINGS = 1 << 63  # epochs below it are of rings, and this one is of rows that the keeper fetched
# Tables that hold every record of their rings.
WHOLE = {
    "trade": "trades", "kline": "klines", "ticker": "tickers", "mark_price": "mark_prices", "funding": "fundings",
    "open_interest": "open_interests", "liquidation": "liquidations", "book_level": "book_levels",
}  # fmt: skip
GOES_ON = "open_interest"  # is asked for while the market stands still
PUBLIC = ("book_level",)  # those that USD-M has on its public address
TRADES = {"spot": "trade", "usdm": "aggTrade"}  # streams
SETTLED = 1 << 14  # bit of `flags`
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Verdict:
    what: str
    ok: bool
    detail: str

    @classmethod
    def of(cls, what: str, wrong: Iterable[Any], detail: str) -> Verdict:
        every = list(wrong)
        return cls(what, not every, shown(every) or detail)


def shown(items: Iterable[Any]) -> str:
    every = list(items)
    return f"{len(every)}: {every[:SHOWN]}" if every else ""


def judge_tables(campaign: Campaign) -> list[Verdict]:
    """All verdicts about tables. The market stands still."""
    tree = campaign.tree
    await_tables(tree)
    rings = list(find_rings(tree))
    return [
        *trades(tree),
        *(messages(campaign, form) for form in FORMS),
        open_interest(tree),
        *fundings(campaign),
        numbering(tree, rings),
    ]


def await_tables(tree: Tree) -> None:
    """Wait until the writer has nothing left to store."""

    def stored_all() -> bool:
        try:
            waits = tree.metric("tickring_storage_spool_batches") + tree.metric("tickring_storage_unacknowledged_rows")
            return not waits
        except OSError:
            return False

    end = time.monotonic() + ARRIVE_S
    in_a_row = 0
    while in_a_row < LOOKS and time.monotonic() < end:
        time.sleep(0.5)
        in_a_row = in_a_row + 1 if stored_all() else 0


# -- rings


@dataclass(frozen=True)
class Ring:
    feed: str
    record: str
    epoch: int  # of the present ring
    published: int
    lost: Mapping[int, Lost]  # by epoch

    @property
    def stream(self) -> str:
        return f"{self.feed}.{self.record}"


def find_rings(tree: Tree) -> Iterator[Ring]:
    for one in tree.get("/api/v1/status").data["streams"]:
        if one["record"] in WHOLE and one["producer"].startswith("feed-"):
            lost = lost_by_writer(tree, f"{one['producer']}.{one['record']}")
            yield Ring(one["producer"], one["record"], int(one["epoch_ns"]), one["published"], lost)


def feed_of(record: str, market_type: str) -> str:
    if market_type == "spot":
        return "feed-binance-spot-0"
    return f"feed-binance-usdm-{'public' if record in PUBLIC else 'market'}-0"


def numbering(tree: Tree, rings: Iterable[Ring]) -> Verdict:
    """Each record of each ring is in its table once, but for those that the writer's ledger names."""
    wrong, rows, missing_named = [], 0, 0
    for ring in rings:
        names = "instrument, interval" if ring.record == "kline" else "instrument"
        found = tree.select(
            f"SELECT {names}, any(market_type), epoch, count(), uniqExact(nth), max(nth) + 1 "
            f"FROM tickring.{WHOLE[ring.record]} WHERE epoch < {RINGS} GROUP BY {names}, epoch"
        )
        counts: dict[int, int] = defaultdict(int)
        inside: dict[int, int] = defaultdict(int)  # missing before the last one of a key
        for *key, market_type, epoch, count, different, stop in found:
            if feed_of(ring.record, market_type) != ring.feed:
                continue
            counts[epoch] += count
            inside[epoch] += stop - different
            if count != different:
                wrong.append(f"{ring.stream} {key}: {count - different} twice")
        for epoch in counts.keys() | {ring.epoch}:
            rows += counts[epoch]
            missing = ring.published - counts[epoch]
            if epoch != ring.epoch or ring.record == GOES_ON:
                missing = inside[epoch]
            lost = ring.lost.get(epoch, Lost())
            missing_named += missing
            if not lost.fits(missing) and not (epoch != ring.epoch and lost.rest and lost.fits(len(lost.certain))):
                wrong.append(f"{ring.stream} epoch {epoch}: {missing} missing, the writer's ledger has {lost}")
    return Verdict.of(
        "every record of every ring once, less the writer's ledger",
        wrong,
        f"{rows} rows, {missing_named} in the ledger",
    )  # fmt: skip


# -- trades


def trades(tree: Tree) -> list[Verdict]:
    """Trades have the exchange's own numbers: each is there, or in the ledger of its feed, or in that of the writer."""
    everything = table_rows(tree.select(SELECT_TRADES))
    wrong: list[str] = []
    expected: list[TradeRow] = []
    found: list[TradeRow] = []
    named_count = gone_count = 0
    silent: Counter[str] = Counter()  # by feed: missing, and in no feed's ledger
    for product, wire in TRADES.items():
        for one in instruments(product):
            mine = [row for row in everything if _market(row) == one.market]
            said = sent(tree, product, f"{one.native.lower()}@{wire}")
            told = {row.trade_id: row._replace(nth=0) for row in trade_rows(said, {one.native: one.market})}
            held = {row.trade_id: row._replace(nth=0) for row in mine}
            if not held:
                wrong.append(f"{one.name}: nothing stored")
                continue
            ids = range(min(held), max(max(held), max(told)) + 1)
            missing = set(ids) - held.keys()
            named = named_by_feed(tree, one.feed, one.name, "trade" if product == "spot" else "agg_trade")
            gone = _gone_with_rings(tree, one) - named
            if len(held) != len(mine):
                twice = [number for number, count in Counter(row.trade_id for row in mine).items() if count > 1]
                wrong.append(f"{one.name}: {len(twice)} doubled, {twice[:SHOWN]}")
            if both := named & held.keys():
                wrong.append(f"{one.name}: in a feed's gaps but stored: {sorted(both)[:SHOWN]}")
            if beyond := {number for number in named if number not in ids}:
                wrong.append(f"{one.name}: in a feed's gaps but beyond what was sent: {sorted(beyond)[:SHOWN]}")
            named_count += len(missing & named)
            gone_count += len(missing & gone)
            silent[one.feed] += len(missing - named - gone)
            found += held.values()
            expected += [row for number, row in told.items() if number in ids and number not in missing]
    lost_count = 0
    for feed, count in silent.items():
        every = lost_by_writer(tree, f"{feed}.trade").values()
        certain = {(n, one) for n, lost in enumerate(every) for one in lost.certain}
        perhaps = {(n, one) for n, lost in enumerate(every) for one in lost.perhaps} | certain
        lost_count += count
        if not len(certain) <= count <= len(perhaps) and not (count < len(certain) and any(x.rest for x in every)):
            wrong.append(f"{feed}: {count} missing in no feed's gaps, the writer's ledger has {[*map(str, every)]}")
    differ = sorted(set(expected) ^ set(found))[:SHOWN]
    return [
        Verdict.of(
            "trades are what was sent less the gap ledgers", wrong,
            f"{len(found)} stored, {named_count} in the feeds' gaps, {lost_count} in the writer's, "
            f"{gone_count} gone with rings",
        ),
        Verdict.of(
            "trades: hash over all columns", differ * (digest(expected) != digest(found)), digest(found)[:16],
        ),
    ]  # fmt: skip


def _market(row: TradeRow) -> Market:
    return Market(row.market_type, row.symbol)


def _gone_with_rings(tree: Tree, one: Instrument) -> set[int]:
    """Trades between the last that was stored of a ring and the first of the next, if the writer says that the rest of
    that ring is gone."""
    lost = lost_by_writer(tree, f"{one.feed}.trade")
    rows = stored(tree, "trades", "trade_id", one)
    gone: set[int] = set()
    for before, after in pairwise(rows):
        if before.epoch != after.epoch and (ended := lost.get(before.epoch)) and (ended.rest or ended.perhaps):
            gone.update(range(before.row[0] + 1, after.row[0]))
    return gone


# -- streams without numbers of their own


def messages(campaign: Campaign, form: Form) -> Verdict:
    """Each row is a message, in the order of the messages, and the last one is there. What is missing was sent in an
    outage of its feed, or the writer's numbering names it."""
    tree = campaign.tree
    wrong: list[str] = []
    rows = missing = holes = 0
    end = time.monotonic() + ARRIVE_S
    for one in form.instruments():
        held, seen = _to_the_last(tree, form, one, end)
        if not held:
            wrong.append(f"{one.name}: nothing stored")
            continue
        rows += len(held)
        missing += seen.missing
        holes += len(seen.holes)
        if seen.strangers:
            wrong.append(f"{one.name}: {len(seen.strangers)} never sent like that: {seen.strangers[:2]}")
        if seen.behind:
            wrong.append(f"{one.name}: the last {seen.behind} messages are missing behind {held[-1]}")
        if not form.sampled:
            outages = outages_by_feed(tree, one.feed, ("*", f"{one.native.lower()}@{form.wire}"))
            wrong += [
                f"{one.name}: missing without an outage between {before} and {after}"
                for before, after in seen.holes
                if before is not None
                and not _lost_by_the_writer(before, after)
                and not any(within(campaign.shim, before, outage, after) for outage in outages)
            ]
    how = f"samples of what was sent, each {form.columns.count(',') + 2} columns" if form.sampled else "what was sent"
    detail = f"{rows} rows" if form.sampled else f"{rows} rows, {missing} messages missing in {holes} holes, all named"
    return Verdict.of(f"{form.table} are {how}", wrong, detail)


def _to_the_last(tree: Tree, form: Form, one: Instrument, end: float) -> tuple[list[Stored], Walk]:
    """Rows beside messages, once the last message is there or the time is over: samples are held for a while."""
    told = form.sent(tree, one)
    while True:
        held = form.select(tree, one)
        seen = walk(told, held)
        if not seen.behind or time.monotonic() > end:
            return held, seen
        time.sleep(0.5)


def _lost_by_the_writer(before: Stored, after: Stored) -> bool:
    """They were in the ring, whose numbering is judged by itself."""
    return before.epoch == after.epoch and before.nth + 1 != after.nth


def within(clock: Shim, before: Stored, outage: tuple[int, int], after: Stored) -> bool:
    """Whether an outage lies between the receipts of two rows; the daemon's clock may have been stepped meanwhile."""
    times = [clock.moments(at) for at in (before.recv_ns, *outage, after.recv_ns)]
    if not outage[0]:
        times[1] = times[0]
    return any(list(moments) == sorted(moments) for moments in itertools.product(*times))


# -- open interest and funding


def open_interest(tree: Tree) -> Verdict:
    """Each row is an answer of the exchange, at a mark price that it had told."""
    wrong, rows, requests = [], 0, 0
    for one in instruments("usdm"):
        held = stored(tree, "open_interests", f"{EVENT_TIME}, flags, open_interest, usd_value, mark_price", one)
        marks = {row[2] for row in MARK_PRICES.sent(tree, one)} | {0.0}
        answers = answered(tree, "usdm", "openInterest", one.native)
        told = [(x["time"] * MS, 0, float(x["openInterest"])) for x in answers]
        seen = walk(told, (row._replace(row=row.row[:3]) for row in held))
        rows += len(held)
        requests += len(answers)
        if seen.strangers or not held:
            wrong.append(f"{one.name}: never answered like that: {seen.strangers[:2] or 'nothing stored'}")
        for row in held:
            interest, value, mark = row.row[2:]
            if mark not in marks or value != float(Decimal(repr(float(interest))) * Decimal(repr(float(mark)))):
                wrong.append(f"{one.name}: {row} at a mark price never told, or of another value")
    return Verdict.of("open_interests are what was answered", wrong, f"{rows} rows of {requests} answers")


def fundings(campaign: Campaign) -> list[Verdict]:
    """A row for each change that the mark prices tell, one for each payment, and the exchange's own history."""
    tree = campaign.tree
    wrong, silent, rows, paid, history = [], [], 0, 0, []
    settled = 0
    times = f"{EVENT_TIME}, flags, rate, predicted_rate, toUnixTimestamp64Milli(next_funding_ts)"
    for one in instruments("usdm"):
        said = sent(tree, "usdm", f"{one.native.lower()}@markPrice@1s")
        told = {(x["E"] * MS, 0, float(x["r"]), 0, x["T"], float(x["p"]), float(x["i"])) for x in said}
        held = stored(tree, "fundings", f"{times}, mark_price, index_price", one)
        rows += len(held)
        changed = {row.row[0] for row in held if not row.row[1]}
        wrong += [f"{one.name}: never sent like that: {row}" for row in held if not row.row[1] and row.row not in told]
        received = {row.row[0] for row in stored(tree, "mark_prices", EVENT_TIME, one)}
        heard = [x for x in said if x["E"] * MS in received]
        silent += [
            f"{one.name}: no row of the change with {after}"
            for before, after in pairwise(heard)
            if (before["r"], before["T"]) != (after["r"], after["T"]) and after["E"] * MS not in changed
        ]
        before_payment = {
            (x["T"] * MS, SETTLED, float(x["r"]), 0, float(x["p"]), float(x["i"])) for x in said
        }  # fmt: skip
        for row in held:
            if row.row[1]:
                paid += 1
                if (*row.row[:4], *row.row[5:]) not in before_payment:
                    wrong.append(f"{one.name}: never told like that: {row}")
        found, missing = _settled(campaign, one)
        settled += found
        history += missing
    lost = lost_by_writer(tree, f"{feed_of('funding', 'perpetual')}.funding").values()
    if len(silent) > sum(len(one.certain | one.perhaps) for one in lost):
        wrong += silent
    return [
        Verdict.of("fundings are what the mark prices told", wrong, f"{rows} rows, {paid} of them of payments"),
        Verdict.of("settled rates are the exchange's own, all of them", history, f"{settled} rows"),
    ]


def _settled(campaign: Campaign, one: Instrument) -> tuple[int, list[str]]:
    """Payments that the keeper has stored; what is wrong with them."""
    theirs = rest(campaign, f"/fapi/v1/fundingRate?symbol={one.native}&limit=1000")
    columns = "rate, mark_price, toUnixTimestamp64Milli(next_funding_ts), funding_interval_h"
    market = f"instrument = '{one.name}' AND epoch = {RINGS}"

    def mine() -> dict[int, tuple[Any, ...]]:
        rows = campaign.tree.select(f"SELECT DISTINCT nth, {columns} FROM tickring.fundings WHERE {market}")
        return {row[0]: tuple(row[1:]) for row in rows}

    due = campaign.market_ms() - 60_000
    try:  # a payment of the last minute may still be waited for
        until("all payments", lambda: all(x["fundingTime"] in mine() for x in theirs[-3:] if x["fundingTime"] < due))
    except AssertionError as error:
        return len(mine()), [f"{one.name}: {error}"]
    found = mine()
    step = 8 * HOUR_MS
    expected = {
        x["fundingTime"]: (float(x["fundingRate"]), float(x["markPrice"]), x["fundingTime"] + step, 8)
        for x in theirs if x["fundingTime"] >= min(found)
    }  # fmt: skip
    differ = [key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)]
    differ = [key for key in differ if key < due]
    return len(found), [f"{one.name} {key}: {found.get(key)}, told {expected.get(key)}" for key in differ]


def rest(campaign: Campaign, path: str) -> Any:
    """Ask the exchange itself."""
    response = fetch(campaign.exchange.urls["usdm_rest" if path.startswith("/fapi") else "spot_rest"] + path)
    assert response.status == 200, response
    return response.json
