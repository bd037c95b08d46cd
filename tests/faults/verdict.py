"""What must hold after a campaign, whatever was done: counted from outside with JSON and SQL, without the codecs."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..system import oracle
from ..system.client import Client
from ..system.oracle import Market, TradeRow, digest, levels, table_rows, trade_rows
from ..system.tree import Tree, until
from .campaign import COINS, Campaign
from .machine import descriptors, proportional_bytes

DEPTH = 400
ARRIVE_S = 120.0  # the last rows reach the table within this
ENGINE = "clickhouse"
DESCRIPTORS_MORE = 16  # of one actor, beyond what it had at the start
ENGINE_DESCRIPTORS_MORE = 400  # three for each of its threads, of which it makes about a hundred under load
MEMORY_MORE = 64  # MiB of one actor beyond what it had at the start
ENGINE_MEMORY_MORE = 256  # it caches what it stores
SHOWN = 5

SOURCES = {"feed-binance-spot-0": ("spot", "trade"), "feed-binance-usdm-market-0": ("usdm", "aggTrade")}


@dataclass(frozen=True)
class Verdict:
    what: str
    ok: bool
    detail: str


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
        Verdict("what the damages saw", not campaign.trouble, _shown(campaign.trouble) or "no trouble"),
    ]
    try:
        campaign.settle()
    except AssertionError as error:
        return [*found, Verdict("whole again after the last damage", False, f"{error}\n{tree.logged(15)}")]
    found.append(Verdict("whole again after the last damage", True, "all actors, rings and health"))
    found.append(books(tree))  # first: after `watchdog_s` without data a feed drops its connection, and its books
    found += trades(tree)
    found += [client_saw(tree, number, client) for number, client in enumerate(campaign.clients)]
    found += growth(before, Usage.of(tree))
    return found


def _shown(items: Iterable[Any]) -> str:
    every = list(items)
    return f"{len(every)}: {every[:SHOWN]}" if every else ""


# -- trades


@dataclass
class Stream:
    """Of one instrument: what was sent, what is in the table, and who owns up to the rest. By trade id."""

    feed: str
    market: Market
    sent: dict[int, TradeRow]
    stored: dict[int, TradeRow]
    doubled: list[int]
    named: set[int]  # in the feed's gap ledger


def streams(tree: Tree) -> Iterator[Stream]:
    rows = table_rows(tree.select(oracle.SELECT_TRADES))
    for feed, (product, wire) in SOURCES.items():
        for native, pair in COINS.items():
            market = Market("spot" if product == "spot" else "perpetual", pair)
            mine = [row for row in rows if (row.instrument, row.market_type) == (market.instrument, market.market_type)]
            messages = sent(tree, product, f"{native.lower()}@{wire}")
            counts = Counter(row.trade_id for row in mine)
            yield Stream(
                feed, market,
                {row.trade_id: row._replace(nth=0) for row in trade_rows(messages, {native: market})},
                {row.trade_id: row._replace(nth=0) for row in mine},
                [number for number, count in counts.items() if count > 1],
                named_by_feed(tree, feed, market.instrument, "trade" if product == "spot" else "agg_trade"),
            )  # fmt: skip


def sent(tree: Tree, product: str, stream: str) -> list[dict[str, Any]]:
    response = tree.sim_raw(f"sent?product={product}&stream={stream}")
    assert response.headers["X-Complete"] == "1", f"the exchange forgot what it sent on {stream}"
    return [json.loads(line) for line in response.body.splitlines()]


def json_lines(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:  # cut short by a kill
                    continue


def named_by_feed(tree: Tree, feed: str, instrument: str, kind: str) -> set[int]:
    folder = tree.data / "gaps"
    return {
        number
        for gap in json_lines([folder / f"{feed}.jsonl.1", folder / f"{feed}.jsonl"])
        if (gap["instrument"], gap["kind"]) == (instrument, kind)
        for number in range(gap["first_id"], gap["last_id"] + 1)
    }


def lost_by_writer(tree: Tree, feed: str) -> tuple[int, int]:
    """Rows of a feed's trade ring that the writer's ledger names: certainly lost, and perhaps."""
    certain: set[tuple[int, int]] = set()
    perhaps: set[tuple[int, int]] = set()
    for gap in json_lines(sorted((tree.data / "writer").glob("gaps*.jsonl"))):
        if gap["stream"] == f"{feed}.trade" and gap.get("kind", "range") == "range":
            numbers = {(gap["epoch"], n) for n in range(gap["first"], gap["stop"])}
            if gap.get("certain", True):
                certain |= numbers
            else:
                perhaps |= numbers
    return len(certain), len(perhaps - certain)


def await_table(tree: Tree) -> None:
    """Wait until the table stands still with as many rows as the rings have had, or until it will not come to that."""
    end = time.monotonic() + ARRIVE_S
    wanted = sum(count for ring, count in tree.published().items() if ring.endswith(".trade"))
    while tree.count("trades") < wanted and time.monotonic() < end:
        time.sleep(0.2)


def trades(tree: Tree) -> list[Verdict]:
    """The table is what was sent less what the ledgers name: nothing is missing, doubled, or otherwise than sent."""
    await_table(tree)
    wrong: list[str] = []
    expected: list[TradeRow] = []
    stored: list[TradeRow] = []
    missing_named, lost_named, missing_silently = 0, 0, Counter[str]()
    for one in streams(tree):
        name = one.market.instrument
        if not one.stored:
            wrong.append(f"{name}: nothing stored")
            continue
        ids = range(min(one.stored), max(max(one.stored), max(one.sent)) + 1)
        missing = set(ids) - one.stored.keys()
        wrong += [f"{name}: {len(one.doubled)} doubled, {one.doubled[:SHOWN]}"] * bool(one.doubled)
        if twice := one.named & one.stored.keys():
            wrong.append(f"{name}: in a feed's gaps but stored: {sorted(twice)[:SHOWN]}")
        if beyond := {number for number in one.named if number not in ids}:
            wrong.append(f"{name}: in a feed's gaps but beyond what was sent: {sorted(beyond)[:SHOWN]}")
        missing_named += len(missing & one.named)
        nobody = missing - one.named
        missing_silently[one.feed] += len(nobody)
        if nobody:
            wrong.append(f"{name}: {len(nobody)} in no feed's gaps, {sorted(nobody)[:SHOWN]}")
        stored += one.stored.values()
        expected += [row for number, row in one.sent.items() if number in ids and number not in missing]
    for feed, count in list(missing_silently.items()):
        certain, perhaps = lost_by_writer(tree, feed)
        lost_named += certain
        if count and certain <= count <= certain + perhaps:  # the writer names them
            wrong = [line for line in wrong if "in no feed's gaps" not in line]
        elif count or certain:
            wrong.append(
                f"{feed}: {count} in no feed's gaps, the writer's ledger has {certain} (perhaps {perhaps} more)"
            )
    same = digest(expected) == digest(stored)
    differ = sorted(set(expected) ^ set(stored))[:SHOWN]
    numbering = tree.select(
        "SELECT instrument, epoch, count(), uniqExact(nth), max(nth) + 1 - min(nth) FROM tickring.trades "
        "GROUP BY instrument, epoch HAVING count() != uniqExact(nth) OR uniqExact(nth) != max(nth) + 1 - min(nth)"
    )
    return [
        Verdict(
            "trades are what was sent less the gap ledgers", not wrong,
            _shown(wrong) or f"{len(stored)} stored, {missing_named} in the feeds' gaps, {lost_named} in the writer's",
        ),
        Verdict(
            "hash over all columns", same,
            f"{digest(stored)[:16]}" if same else f"the first that differ: {differ}",
        ),
        Verdict("numbering of each instrument", not numbering or bool(lost_named), _shown(numbering) or "no hole"),
    ]  # fmt: skip


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
                        (book := tree.get(path).data)["last_update_id"] == theirs["lastUpdateId"] and book
                    ),
                    20.0,
                )
            except AssertionError as error:
                wrong.append(f"{product} {native}: {error}, has {tree.get(path).body[:200]!r}")
                continue
            if ours["state"] != "synced" or any(
                levels(ours[side], DEPTH) != levels(theirs[side], DEPTH) for side in ("bids", "asks")
            ):
                wrong.append(f"{product} {native}: {ours['state']}, differs")
    return Verdict("books equal the exchange's", not wrong, _shown(wrong) or f"{2 * len(COINS)} books")


# -- clients


def client_saw(tree: Tree, number: int, client: Client) -> Verdict:
    """A client that resumed saw each number once, in order, as a record or inside a gap frame, and what was sent."""
    wrong: list[Any] = list(client.errors)
    records = hidden = 0
    for name, channel in client.channels.items():
        _, _, market_type, pair = name.split(".")
        native = pair.replace("-", "")
        product, wire = ("spot", "trade") if market_type == "spot" else ("usdm", "aggTrade")
        key = "t" if wire == "trade" else "a"
        by_id = {x[key]: x for x in sent(tree, product, f"{native.lower()}@{wire}")}
        gaps = [seq for first, last in channel.gaps for seq in range(first, last + 1)]
        numbers = [record.seq for record in channel.records]
        if len(channel.epochs) != 1:
            wrong.append(f"{name}: epochs {channel.epochs}")
        if numbers != sorted(numbers) or sorted(numbers + gaps) != list(range(1, len(numbers) + len(gaps) + 1)):
            wrong.append(f"{name}: {_order(numbers, set(gaps))}")
        for record in channel.records:
            x = by_id.get(record.trade_id)
            said = x and (float(x["p"]), float(x["q"]), "sell" if x["m"] else "buy", x["T"])
            if said != record[2:]:
                wrong.append(f"{name}: {record}, was sent as {x}")
        records += len(numbers)
        hidden += len(gaps)
    return Verdict(
        f"client {number} saw every record once", not wrong,
        _shown(wrong) or f"{records} records, {hidden} in gap frames {dict(client.gap_reasons) or ''}, "
        f"{client.connections} connections",
    )  # fmt: skip


def _order(numbers: list[int], gaps: set[int]) -> str:
    jumps = [(a, b) for a, b in pairwise(numbers) if b != a + 1 and not gaps & set(range(a, b))]
    return f"first {numbers[:1]}, jumps {jumps[:SHOWN]}"


# -- growth


def growth(before: Usage, after: Usage, memory_more: int = MEMORY_MORE) -> list[Verdict]:
    different = sorted(after.segments ^ before.segments)
    return [
        Verdict("processes", after.processes == before.processes, f"{before.processes} -> {after.processes}"),
        _bounded("descriptors", before.descriptors, after.descriptors, DESCRIPTORS_MORE, ENGINE_DESCRIPTORS_MORE),
        _bounded("MiB", before.memory, after.memory, memory_more, ENGINE_MEMORY_MORE),
        Verdict("segments in shared memory", not different, _shown(different) or f"{len(after.segments)} files"),
    ]


def _bounded(unit: str, before: dict[str, int], after: dict[str, int], more: int, engine_more: int) -> Verdict:
    grown = {name: after[name] - before[name] for name in before}
    worst = max((name for name in grown if name != ENGINE), key=lambda name: grown[name])
    return Verdict(
        f"{unit} of each process, at most {more} more (engine {engine_more})",
        all(count <= (engine_more if name == ENGINE else more) for name, count in grown.items()),
        ", ".join(f"{name} {before[name]} -> {after[name]}" for name in (worst, ENGINE)),
    )
