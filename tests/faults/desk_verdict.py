"""What must hold after a desk campaign: tables, live streams and REST against what the broker acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal, localcontext
from typing import Any

from tickring.actors.control import ALERTS_SOCKET, NoAnswer, command
from tickring.actors.recent import ALERTS_ACTOR, PORTFOLIO_ACTOR, topic_actor
from tickring.codecs.desk.money import amount_of
from tickring.codecs.desk.records import BY_NAME
from tickring.codecs.record import Flag
from tickring.ringbuf import RingError, StreamReader, page_filename, read_page

from ..desk.messages import START_MS, TrueFill
from ..system.tree import Tree, until
from .desk import RULE, DeskCampaign
from .desk_load import ALL_TOPICS, RISK, Produced, leverage
from .desk_truth import (
    EXACT,
    SCALE,
    TABLES,
    Held,
    Row,
    Sums,
    amount,
    distinct_fills,
    live,
    newest_orders,
    raw_row,
    true_alerts,
    true_positions,
)
from .verdict import SHOWN, Usage, Verdict, growth

ARRIVE_S = 300.0  # the last rows reach the tables within this, once the load has ended
FOLLOW_S = 60.0  # and everything else follows within this
_FOLLOWED: ContextVar[float] = ContextVar("followed", default=0.0)  # monotonic time by which it has
MEMORY_MORE = 160  # MiB: a writer that comes back makes batches of all topics at once, row by row
PAGE = 1000
SEEN = "acct-rule"
SELECT_RAW = (
    "SELECT topic, partition, offset, toUnixTimestamp64Milli(timestamp), lower(hex(key)), lower(hex(value)), "
    "arrayMap(h -> [h.1, lower(hex(h.2))], headers), event_id, variant, "
    f"bitAnd(flags, bitNot(toUInt32({int(Flag.REPEATED)}))), toUnixTimestamp64Nano(ts_event_ns) "
    "FROM tickring.raw_events WHERE topic = '{}'"
)


def judge(campaign: DeskCampaign, before: Usage, arrive_s: float = ARRIVE_S) -> list[Verdict]:
    """Let the damage and the load end, wait until everything is stored, but no longer than `arrive_s`, then compare."""
    tree = campaign.tree
    trouble = campaign.trouble
    found = [
        Verdict("SIGKILLs", True, str(campaign.kills)),
        Verdict("what the damages saw", not trouble, "; ".join(trouble[:SHOWN]) or "no trouble"),
    ]
    try:
        campaign.network.mend()
        campaign.calm()
        found.append(rule(campaign))
        produced = campaign.load.finish()
    except AssertionError as error:
        return [*found, Verdict("whole again after the last damage", False, f"{error}\n{tree.logged(15)}")]
    found.append(Verdict("whole again after the last damage", True, f"{len(produced)} events produced"))
    found.append(arrival(tree, len(produced), arrive_s))
    # What has not arrived by now is not waited for once more by each of the comparisons.
    _FOLLOWED.set(time.monotonic() + (FOLLOW_S if found[-1].ok else 0.0))
    good, fills = live(produced), distinct_fills(produced)
    found += [raw_events(tree, produced), dead_letters(tree, produced)]
    found += [derived(tree, table, [one for one in good if one.message.topic == table.topic]) for table in TABLES]
    found.append(orders(tree, good))
    positions = true_positions(fills.values())
    found += [stream_of_positions(tree, positions), rest_positions(tree, positions), pnl(tree, positions)]
    found += [rest_fills(tree, fills), fill_summary(tree, fills), *alerts(tree, good)]
    return found + growth(before, Usage.of(tree), MEMORY_MORE)


def arrival(tree: Tree, count: int, within_s: float) -> Verdict:
    """Wait for the raw events; where some do not come, the writer's page tells where they are."""
    began = time.monotonic()
    try:
        until("all raw events", lambda: _stored(tree) >= count, within_s)
        return Verdict("all raw events arrive", True, f"within {time.monotonic() - began:.1f} s")
    except AssertionError:
        detail: dict[str, Any] = {}
        with contextlib.suppress(RingError, OSError):
            detail = read_page(tree.folder / page_filename("writer")).detail
        lanes = {lane: [of.get("clickhouse", {}).get("reason"), of.get("spool", {}).get("batches")]
                 for lane, of in (("market", detail), ("desk", detail.get("desk", {})))}  # fmt: skip
        said = (
            f"{_stored(tree)} of {count} within {within_s:g} s; reason and spooled batches: {lanes}\n{tree.logged(15)}"
        )
        return Verdict("all raw events arrive", False, said)


def _stored(tree: Tree) -> int:
    try:
        return tree.count("raw_events")
    except (OSError, AssertionError):
        return 0


# -- comparing


def digest(rows: Iterable[Row]) -> str:
    """Of a set of rows, whatever their order."""
    whole = hashlib.sha256()
    for line in sorted(json.dumps(row) for row in rows):
        whole.update(line.encode() + b"\n")
    return whole.hexdigest()[:16]


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def _rows(tree: Tree, query: str) -> list[Row]:
    return [_frozen(row) for row in tree.select(query)]


def difference(expected: Iterable[Row], seen: Iterable[Row]) -> str:
    """The first rows that differ; empty where none does."""
    wanted, there = Counter(expected), Counter(seen)
    lines = []
    for what, rows in (("missing", wanted - there), ("too many", there - wanted)):
        if rows:
            first = sorted(rows, key=repr)[:SHOWN]
            lines.append(f"{rows.total()} {what}: {', '.join(str(row)[:600] for row in first)}")
    return "; ".join(lines)


def _same(what: str, expected: Iterable[Row], ask: Callable[[], Iterable[Row]]) -> Verdict:
    """Ask until the answer is as expected, or until it will not come to that; once at least."""
    wanted = list(expected)
    while True:
        try:
            seen = list(ask())
            wrong = difference(wanted, seen)
        except (OSError, AssertionError, KeyError) as error:
            seen, wrong = [], f"no answer: {type(error).__name__}: {error}"
        if not wrong or time.monotonic() > _FOLLOWED.get():
            break
        time.sleep(1.0)
    return Verdict(what, not wrong, wrong or f"{len(seen)} rows, {digest(seen)}")


# -- tables

SELECT_ORDERS = (
    "SELECT account_id, venue, order_id, toUnixTimestamp64Milli(update_time), status, toString(quantity) "
    "FROM tickring.orders FINAL"
)
SELECT_DEAD = (
    "SELECT topic, partition, offset, item, lower(hex(key)), lower(hex(value)), reason != '' FROM tickring.dead_letters"
)


def raw_events(tree: Tree, produced: Sequence[Produced]) -> Verdict:
    """`count() = uniqExact(topic, partition, offset) = produced`, and all columns but the times of receipt."""
    counts = tree.select("SELECT count(), uniqExact(topic, partition, offset) FROM tickring.raw_events")[0]
    wrong = [f"count, uniqExact, produced: {counts}, {len(produced)}"] if set(counts) != {len(produced)} else []
    hashes: list[Row] = []
    for topic in ALL_TOPICS:
        expected = [_frozen(raw_row(one)) for one in produced if one.message.topic == topic]
        made = {row[:3] for row in expected if row[7] is None}  # of an event without an id one is made, in hexadecimal
        seen = [
            (*row[:7], None if row[:3] in made and len(row[7]) == 32 else row[7], *row[8:])
            for row in _rows(tree, SELECT_RAW.format(topic))
        ]
        if differs := difference(expected, seen):
            wrong.append(differs)
        hashes.append((topic, digest(seen)))
    early = tree.select("SELECT count() FROM tickring.raw_events WHERE ts_recv_ns < timestamp")[0][0]
    if early:
        wrong.append(f"{early} were received before they were produced")
    return Verdict(
        "raw events are what was produced", not wrong, " | ".join(wrong) or f"{counts[0]} rows, {digest(hashes)}"
    )


def dead_letters(tree: Tree, produced: Sequence[Produced]) -> Verdict:
    expected = [
        (*one.where, 0, one.message.key and one.message.key.hex(), one.message.value.hex(), 1)
        for one in produced if one.dead
    ]  # fmt: skip
    return _same("dead letters", expected, lambda: _rows(tree, SELECT_DEAD))


def derived(tree: Tree, table: Any, produced: Sequence[Produced]) -> Verdict:
    """Each item once, by its place and by what the message says."""
    kinds = {amount: "toString({})"}
    columns = [
        kinds.get(read, "{}").format(name) if name != "timestamp" else "toUnixTimestamp64Milli(timestamp)"
        for name, read in table.columns.items()
    ]
    query = f"SELECT topic, partition, offset, item, variant, {', '.join(columns)} FROM tickring.{table.name}"
    reads = [None] * 5 + [amount if read is amount else None for read in table.columns.values()]

    def ask() -> list[Row]:
        rows = _rows(tree, query)
        return [tuple(v if read is None else read(v) for v, read in zip(row, reads, strict=True)) for row in rows]

    return _same(f"table {table.name}", (row for one in produced for row in table.rows(one)), ask)


def orders(tree: Tree, produced: Sequence[Produced]) -> Verdict:
    """Each order once, in its newest state."""
    newest = newest_orders(produced)

    def ask() -> list[Row]:
        rows = [(*row[:5], amount(row[5])) for row in _rows(tree, SELECT_ORDERS)]
        return [row[:3] if row[3:] in newest.get(row[:3], ()) else row for row in rows]

    return _same("orders, newest states", newest, ask)


# -- the portfolio


def _latest(tree: Tree, record: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The newest record of each key, amounts as decimals."""
    kind = BY_NAME[record]
    reader = StreamReader(tree.folder, PORTFOLIO_ACTOR, record, kind.dtype, kind.fingerprint)
    try:
        found = {}
        for key in reader.keys:
            if not reader.count(key.key_id):
                continue
            row = reader.latest(key.key_id)
            assert row is not None, f"{record}: {key.text} has records, and none to be read"
            names = [name for name, _, _ in kind.key_columns]
            found[tuple(str(key.attributes[name]) for name in names)] = {
                name: amount_of(bytes(row[name])) * SCALE if row.dtype[name].kind == "V" else row[name].item()
                for name in row.dtype.names or () if not name.startswith("_")
            }  # fmt: skip
        return found
    finally:
        reader.close()


def _close(sums: Sums, tolerance: int) -> Row:
    """As it is compared: exact but for the last digits that a division rounds."""
    step = SCALE * tolerance
    with localcontext(EXACT):
        money = (format((value / step).to_integral_value() * step, "f") for value in sums[1:4])
        return (amount(sums.quantity), *money, *sums[4:])


def _compare(what: str, expected: Mapping[Any, Sums], ask: Callable[[], Mapping[Any, Sums]]) -> Verdict:
    """Sums by key; amounts may differ by the 1e-8 that rounding is."""

    def near() -> list[Row]:
        seen = ask()
        rows = []
        for key, sums in seen.items():
            wanted = expected.get(key)
            if wanted is not None and _agree(wanted, sums):
                sums = wanted
            rows.append((*key, *_close(sums, 1)))
        return rows

    return _same(what, [(*key, *_close(sums, 1)) for key, sums in expected.items()], near)


def _agree(one: Sums, other: Sums) -> bool:
    return one.quantity == other.quantity and one[4:] == other[4:] and all(
        abs(a - b) <= SCALE for a, b in zip(one[1:4], other[1:4], strict=True)
    )  # fmt: skip


def stream_of_positions(tree: Tree, positions: Mapping[Any, Held]) -> Verdict:
    def ask() -> dict[Any, Sums]:
        rows = _latest(tree, "position")
        partial = [key for key, row in rows.items() if row["flags"] & Flag.PARTIAL]
        assert not partial, f"still PARTIAL: {partial}"
        names = ("quantity", "realized_pnl", "unrealized_pnl", "fees", "trade_count")
        return {key: Sums(*(row[name] for name in names)) for key, row in rows.items()}

    expected = {key: held.sums._replace(wins=0, losses=0) for key, held in positions.items()}
    return _compare("positions in their stream", expected, ask)


def rest_positions(tree: Tree, positions: Mapping[Any, Held]) -> Verdict:
    names = ("account_id", "strategy_id", "venue", "symbol")

    def ask() -> dict[Any, Sums]:
        rows = tree.get("/api/v1/positions?account_id=*&decimals=string&page_size=1000").data
        return {
            tuple(row[name] for name in names): Sums(
                *(Decimal(row[name]) for name in ("quantity", "realized_pnl", "unrealized_pnl"))
            )
            for row in rows
        }

    expected = {key: Sums(*held.sums[:3]) for key, held in positions.items() if held.quantity}
    return _compare("positions over REST", expected, ask)


def pnl(tree: Tree, positions: Mapping[Any, Held]) -> Verdict:
    """PnL of each account, and of each of its strategies."""
    expected: dict[Any, Sums] = {}
    with localcontext(EXACT):
        for (account, strategy, _, _), held in positions.items():
            for key in ((account, "ALL", "ALL"), (account, strategy, "ALL")):
                both: Any = (a + b for a, b in zip(expected.get(key, Sums()), held.sums, strict=True))
                expected[key] = Sums(*both)._replace(quantity=Decimal(0))

    def ask() -> dict[Any, Sums]:
        return {
            key: Sums(
                Decimal(0), row["realized_pnl"], row["unrealized_pnl"], row["fees"], row["fill_count"],
                row["winning_trips"], row["losing_trips"],
            )
            for key, row in _latest(tree, "pnl").items() if key[2] == "ALL"
        }  # fmt: skip

    return _compare("PnL of accounts and strategies", expected, ask)


# -- fills over REST


def _range(fills: Mapping[Any, TrueFill]) -> str:
    last = max((fill.time_ms for fill in fills.values()), default=START_MS) + 1000
    return f"start_time={START_MS - 60_000}&end_time={last}"


def rest_fills(tree: Tree, fills: Mapping[Any, TrueFill]) -> Verdict:
    """All pages together: each fill once, whichever messages told of it."""
    expected: list[Row] = [
        (f.account, f.venue, f.fill_id, f.symbol, f.side, amount(f.quantity), amount(f.price), amount(f.commission))
        for f in fills.values()
    ]
    expected.append(("total_count", len(fills)))

    def ask() -> list[Row]:
        rows, page = [], 1
        while True:
            path = f"/api/v1/fills?account_id=*&{_range(fills)}&page={page}&page_size={PAGE}"
            answer = tree.get(path)
            assert answer.status == 200, answer
            rows += answer.data
            if not answer.json["pagination"]["has_next"]:
                break
            page += 1
        listed = [
            (row["account_id"], row["venue"], row["fill_id"], row["symbol"], row["side"],
             *(amount(row[name]) for name in ("quantity", "price", "commission")))
            for row in rows
        ]  # fmt: skip
        return [*listed, ("total_count", answer.json["pagination"]["total_count"])]

    return _same("fills over REST, page by page", expected, ask)


def fill_summary(tree: Tree, fills: Mapping[Any, TrueFill]) -> Verdict:
    with localcontext(EXACT):
        volume = sum((fill.quantity * fill.price for fill in fills.values()), Decimal(0))
        # told in USDT; the rate of a fee in BNB is not in its fill
        commission = sum((f.commission for f in fills.values() if f.commission_asset != "BNB"), Decimal(0))

    def ask() -> list[Row]:
        told = tree.get(f"/api/v1/fills/summary?account_id=*&{_range(fills)}").data
        return [(told["total_fills"], amount(told["total_volume"]), amount(told["total_commission"]))]

    return _same("sums over fills", [(len(fills), amount(volume), amount(commission))], ask)


# -- alerts


def _entries(tree: Tree) -> dict[str, dict[str, Any]]:
    """The alerts actor's own list, by id."""
    try:
        answer = asyncio.run(command(tree.folder / ALERTS_SOCKET, "list", 30.0))
    except NoAnswer as error:
        raise AssertionError(str(error)) from None
    return {entry["alert"]["alert_id"]: entry for entry in answer["alerts"]}


def _ours(tree: Tree) -> dict[str, dict[str, Any]]:
    try:
        return {name: entry for name, entry in _entries(tree).items() if entry["alert"].get("rule_id") == RULE}
    except AssertionError:
        return {}


def rule(campaign: DeskCampaign) -> Verdict:
    """Condition on: one alert; restart: none new; off: resolved."""
    tree, load, what = campaign.tree, campaign.load, "a rule: on, restart, off"
    account = f"{SEEN}-{len(load.produced)}"
    name = until(
        "an alert of the rule", lambda: _after(lambda: load.say(leverage(5.0, account)), tree, account, False), FOLLOW_S
    )
    raised = _ours(tree)[name]
    for actor in (ALERTS_ACTOR, topic_actor(RISK)):
        pid = campaign.signal(actor, signal.SIGKILL)
        tree.back(actor, pid)
    load.say(leverage(6.0, account))
    time.sleep(2.0)  # several looks at the rules
    campaign.calm()
    ours = until("the alerts after a restart", lambda: _ours(tree))
    mine = [entry for entry in ours.values() if entry["alert"].get("account_id") == account]
    wrong = ""
    if len(mine) != 1 or any(mine[0][name] != raised[name] for name in ("first_ns", "count")):
        wrong = f"after a restart: {mine}, before: {raised}"
    until("it to be resolved", lambda: _after(lambda: load.say(leverage(1.0, account)), tree, account, True), FOLLOW_S)
    return Verdict(what, not wrong, wrong or f"{name}: raised once, kept, resolved")


def _after(say: Callable[[], None], tree: Tree, account: str, resolved: bool) -> str:
    """Say something; the name of the account's alert once it is as it should be."""
    say()
    time.sleep(0.5)
    for name, entry in _ours(tree).items():
        if entry["alert"].get("account_id") == account and bool(entry["alert"].get("resolved")) == resolved:
            return name
    return ""


def alerts(tree: Tree, produced: Sequence[Produced]) -> list[Verdict]:
    """Each alert once, however often and in whatever variants it was told: in the actor, in the table, over REST."""
    truth = true_alerts(produced)
    expected = [(name, one.time_ms, one.resolved, one.severity, 1) for name, one in truth.items()]

    def known() -> list[Row]:
        return [
            (name, entry["alert"]["timestamp"] // 1_000_000, bool(entry["alert"].get("resolved")),
             entry["alert"]["severity_raw"], entry.get("count", 1))
            for name, entry in _entries(tree).items() if not entry["alert"].get("rule_id")
        ]  # fmt: skip

    def stored() -> list[Row]:
        query = "SELECT alert_id, toUnixTimestamp64Milli(timestamp), resolved, severity_raw FROM tickring.alerts FINAL"
        rows = _rows(tree, f"{query} WHERE rule_id IS NULL OR rule_id = ''")
        return [(name, at, bool(resolved), severity) for name, at, resolved, severity in rows]

    def served() -> list[Row]:
        last = max((one.time_ms for one in truth.values()), default=START_MS) + 1000
        rows, page = [], 1
        while True:
            query = {"start_time": START_MS - 60_000, "end_time": last, "page": page, "page_size": PAGE}
            answer = tree.get(f"/api/v1/alerts?{urllib.parse.urlencode(query)}")
            assert answer.status == 200, answer
            rows += answer.data["alerts"]
            if not answer.json["pagination"]["has_next"]:
                return [(row["alert_id"], bool(row["resolved"]), row["severity_raw"]) for row in rows]
            page += 1

    return [
        _same("alerts: each once", expected, known),
        _same("alerts in their table", (row[:4] for row in expected), stored),
        _same("alerts over REST", ((row[0], row[2], row[3]) for row in expected), served),
    ]
