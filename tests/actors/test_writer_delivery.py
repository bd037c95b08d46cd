"""The way back of a delivery: what is sent together, what is repeated after which answer, and what it tells."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tickring.actors.writer.config import Config
from tickring.actors.writer.delivery import Delivery
from tickring.actors.writer.metrics import Metrics
from tickring.ringbuf import MetricsPage
from tickring.storage.batch import Batch, BatchHead
from tickring.storage.errors import DiskUnusable, Refused, Unavailable
from tickring.storage.gaps import GapLedger
from tickring.storage.spool import Spool

BAD = b"!"


def batch(n: int, table: str = "trades", block: bytes = b"") -> Batch:
    head = BatchHead(
        stream="p.trade", record="trade", table=table, columns=["nth"], epoch=1, first=n, stop=n + 1, rows=1,
        token=f"p.trade/1/{n}/{table}", identity={"nth": n}, ts_first_ns=1, ts_last_ns=1,
    )  # fmt: skip
    return Batch(head, block or b"%d " % n)


class Table:
    """Stands for ClickHouse: takes blocks of numbers, whole or not at all, and each token once.

    Attributes:
        answers: what comes of the next inserts: an error to raise, and whether the rows are stored before that; None =
            the token is remembered, and the rows are not.
    """

    url, engine = "http://127.0.0.1:9", b"MergeTree"

    def __init__(self) -> None:
        self.rows: dict[str, list[int]] = {}
        self.inserts: list[tuple[str, str, int]] = []  # table, token, rows
        self.remembered: set[tuple[str, str]] = set()
        self.looks = 0
        self.answers: list[tuple[Exception | None, bool | None]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def insert(self, table: str, columns: list[str], block: bytes, token: str, timeout_s: float) -> None:
        await self.gate.wait()
        name = table.rpartition(".")[2].strip("`")
        known = (name, token) in {(other, of) for other, of, _ in self.inserts} | self.remembered
        error, stored = self.answers.pop(0) if self.answers else (None, True)
        if BAD in block:
            raise Refused("nonsense", 128, "TOO_LARGE_ARRAY_SIZE")
        if stored and not known:
            self.rows.setdefault(name, []).extend(map(int, block.split()))
            self.inserts.append((name, token, len(block.split())))
        if stored is None:
            self.remembered.add((name, token))
        if error is not None:
            raise error

    async def fetch(self, query: str, identity: dict[str, int], *, fmt: str) -> bytes:
        if "system.tables" in query:
            return self.engine + b"\n"
        self.looks += 1
        return b"%d" % sum(f"`{name}`" in query and identity["nth"] in rows for name, rows in self.rows.items())


@pytest.fixture
def delivery(shm: Path, tmp_path: Path) -> Iterator[Callable[..., Delivery]]:
    page, ledger = MetricsPage(shm, "writer", time.time_ns()), GapLedger(tmp_path)
    spools: list[Spool] = []

    def make(table: Table, acknowledged: list[int] | None = None) -> Delivery:
        async def prepare() -> None:
            pass

        def note(head: BatchHead) -> None:
            if acknowledged is not None:
                acknowledged.append(head.first)

        spools.append(Spool(tmp_path / "spool", 1 << 26))
        config = Config(retry_delay_s=0.01, retry_delay_max_s=0.01)
        return Delivery(config, table, spools[-1], ledger, prepare, Metrics(page), note)  # type: ignore[arg-type]

    yield make
    for spool in spools:
        spool.close()
    ledger.close()
    page.close()


async def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.002)


def replay(delivery: Delivery) -> None:
    """Run until ClickHouse is up."""

    async def inside() -> None:
        running = asyncio.ensure_future(delivery.run())
        await until(lambda: delivery.up or running.done())
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())


def test_spooled_batches_go_together_and_are_acknowledged_in_their_order(delivery):
    table, acknowledged = Table(), []
    one = delivery(table, acknowledged)
    for n in range(300):
        one.spool.append(batch(n))
    replay(one)
    assert [rows for _, _, rows in table.inserts] == [256, 44]
    assert table.rows == {"trades": list(range(300))} and acknowledged == list(range(300))
    assert table.looks == 0, "nothing of it had been sent before"


@pytest.mark.parametrize("stored", [False, True])
def test_insert_without_an_answer_is_repeated_with_its_token_and_looked_for(delivery, stored):
    table = Table()
    one = delivery(table)
    for n in range(10):
        one.spool.append(batch(n))
    table.answers = [(Unavailable("no answer"), stored)]
    replay(one)
    assert table.rows == {"trades": list(range(10))}
    assert (len(table.inserts), table.looks) == (1, 1 if stored else 2)


@pytest.mark.parametrize("times", [1, 2])
def test_batch_of_which_the_server_has_but_the_token_is_stored_under_another(delivery, monkeypatch, times):
    """It was killed between remembering the token and committing the rows; also a second time."""
    monkeypatch.setattr("tickring.storage.batch.LATE_S", 0.01)
    table = Table()
    one = delivery(table)
    for n in range(10):
        one.spool.append(batch(n))
    table.answers = [(Unavailable("killed"), None)]
    if times == 2:
        table.answers += [(None, True), (Unavailable("killed"), None)]  # the repetition is dropped
    replay(one)
    assert table.rows == {"trades": list(range(10))} and len(table.inserts) == 1
    assert table.inserts[0][1].endswith(f"~{times}")


def test_batch_that_a_replica_does_not_show_yet_is_not_sent_under_another_token(delivery, monkeypatch):
    monkeypatch.setattr("tickring.storage.batch.LATE_S", 0.01)
    table = Table()
    table.engine = b"ReplicatedMergeTree"
    one = delivery(table)
    one.spool.append(batch(1))
    table.answers = [(Unavailable("no answer"), True), (None, True)]
    rows: list[dict[str, list[int]]] = []
    fetch = table.fetch

    async def late(query, identity, *, fmt):
        """The other replica has the rows; this one shows them after some time."""
        rows.append(table.rows)
        table.rows = {} if len(rows) < 6 else rows[0]
        try:
            return await fetch(query, identity, fmt=fmt)
        finally:
            table.rows = rows[0]

    table.fetch = late
    replay(one)
    assert table.rows == {"trades": [1]} and len(table.inserts) == 1


def test_batch_of_rows_that_replace_others_is_sent_twice_and_not_looked_for(delivery):
    table, again = Table(), batch(1, "orders")
    again.head = msgspec.structs.replace(again.head, replaces=True)
    one = delivery(table)
    one.spool.append(again)
    table.answers = [(Unavailable("no answer"), True)]
    replay(one)
    assert table.rows == {"orders": [1, 1]} and table.looks == 0


def test_insert_that_the_server_carries_out_after_its_repetition_is_dropped_by_its_token(delivery):
    """The look finds nothing, the rows are sent again, and then the first insert comes to its end."""
    table = Table()
    one = delivery(table)
    for n in range(10):
        one.spool.append(batch(n))
    late: list[tuple] = []
    insert = table.insert

    async def slow(*args):
        if not late:
            late.append(args)
            one.spool.append(batch(10))  # more has come meanwhile
            raise Unavailable("no answer")
        await insert(*args)
        await insert(*late[0])

    table.insert = slow
    replay(one)
    assert table.rows == {"trades": list(range(11))}


@pytest.mark.parametrize("killed_after", [0, 1, 2, 3])
def test_next_life_repeats_the_window_of_the_last_and_stores_each_batch_once(delivery, monkeypatch, killed_after):
    """The writer is killed after so many inserts of three tables; more comes before it lives again."""
    table = Table()
    one = delivery(table)
    for n in range(20):
        for name in ("fills", "orders", "raw_events"):
            one.spool.append(batch(n, name))

    class Killed(BaseException):
        pass

    table.answers = [(None, True)] * killed_after + [(Killed(), False)]
    if killed_after == 3:
        monkeypatch.setattr(one.spool, "sent", lambda entries: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        asyncio.run(one._replay())
    assert sum(map(len, table.rows.values())) == 20 * killed_after
    table.answers = []
    again = delivery(table)
    for n in range(20, 25):
        again.spool.append(batch(n, "fills"))
    replay(again)
    assert {name: sorted(rows) for name, rows in table.rows.items()} == {
        "fills": list(range(25)), "orders": list(range(20)), "raw_events": list(range(20)),
    }  # fmt: skip


def test_one_refused_batch_among_many_is_put_aside_and_the_others_are_stored_once(delivery):
    table, acknowledged = Table(), []
    one = delivery(table, acknowledged)
    for n in range(30):
        one.spool.append(batch(n, "fills"))
        one.spool.append(batch(n, "raw_events", BAD if n == 7 else b""))
    replay(one)
    assert table.rows == {"fills": list(range(30)), "raw_events": [n for n in range(30) if n != 7]}
    assert acknowledged == [n for n in range(30) for _ in range(2)]
    assert [gap.first for gap in one.ledger.pending] == [] and one.metrics.refused.value == 1
    assert [path.read_bytes() for path in (one.spool.folder / "refused").iterdir()] == [BAD]


def test_refusal_that_the_tables_explain_keeps_the_batches_together(delivery):
    table = Table()
    one = delivery(table)
    for n in range(10):
        one.spool.append(batch(n))
    table.answers = [(Refused("no such table", 60, "UNKNOWN_TABLE"), False)] * 2
    replay(one)
    assert [rows for _, _, rows in table.inserts] == [10]


def test_spool_whose_head_cannot_be_written_waits_and_says_so(delivery, monkeypatch):
    table = Table()
    one = delivery(table)
    one.spool.append(batch(0))
    first = one.spool.first

    def fails():
        monkeypatch.setattr(one.spool, "first", first)
        raise DiskUnusable("spool: no space left: make room on that disk")

    monkeypatch.setattr(one.spool, "first", fails)
    replay(one)
    assert table.rows == {"trades": [0]}


def test_spool_that_cannot_be_read_for_a_while_loses_nothing(delivery, monkeypatch):
    table, refused = Table(), []
    one = delivery(table)
    for n in range(3):
        one.spool.append(batch(n))
    opens = os.open

    def refuses(path, flags, *mode):
        if str(path).endswith(".spool") and len(refused) < 3:
            refused.append(time.monotonic())
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opens(path, flags, *mode)

    monkeypatch.setattr("tickring.storage.spool.os.open", refuses)
    replay(one)
    assert table.rows == {"trades": [0, 1, 2]}
    assert one.metrics.spool_broken.value == 0
    assert len(refused) == 3 and refused[2] - refused[0] >= 0.01, "it pauses between its attempts"


def test_batch_spooled_while_the_spool_is_found_empty_is_sent(delivery, monkeypatch):
    table = Table()
    one = delivery(table)
    first, late = one.spool.first, [batch(0)]

    def empty_then_not():
        window = first()
        if window is None and late:
            one.spool.append(late.pop())
        return window

    monkeypatch.setattr(one.spool, "first", empty_then_not)
    replay(one)
    assert (len(one.spool), table.rows) == (0, {"trades": [0]})


def test_detail_says_that_it_catches_up_and_how_many_batches_are_left(delivery):
    async def inside() -> None:
        table = Table()
        one = delivery(table)
        for n in range(300):
            one.spool.append(batch(n))
        assert one.detail()["clickhouse"]["reason"] == "starting"
        table.gate.clear()
        running = asyncio.ensure_future(one.run())
        await until(lambda: one.catching_up)
        told = one.detail()["clickhouse"]
        assert (told["up"], told["catching_up"], told["reason"]) == (False, True, "catching up: 300 batches left")
        assert one.metrics.up.value == 0, "what is new goes to the spool, behind what waits"
        table.gate.set()
        await until(lambda: one.up)
        told = one.detail()["clickhouse"]
        assert (told["up"], told["catching_up"], told["reason"]) == (True, False, "")
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(inside())
