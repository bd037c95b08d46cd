"""What must hold after a campaign, whatever was done: counted from outside with JSON and SQL, without the codecs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..system.client import Channel
from ..system.oracle import Market, levels
from ..system.tree import Tree, until
from .bars import judge_bars
from .campaign import COINS, WEIGHTS_MAX, Campaign
from .client import BOOK, ORDERED, MarketChannel, MarketClient
from .client import DEPTH as BOOK_DEPTH
from .levels import judge_levels
from .machine import descriptors, proportional_bytes
from .tables import HOUR_MS, SHOWN, Verdict, judge_tables, shown
from .told import FORMS, Form, Row, answered, instruments, sent

DEPTH = 400
ENGINE = "clickhouse"
DESCRIPTORS_MORE = 16  # of one actor, beyond what it had at the start
FRONT_DESCRIPTORS_MORE = 64  # it opens a stream when the first client asks for it
ENGINE_DESCRIPTORS_MORE = 400  # three for each of its threads, of which it makes about a hundred under load
MEMORY_MORE = 64  # MiB of one actor beyond what it had at the start
ENGINE_MEMORY_MORE = 256  # it caches what it stores


@dataclass(frozen=True)
class Usage:
    """What a daemon takes at a calm moment."""

    processes: int
    descriptors: dict[str, int]  # by actor
    memory: dict[str, int]  # proportional MiB by actor
    segments: frozenset[str]  # files in shared memory

    @classmethod
    def of(cls, tree: Tree) -> Usage:
        assert tree.process is not None
        pids = {actor["name"]: actor["pid"] for actor in tree.status()["actors"]} | {"supervisor": tree.process.pid}
        return cls(
            len(list(_descendants(tree.process.pid))),
            {name: descriptors(pid) for name, pid in pids.items()},
            {name: proportional_bytes(pid) >> 20 for name, pid in pids.items()},
            frozenset(str(path.relative_to(tree.folder)) for path in tree.folder.rglob("*")),
        )


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _descendants(int(child))


def judge(campaign: Campaign, before: Usage) -> list[Verdict]:
    """Let the damage end and the market stand still, then count."""
    tree = campaign.tree
    found = [
        Verdict("SIGKILLs", True, str(campaign.kills)),
        Verdict("what the damages saw", not campaign.trouble, shown(campaign.trouble) or "no trouble"),
    ]
    try:
        campaign.settle()
    except AssertionError as error:
        return [*found, Verdict("whole again after the last damage", False, f"{error}\n{tree.logged(15)}")]
    found.append(Verdict("whole again after the last damage", True, "all actors, rings and health"))
    found.append(books(tree))  # first: after `watchdog_s` without data a feed drops its connection, and its books
    found.append(weights(campaign))  # before we ask the exchange ourselves
    found += judge_tables(campaign)
    found.append(judge_bars(campaign))
    found += judge_levels(tree)
    found += [client_saw(tree, number, client) for number, client in enumerate(campaign.clients)]
    found += growth(before, Usage.of(tree))
    return found


# -- books


def books(tree: Tree) -> Verdict:
    """REST's books are the exchange's own, to the last of its updates."""
    wrong = []
    for product in ("spot", "usdm"):
        for native, pair in COINS.items():
            theirs = tree.sim(f"book?product={product}&symbol={native}")
            path = f"/api/v1/orderbook/binance/{pair}?depth={DEPTH}&market_type="
            path += "spot" if product == "spot" else "perpetual"
            try:
                ours = until(
                    f"update {theirs['lastUpdateId']}",
                    lambda path=path, theirs=theirs: (
                        (book := tree.get(path).data)["last_update_id"] == theirs["lastUpdateId"]
                        and book["state"] == "synced"
                        and book
                    ),
                    20.0,
                )
            except AssertionError as error:
                wrong.append(f"{product} {native}: {error}, has {tree.get(path).body[:200]!r}")
                continue
            if any(levels(ours[side], DEPTH) != levels(theirs[side], DEPTH) for side in ("bids", "asks")):
                wrong.append(f"{product} {native}: differs")
    return Verdict("books equal the exchange's", not wrong, shown(wrong) or f"{2 * len(COINS)} books")


# -- requests


def weights(campaign: Campaign) -> Verdict:
    """All processes together never asked for more than the exchange allows, as it counts."""
    wrong, seen = [], []
    for product, most in WEIGHTS_MAX.items():
        told = campaign.tree.sim("status")["products"][product]
        used = max((account["used_max"] for account in told["weights"].values()), default=0)
        seen.append(f"{product} {used} of {most}")
        wrong += [f"{product}: {used} of {most} used, {told['rest_refused']} requests refused"] * (
            used > most or (told["rest_refused"] > 0 and not campaign.refused)
        )
    return Verdict.of("request weight within the exchange's limits", wrong, ", ".join(seen))


# -- clients


def client_saw(tree: Tree, number: int, client: MarketClient) -> Verdict:
    """A client that resumed saw each number of a channel once, in order, as a record or inside a gap frame; where only
    the newest counts they rise. And whatever it saw was sent."""
    wrong: list[Any] = list(client.errors)
    records = hidden = epochs = 0
    for name, last in client.channels.items():
        kind, _, market_type, pair = name.split(".")
        if kind == BOOK:
            wrong += _book_differs(tree, name, last)
            continue
        said = _said(tree, kind, Market(market_type, pair))
        for channel in (*client.before.get(name, ()), last):
            assert isinstance(channel, MarketChannel)
            gaps = [seq for first, last in channel.gaps for seq in range(first, last + 1)]
            numbers = [seq for seq, _ in channel.rows]
            every = sorted(numbers + gaps) == list(range(1, len(numbers) + len(gaps) + 1))
            if numbers != sorted(set(numbers)) or (kind in ORDERED and not every):
                wrong.append(f"{name}: {_order(numbers, set(gaps))}")
            strange = [row for _, row in channel.rows if not said(row)]
            wrong += [f"{name}: never sent: {strange[:1]} and {len(strange) - 1} more"] * bool(strange)
            records += len(numbers)
            hidden += len(gaps)
            epochs += 1
    return Verdict.of(
        f"client {number} saw every record once", wrong,
        f"{records} records on {len(client.channels)} channels, {hidden} in gap frames "
        f"{dict(client.gap_reasons) or ''}, {client.connections} connections, {epochs} epochs",
    )  # fmt: skip


def _book_differs(tree: Tree, name: str, channel: Channel) -> list[str]:
    """A client's book is the exchange's own in the end."""
    assert isinstance(channel, MarketChannel)
    _, _, market_type, pair = name.split(".")
    product = "spot" if market_type == "spot" else "usdm"
    truth = tree.sim(f"book?product={product}&symbol={pair.replace('-', '')}")
    theirs = [sorted(levels(truth[side], BOOK_DEPTH)) for side in ("bids", "asks")]
    mine = [sorted(levels(side.items(), BOOK_DEPTH)) for side in channel.sides or ()]
    return [f"{name}: {channel.frames} frames, and another book than the exchange's"] * (mine != theirs)


def _said(tree: Tree, kind: str, market: Market) -> Callable[[dict[str, Any]], bool]:
    """Whether the exchange told what a record of a channel shows."""
    product = "spot" if market.market_type == "spot" else "usdm"
    one = next(one for one in instruments(product) if one.market == market)
    if kind == "trades":
        wire, key = ("trade", "t") if product == "spot" else ("aggTrade", "a")
        by_id = {x[key]: x for x in sent(tree, product, f"{one.native.lower()}@{wire}")}

        def trade(row: dict[str, Any]) -> bool:
            x = by_id.get(int(row["trade_id"]))
            told = x and (float(x["p"]), float(x["q"]), "sell" if x["m"] else "buy", x["T"])
            return told == (float(row["price"]), float(row["quantity"]), row["side"], row["exchange_ts"])

        return trade
    if kind == "funding":
        rates = {(float(x["r"]), x["T"]) for x in sent(tree, product, f"{one.native.lower()}@markPrice@1s")}
        settled = {(rate, time + 8 * HOUR_MS) for rate, time in rates}
        return lambda row: (float(row["rate"]), row["next_funding_ts"]) in (settled if row["is_settlement"] else rates)
    if kind == "open_interest":
        told = {(float(x["openInterest"]), x["time"]) for x in answered(tree, product, "openInterest", one.native)}
        return lambda row: (float(row["open_interest"]), row["exchange_ts"]) in told
    form = next(form for form in FORMS if form.record == kind)
    names = [name for name in form.columns.split(", ")[1:] if name not in ("liquidation_id", "status")]
    values = {_shown_of(form, names, row) for row in form.sent(tree, one)}
    return lambda row: tuple(float(row.get(name, 0)) for name in names) in values


def _shown_of(form: Form, names: list[str], row: Row) -> Row:
    """Of a row those columns."""
    by_name = dict(zip(form.columns.split(", "), row[1:], strict=True))
    return tuple(float(by_name[name]) for name in names)


def _order(numbers: list[int], gaps: set[int]) -> str:
    jumps = [(a, b) for a, b in pairwise(numbers) if b != a + 1 and not gaps & set(range(a, b))]
    return f"first {numbers[:1]}, jumps {jumps[:SHOWN]}"


# -- growth


def growth(before: Usage, after: Usage, memory_more: int = MEMORY_MORE) -> list[Verdict]:
    different = sorted(after.segments ^ before.segments)
    return [
        Verdict("processes", after.processes == before.processes, f"{before.processes} -> {after.processes}"),
        _bounded(
            "descriptors",
            before.descriptors,
            after.descriptors,
            DESCRIPTORS_MORE,
            {ENGINE: ENGINE_DESCRIPTORS_MORE, "front": FRONT_DESCRIPTORS_MORE},
        ),
        _bounded("MiB", before.memory, after.memory, memory_more, {ENGINE: ENGINE_MEMORY_MORE}),
        Verdict("segments in shared memory", not different, shown(different) or f"{len(after.segments)} files"),
    ]


def _bounded(
    unit: str, before: dict[str, int], after: dict[str, int], more: int, others: Mapping[str, int]
) -> Verdict:  # fmt: skip
    """At most so many more, and of actors whose names begin like one of `others` at most so many."""
    grown = {name: after[name] - before[name] for name in before}
    most = {name: next((n for kind, n in others.items() if name.startswith(kind)), more) for name in before}
    worst = max((name for name in grown if name != ENGINE), key=lambda name: grown[name] - most[name])
    allowed = ", ".join(f"{kind} {count}" for kind, count in others.items())
    return Verdict(
        f"{unit} of each process, at most {more} more ({allowed})",
        all(count <= most[name] for name, count in grown.items()),
        ", ".join(f"{name} {before[name]} -> {after[name]}" for name in (worst, ENGINE)),
    )
