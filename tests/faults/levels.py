"""What must hold of stored books after a campaign: the levels are the exchange's events, and lead to its book."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from ..system.tree import Tree
from .tables import SHOWN, Verdict
from .told import (
    ASK,
    EVENT_TIME,
    LAST,
    MS,
    RESYNC,
    SNAPSHOT,
    Instrument,
    Row,
    Stored,
    answered,
    instruments,
    sent,
    stored,
)

TOP, DEPTH = 20, 100
EMPTY = 0  # state of a book of which nothing is known
LEVELS = f"{EVENT_TIME}, flags, update_id, price, quantity"
TOPS = (
    "level_count, state, update_id, bids_count, asks_count, arraySlice(bid_price, 1, bids_count), "
    "arraySlice(bid_qty, 1, bids_count), arraySlice(ask_price, 1, asks_count), arraySlice(ask_qty, 1, asks_count)"
)


@dataclass
class Book:
    """A book as stored levels make it."""

    update_id: int = 0
    sides: tuple[dict[float, float], dict[float, float]] = field(default_factory=lambda: ({}, {}))

    def apply(self, rows: Sequence[Stored]) -> None:
        if rows[0].row[1] & SNAPSHOT:
            self.sides = ({}, {})
        for one in rows:
            _, flags, self.update_id, price, quantity = one.row
            side = self.sides[bool(flags & ASK)]
            if quantity:
                side[price] = quantity
            else:
                side.pop(price, None)

    def top(self, depth: int) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
        bids, asks = self.sides
        return sorted(bids.items(), reverse=True)[:depth], sorted(asks.items())[:depth]


def judge_levels(tree: Tree) -> list[Verdict]:
    """Levels: each event and each snapshot as it was sent, whole, none left out between two snapshots, and at the end
    the exchange's book. Tops: the book that the levels before them make."""
    wrong: list[str] = []
    wrong_tops: list[str] = []
    rows = snapshots = compared = unknown = 0
    for product in ("spot", "usdm"):
        for one in instruments(product, public=True):
            seen = _Judge(tree, one)
            seen.run()
            wrong += [f"{one.name} {product}: {line}" for line in seen.wrong]
            wrong_tops += [f"{one.name} {product}: {line}" for line in seen.wrong_tops]
            rows, snapshots = rows + seen.rows, snapshots + seen.snapshots
            compared, unknown = compared + seen.compared, unknown + seen.unknown
    return [
        Verdict.of(
            "book_levels are the exchange's events, and lead to its books",
            wrong,
            f"{rows} rows, {snapshots} snapshots, {unknown} books not known to the end",
        ),
        Verdict.of("book_tops are what the levels make", wrong_tops, f"{compared} samples"),
    ]


class _Judge:
    """One instrument."""

    def __init__(self, tree: Tree, one: Instrument) -> None:
        self.tree, self.one = tree, one
        self.wrong: list[str] = []
        self.wrong_tops: list[str] = []
        self.rows = self.snapshots = self.compared = self.unknown = 0
        self.spot = one.product == "spot"
        said = sent(tree, one.product, f"{one.native.lower()}@depth@100ms")
        self.events = {x["u"]: x for x in said if x["b"] or x["a"]}
        self.ids = sorted(self.events)
        self.bodies: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for body in answered(tree, one.product, "depth", one.native):
            self.bodies[body["lastUpdateId"]].append(body)
        self.tops: dict[tuple[int, int], list[Row]] = defaultdict(list)
        for top in stored(tree, "book_tops", TOPS, one):
            if top.row[1] != EMPTY:
                self.tops[top.epoch, top.row[0]].append(top.row)

    def run(self) -> None:
        book: Book | None = None  # None: rows are missing since the last snapshot
        after_snapshot, before = False, (0, -1)
        for rows in _events(stored(self.tree, "book_levels", LEVELS, self.one)):
            self.rows += len(rows)
            first, last = rows[0], rows[-1]
            whole = bool(last.row[1] & LAST)
            behind_hole = (first.epoch, first.nth) != (before[0], before[1] + 1)
            if behind_hole:
                book = None
            before = (last.epoch, last.nth)
            snapshot = bool(first.row[1] & SNAPSHOT)
            if not whole:  # the next one cannot follow
                book = None
                continue
            said = self._said(rows, snapshot)
            mine = [one.row for one in rows]
            if mine not in said:
                if behind_hole and any(one[-len(mine) :] == mine for one in said):
                    continue  # the rest of one that begins in the hole
                self.wrong.append(f"never sent like that: {'snapshot' * snapshot} {mine[:2]} ...")
                continue
            if snapshot:
                self.snapshots += 1
                book = book or Book()
            elif book is not None:
                self._follows(book.update_id, first.row[2], after_snapshot)
            after_snapshot = snapshot
            if book is not None:
                book.apply(rows)
                self._compare(book, self.tops.pop((last.epoch, last.nth + 1), []))
        self._end(book)

    def _said(self, rows: Sequence[Stored], snapshot: bool) -> list[list[Row]]:
        """What the exchange said under the number of these rows."""
        number, flags = rows[0].row[2], rows[0].row[1]
        if snapshot:
            return [
                _rows(body.get("T", 0), flags & RESYNC | SNAPSHOT, number, body["bids"], body["asks"])
                for body in self.bodies[number]
            ]
        event = self.events.get(number)
        return [_rows(event.get("T") or event["E"], 0, number, event["b"], event["a"])] if event else []

    def _follows(self, before: int, number: int, after_snapshot: bool) -> None:
        """An event is the next one behind what was there."""
        if left_out := self.ids[bisect_right(self.ids, before) : bisect_left(self.ids, number)]:
            self.wrong.append(f"{len(left_out)} events left out between {before} and {number}: {left_out[:SHOWN]}")
        event = self.events[number]
        if self.spot:
            fits = event["U"] <= before + 1
        else:
            fits = event["pu"] == before or (after_snapshot and event["U"] <= before <= number)
        if not fits:
            self.wrong.append(f"event {event['U']} to {number} does not follow {before}")

    def _compare(self, book: Book, tops: list[Row]) -> None:
        for _, _, number, bids_count, asks_count, *arrays in tops:
            bid_price, bid_quantity, ask_price, ask_quantity = arrays
            theirs = list(zip(bid_price, bid_quantity, strict=True)), list(zip(ask_price, ask_quantity, strict=True))
            self.compared += 1
            if theirs != book.top(TOP) or (bids_count, asks_count) != (len(bid_price), len(ask_price)):
                self.wrong_tops.append(f"at {number}: {theirs[0][:2]}, the levels make {book.top(2)[0]}")

    def _end(self, book: Book | None) -> None:
        if book is None:  # rows are missing behind the last snapshot: the ring's numbering tells whether they may
            self.unknown = 1
            return
        truth = self.tree.sim(f"book?product={self.one.product}&symbol={self.one.native}")
        theirs = tuple([(float(p), float(q)) for p, q in truth[side][:DEPTH]] for side in ("bids", "asks"))
        if book.top(DEPTH) != theirs or book.update_id != truth["lastUpdateId"]:
            self.wrong.append(
                f"end at {book.update_id} with {book.top(1)}, the exchange's at {truth['lastUpdateId']} "
                f"with {theirs[0][:1]}, {theirs[1][:1]}"
            )


def _events(rows: list[Stored]) -> Iterator[list[Stored]]:
    """Rows of one event each, or of what is left of one: a hole divides them."""
    number, following = 0, -1

    def event_of(one: Stored) -> tuple[int, ...]:
        nonlocal number, following
        number += one.nth != following
        following = one.nth + 1
        mine = number
        number += bool(one.row[1] & LAST)
        return one.epoch, one.row[2], mine

    for _, group in groupby(rows, event_of):
        yield list(group)


def _rows(time_ms: int, flags: int, number: int, bids: list[list[str]], asks: list[list[str]]) -> list[Row]:
    levels = [(0, *level) for level in bids] + [(ASK, *level) for level in asks]
    rows = [(time_ms * MS, flags | side, number, float(p), float(q)) for side, p, q in levels]
    if rows:
        rows[-1] = (rows[-1][0], rows[-1][1] | LAST, *rows[-1][2:])
    return rows
