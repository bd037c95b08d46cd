"""The portfolio: restart with 10^7 fills to exact positions, fills folded a second, and how soon one is a position.

    python bench/portfolio.py [--quick]

The fills of one key are folded and then copied under many names by SQLite itself, which makes 10^7 of them in a minute.
The portfolio is then started on them with 2,000 more in the ring of its topic, some of them late, killed and started
again; what it publishes is compared with a fold of all fills in order.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from harness import Line, percentile

from tickring.actors import portfolio as actor
from tickring.actors.portfolio.book import Book, Telling
from tickring.actors.portfolio.fold import RATE_UNIT, Execution, State, Terms, fold, to_units
from tickring.actors.portfolio.store import SNAPSHOT_EACH, Store, stored
from tickring.actors.runtime import ActorContext
from tickring.codecs.desk.canonical import Fill
from tickring.codecs.desk.money import UNIT, amount_of
from tickring.codecs.desk.records import FILL, POSITION, TEXTS, VARIANT_SHIFT
from tickring.ringbuf import (
    ByteRingWriter,
    KeyWriter,
    MetricsPage,
    StreamReader,
    StreamWriter,
    bytes_filename,
    create_byte_ring,
    create_keys,
    create_stream,
    keys_filename,
    make_bell,
    page,
    read_page,
)

LIMIT_RESTART_S = 5.0
KEYS = 200
TAIL = 2000
DAY = 86_400 * 10**9
BEGIN = 1_741_080_000 * 10**9
PRODUCER = "topic-exec-reports-v1"
TERMS = Terms()


def executions(n: int, seed: int = 1) -> list[Execution]:
    """A year of fills of one key, in order."""
    rng = random.Random(seed)
    step = 365 * DAY // n
    price, found = 8_000_000_000_000, []
    for i in range(n):
        price += rng.randrange(-(10**9), 10**9)
        found.append(Execution(
            BEGIN + i * step, f"{i:08x}", rng.random() < 0.5, rng.randrange(1, 10**9), price, rng.randrange(10**6),
            "USDT", RATE_UNIT, None, 1,
        ))  # fmt: skip
    return found


def key_of(number: int) -> tuple[str, str, str, str]:
    return f"acct-{number % 4}", f"strategy-{number % 5}", "binance", f"S{number}USDT"


def build(folder: Path, fills: list[Execution]) -> None:
    """A store in which each of `KEYS` keys has these fills."""
    store = Store(folder)
    db, encode = store.db, msgspec.json.encode
    state, days, snapshots = State(), {}, []
    for execution in fills:
        fold(state, execution, TERMS)
        days[execution.ts_ns // DAY] = state.equity(TERMS)
        if not state.fills % SNAPSHOT_EACH:
            snapshots.append((execution.ts_ns, execution.fill_id, encode(state)))
    db.execute("PRAGMA synchronous=OFF")
    db.execute("CREATE TEMP TABLE one(ts_ns, fill_id, body)")
    db.execute("CREATE TEMP TABLE kept(ts_ns, fill_id, state)")
    store.begin()
    db.executemany("INSERT INTO one VALUES(?,?,?)", [(e.ts_ns, e.fill_id, encode(e[2:])) for e in fills])
    db.executemany("INSERT INTO kept VALUES(?,?,?)", snapshots)
    for number in range(1, KEYS + 1):
        account, _, venue, _ = key_of(number)
        if (account, venue) not in store.books():
            store.put_book(len(store.books()) + 1, account, venue)
        last = (fills[-1].ts_ns, f"{number:04x}{fills[-1].fill_id}")
        store.put_position(number, key_of(number), TERMS, encode((TERMS, State())).decode(), state, last)
    db.execute("DROP INDEX fill_once")
    book = "(SELECT id FROM book WHERE book.account = p.account)"
    db.execute(
        f"INSERT INTO fill SELECT p.id, o.ts_ns, printf('%04x', p.id) || o.fill_id, {book}, o.body "
        "FROM position p, one o ORDER BY p.id, o.rowid"
    )
    db.execute(
        "INSERT INTO snapshot SELECT p.id, k.ts_ns, printf('%04x', p.id) || k.fill_id, k.state "
        "FROM position p, kept k ORDER BY p.id, k.rowid"
    )
    db.executemany(
        "INSERT INTO day VALUES(?,?,?)",
        [(number, day, stored(equity)) for number in range(1, KEYS + 1) for day, equity in days.items()],
    )
    db.execute("CREATE UNIQUE INDEX fill_once ON fill(book, fill_id)")
    store.commit()
    store.checkpoint()
    store.close()


class Topic:
    """The ring of a topic, with what a test puts in."""

    def __init__(self, shm: Path, bell: int) -> None:
        now = time.time_ns()
        spec = FILL.spec(PRODUCER, capacity=1 << 14, keys_max=8)
        create_keys(shm / keys_filename(PRODUCER), 8)
        create_byte_ring(shm / bytes_filename(PRODUCER, TEXTS), 1 << 24, now)
        create_stream(shm, spec, now)
        self.texts = ByteRingWriter(shm / bytes_filename(PRODUCER, TEXTS))
        self.keys = KeyWriter(shm / keys_filename(PRODUCER))
        self.keys.add("all", {"account_id": "all"})
        self.writer = StreamWriter(shm, spec, (bell,), now)
        self.writer.add_key(0)
        self.publish = self.writer.publisher(FILL.struct, FILL.values)
        self.offset = 0

    def put(self, key: tuple[str, str, str, str], e: Execution) -> None:
        account, strategy, venue, symbol = key
        text = msgspec.json.encode(Fill(
            fill_id=e.fill_id, symbol=symbol, side="SELL" if e.sell else "BUY", quantity=e.quantity, price=e.price,
            commission=e.commission, commission_asset=e.asset, timestamp=e.ts_ns, strategy_id=strategy,
            account_id=account, venue=venue,
        ))  # fmt: skip
        at, none = self.texts.append(text), bytes(16)
        self.publish(0, time.time_ns(), e.ts_ns, 1 << VARIANT_SHIFT, none, none, none, self.offset, at, len(text), 0, 0)
        self.offset += 1


def _main(shm: str, data: str, bell: int) -> None:
    import uvloop

    async def work() -> None:
        metrics = MetricsPage(Path(shm), "portfolio", time.time_ns())
        config = actor.Config(clickhouse=actor.Config().clickhouse)
        ctx = ActorContext("portfolio", "portfolio", Path(shm), Path(data), config, metrics, (bell,), 0)
        ctx.stop_on_signals()
        await actor.main(ctx)

    uvloop.run(work())


def _start(shm: Path, data: Path, bell: int) -> tuple[Any, float, float]:
    """The process, the seconds until its positions were published, and the CPU seconds in them."""
    (shm / "portfolio.page").unlink(missing_ok=True)
    process = multiprocessing.get_context("fork").Process(target=_main, args=(str(shm), str(data), bell), daemon=True)
    began = time.monotonic()
    process.start()
    while True:
        path = shm / "portfolio.page"
        if path.exists() and read_page(path).state == page.State.RUNNING:
            break
        assert process.is_alive(), "the portfolio ended"
        time.sleep(0.002)
    seconds = time.monotonic() - began
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return process, seconds, (int(fields[11]) + int(fields[12])) / 100


def positions(shm: Path) -> dict[tuple[str, ...], tuple[int, ...]]:
    reader = StreamReader(shm, "portfolio", POSITION.name, POSITION.dtype)
    found = {}
    for key in reader.keys:
        row = reader.latest(key.key_id) if "venue" in key.attributes else None
        if row is not None:
            found[tuple(key.attributes.values())] = tuple(
                amount_of(bytes(row[name])) for name in ("quantity", "cost", "realized_pnl", "fees")
            )
    reader.close()
    return found


def restart(n: int) -> list[Line]:
    """Time of a restart with `n` fills, twice, and what it published."""
    shm = Path(tempfile.mkdtemp(prefix="tickring-bench-", dir="/dev/shm"))
    data = Path(tempfile.mkdtemp(prefix="tickring-bench-"))
    fills, process = executions(n // KEYS), None
    try:
        began = time.monotonic()
        build(data / "portfolio", fills)
        built = time.monotonic() - began
        size = sum(path.stat().st_size for path in (data / "portfolio").iterdir())
        for spec in actor.streams("portfolio", actor.Config()):
            create_stream(shm, spec, time.time_ns())
        create_keys(shm / keys_filename("portfolio"), actor.Config().keys_max)
        bell = make_bell()
        topic, rng = Topic(shm, bell), random.Random(2)
        tail: dict[int, list[Execution]] = {}
        for i in range(TAIL):
            number = rng.randrange(1, KEYS + 1)
            late = rng.randrange(3 * DAY) if i % 5 == 0 else 0
            execution = Execution(
                BEGIN + 366 * DAY + i * 10**9 - late, f"tail-{i}", rng.random() < 0.5, rng.randrange(1, 10**9),
                8_000_000_000_000, 1000, "USDT", RATE_UNIT, None, 1,
            )  # fmt: skip
            tail.setdefault(number, []).append(execution)
            topic.put(key_of(number), execution)
        expected, end = {}, State()
        for execution in fills:
            fold(end, execution, TERMS)
        for number in range(1, KEYS + 1):
            more = sorted(tail.get(number, []), key=lambda e: e.order)
            state = end.copy()
            if more and more[0].ts_ns < fills[-1].ts_ns:
                state, more = State(), sorted([*fills, *more], key=lambda e: e.order)
            for execution in more:
                fold(state, execution, TERMS)
            expected[key_of(number)] = _figures(state)
        times = []
        for _ in range(2):
            process, seconds, cpu = _start(shm, data, bell)
            times.append((seconds, cpu))
            found = positions(shm)
            wrong = [key for key, figures in expected.items() if found.get(key) != figures]
            assert not wrong and len(found) == KEYS, f"wrong positions: {wrong}, {len(found)} of {KEYS}"
            process.kill()  # at once: the second start has what the first had not committed to do again
            process.join()
        process, _, _ = _start(shm, data, bell)
        waits = _latency(shm, topic, 500)
    finally:
        if process is not None and process.is_alive():
            process.kill()
            process.join()
        shutil.rmtree(shm, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)
    detail = f"{n:,} fills in {KEYS} keys and {TAIL} in the ring; file {size / 1e9:.1f} GB, built in {built:.0f} s; "
    detail += "first and second start " + ", ".join(f"{seconds:.2f} s (CPU {cpu:.2f})" for seconds, cpu in times)
    return [
        Line("portfolio: restart to exact positions", max(times)[0], "s", LIMIT_RESTART_S, detail=detail),
        Line(
            "portfolio: fill in its ring to position, p50", percentile(waits, 0.5) * 1e6, "us", None,
            detail=f"p99 {percentile(waits, 0.99) * 1e6:.0f} us, one fill each 2 ms",
        ),
    ]  # fmt: skip


def _figures(state: State) -> tuple[int, ...]:
    return state.quantity, to_units(state.cost), to_units(state.realized), to_units(state.fees)


def _latency(shm: Path, topic: Topic, n: int) -> list[float]:
    """Seconds from the publishing of a fill until its position is published."""
    reader = StreamReader(shm, "portfolio", POSITION.name, POSITION.dtype)
    waits = []
    for i in range(n):
        time.sleep(0.002)
        before, began = reader.published(), time.perf_counter()
        topic.put(key_of(1), Execution(BEGIN + 400 * DAY + i, f"wait-{i}", False, UNIT, UNIT))
        while reader.published() == before:
            pass
        waits.append(time.perf_counter() - began)
    reader.close()
    return waits


def fold_rate(n: int) -> Line:
    """Fills per CPU-second with everything that belongs to them: look-up, fold, file."""
    folder = Path(tempfile.mkdtemp(prefix="tickring-bench-"))
    rng = random.Random(3)
    try:
        book = Book(
            Store(folder), lambda venue, symbol: (TERMS, False), lambda key, terms: State(), lambda *of: RATE_UNIT
        )
        tellings = [
            Telling(key_of(rng.randrange(KEYS)), e._replace(fill_id=f"{rng.getrandbits(64):016x}"), RATE_UNIT)
            for e in executions(n)
        ]
        began = time.process_time()
        for start in range(0, n, 4096):
            book.apply(tellings[start : start + 4096])
            book.store.commit()
        rate = n / (time.process_time() - began)
        book.store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Line("portfolio: fills folded and stored", rate, "fills/CPU-s", None, "higher", f"{n:,}, random fill ids")


def run(quick: bool = False) -> list[Line]:
    """The lines of this suite."""
    return [*restart(1_000_000 if quick else 10_000_000), fold_rate(100_000 if quick else 300_000)]


if __name__ == "__main__":
    import sys

    for line in run(quick="--quick" in sys.argv):
        print(f"{line.name}: {line.value:.3g} {line.unit} ({line.verdict}) {line.detail}")
