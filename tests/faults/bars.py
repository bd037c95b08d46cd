"""What must hold of stored bars after a campaign: they are the exchange's own, and none is missing."""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from typing import Any

from .campaign import Campaign
from .ledgers import lost_by_writer
from .tables import ARRIVE_S, SHOWN, Verdict, rest
from .told import Instrument, instruments, stored

INTERVALS = ("1m", "5m", "15m", "1h", "4h", "1d")
PARTIAL, ROLLED_UP = 1 << 12, 1 << 13  # bits of `flags`
TOLD_MS = 20_000  # of bars that ended so short before the market did the stream may not have told
BAR_COLUMNS = (
    "interval, toUnixTimestamp64Milli(open_ts), toUnixTimestamp64Milli(close_ts), open, high, low, close, volume, "
    "quote_volume, trade_count, taker_buy_volume, taker_buy_quote_volume, flags"
)
ROLLED_DIFFERENCE = 1e-9  # of volumes in sums of floats


def judge_bars(campaign: Campaign) -> Verdict:
    """Every bar since the first one is there as the exchange has it; those seen only in part say so and are followed by
    the whole one."""
    wrong: list[str] = []
    tree = campaign.tree
    counts: Counter[str] = Counter()
    lost = {
        feed: sum(len(one.certain | one.perhaps) for one in lost_by_writer(tree, f"{feed}.kline").values())
        for feed in {one.feed for product in ("spot", "usdm") for one in instruments(product)}
    }
    told_ms = campaign.market_ms() - TOLD_MS
    truth: dict[tuple[Instrument, str], dict[int, Any]] = {}
    for product, path in (("spot", "/api/v3/klines"), ("usdm", "/fapi/v1/klines")):
        for one, interval in itertools.product(instruments(product), INTERVALS):
            theirs = rest(campaign, f"{path}?symbol={one.native}&interval={interval}&limit=1000")
            truth[one, interval] = {row[0]: row for row in theirs}
    held: dict[tuple[Instrument, str], list[tuple[Any, ...]]] = {}

    def lacking() -> list[str]:
        """Bars that are missing, where there are more of a feed than the writer's ledger has."""
        held.update((key, []) for key in truth)
        for one in dict.fromkeys(one for one, _ in truth):
            for row in stored(tree, "klines", BAR_COLUMNS, one):
                held[one, row.row[0]].append(row.row[1:])
        found: dict[str, list[str]] = defaultdict(list)
        for (one, interval), theirs in truth.items():
            whole = {row[0] for row in held[one, interval] if not row[-1] & PARTIAL}
            first = min(whole, default=0)
            missing = [t for t, row in theirs.items() if t >= first and row[6] < told_ms and t not in whole]
            found[one.feed] += [f"{one.name} {interval} {t}" for t in missing]
        counts["missing"] = sum(map(len, found.values()))
        return [
            f"{len(every)} bars missing: {every[:SHOWN]}" for feed, every in found.items() if len(every) > lost[feed]
        ]

    end = time.monotonic() + ARRIVE_S  # what is missing is asked for again and again
    while (wrong := lacking()) and time.monotonic() < end:
        time.sleep(1.0)
    for (one, interval), theirs in truth.items():
        oldest = min(theirs)
        for row in held[one, interval]:
            counts["rows"] += 1
            counts["partial"] += bool(row[-1] & PARTIAL)
            if not row[-1] & PARTIAL and row[0] >= oldest and not _same_bar(row, theirs.get(row[0])):
                wrong.append(f"{one.name} {interval}: {row}, the exchange has {theirs.get(row[0])}")
    detail = (
        f"{counts['rows']} rows, {counts['partial']} of bars seen in part, {counts['missing']} in the writer's ledger"
    )
    return Verdict.of("klines are the exchange's own, all of them", wrong, detail)


def _same_bar(row: tuple[Any, ...], truth: Any) -> bool:
    if truth is None:
        return False
    told = (truth[0], truth[6], *map(float, truth[1:6]), float(truth[7]), truth[8], *map(float, truth[9:11]))
    exact, volumes = (0, 1, 2, 3, 4, 5, 8), (6, 7, 9, 10)
    if any(row[n] != told[n] for n in exact):
        return False
    most = ROLLED_DIFFERENCE if row[-1] & ROLLED_UP else 0.0
    return all(abs(row[n] - told[n]) <= most * told[n] for n in volumes)
