"""Fills and positions on disk: one SQLite file, ``portfolio/fills.sqlite`` in the instance's data folder.

A batch of fills, the positions that follow from them, and how far each source has been read are one transaction, so a
crash at any point leaves all of it or nothing. The log is not synced at each commit: a SIGKILL takes nothing, and what
a loss of power takes are whole transactions at the end, together with the offsets that say they are missing. They are
read again, from the ring or from ClickHouse.

| table | one row for each |
|---|---|
| `position` | key (account, strategy, venue, symbol): what its instrument is, what it opened with, its state |
| `fill` | fill, in the order in which its key is folded; a fill is there once by (book, fill id) |
| `book` | account and venue: within it a fill id names a fill |
| `snapshot` | key and every `SNAPSHOT_EACH`th of its fills: the state after it, where a late fill begins to fold anew |
| `day` | key and UTC day with a fill: equity after the last of them |
| `close` | group and UTC day: what the marks last said beyond the fills; see `totals` |
| `mark` | key and one of the last UTC days: the last quote that it was valued at |
| `quoted` | currency of the report and settlement currency: the last rate that quotes said |
| `peak` | group: highest equity and largest drawdown seen |
| `rate` | currency of the report, settlement currency and UTC day: what changes of that day are converted with |
| `disagreement` | telling of a fill that says something else than the one that counts |
| `source` | ring of fills: its epoch, the next sequence wanted, whether its past was looked for |
| `seen` | topic and partition: the highest offset of which everything before has been folded |
| `hole` | topic and partition: offsets to be read from ClickHouse |

Money is kept as integers, as text where it does not fit 64 bits.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from .errors import StateDamaged, StateUnusable
from .fold import Execution, Order, State, Terms

log = logging.getLogger(__name__)

VERSION = 3
SNAPSHOT_EACH = 32
CACHE_KIB = 16_384
LOG_BYTES_KEPT = 8 << 20  # of the write-ahead log on disk, after it was copied into the file

_RATES = """
CREATE TABLE rate(currency, asset, day, rate, PRIMARY KEY(currency, asset, day)) WITHOUT ROWID;
"""
_MARKS = """
CREATE TABLE mark(key, day, price, seen_ns, PRIMARY KEY(key, day)) WITHOUT ROWID;
CREATE TABLE quoted(currency, asset, rate, seen_ns, PRIMARY KEY(currency, asset)) WITHOUT ROWID;
"""
# what opened with something is folded anew: the length of its first round trip was counted from 1970 on
_OPENINGS = "UPDATE position SET opening='' WHERE opening NOT LIKE '%],[0,%';"
_ADDED = {1: _RATES + _MARKS + _OPENINGS, 2: _MARKS + _OPENINGS}  # what a file of that version lacks
_SCHEMA = f"""
CREATE TABLE position(id INTEGER PRIMARY KEY, account, strategy, venue, symbol, terms, opening, state, ts_ns, fill_id);
CREATE TABLE book(id INTEGER PRIMARY KEY, account, venue);
CREATE TABLE fill(key, ts_ns, fill_id, book, body, PRIMARY KEY(key, ts_ns, fill_id)) WITHOUT ROWID;
CREATE UNIQUE INDEX fill_once ON fill(book, fill_id);
CREATE TABLE snapshot(key, ts_ns, fill_id, state, PRIMARY KEY(key, ts_ns, fill_id)) WITHOUT ROWID;
CREATE TABLE day(key, day, equity, PRIMARY KEY(key, day)) WITHOUT ROWID;
CREATE TABLE close(account, strategy, symbol, day, beyond, PRIMARY KEY(account, strategy, symbol, day)) WITHOUT ROWID;
CREATE TABLE peak(account, strategy, symbol, peak, drawdown, PRIMARY KEY(account, strategy, symbol)) WITHOUT ROWID;
{_RATES}{_MARKS}CREATE TABLE disagreement(book, fill_id, kept, other, PRIMARY KEY(book, fill_id, other)) WITHOUT ROWID;
CREATE TABLE source(producer PRIMARY KEY, epoch, sequence, searched) WITHOUT ROWID;
CREATE TABLE seen(topic, part, offset, PRIMARY KEY(topic, part)) WITHOUT ROWID;
CREATE TABLE hole(topic, part, first, last, PRIMARY KEY(topic, part)) WITHOUT ROWID;
"""

_state = msgspec.json.Decoder(State)
_terms = msgspec.json.Decoder(Terms)
_body = msgspec.json.Decoder(tuple[bool, int, int, int, str, int, int | None, int])
_encode = msgspec.json.encode
_FITS = 1 << 63


def stored(value: int) -> int | str:
    """An integer as it is kept: SQLite's have 64 bits."""
    return value if -_FITS <= value < _FITS else str(value)


class Store:
    """The file. For one thread of one process.

    A file that SQLite calls damaged is put aside, as ``fills.sqlite.damaged``, and a new one is begun: everything in it
    can be had from ClickHouse, as far back as raw events are kept there.

    Raises:
        StateUnusable: it cannot be made or opened.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fills.sqlite"
        self.broken = False  # a fold was cut short: memory and file are not whole
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateUnusable(f"portfolio {folder}: {error.strerror}: make room or mend its rights") from error
        with self.unusable():
            try:
                self._open()
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                if not _says_damaged(error):
                    raise
                self._put_aside(error)
                self._open()

    def _put_aside(self, error: Exception) -> None:
        log.error("portfolio=%s damaged (%s): put aside, its fills are read from ClickHouse", self.path, error)
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                old = self.path.with_name(self.path.name + suffix)
                old.rename(old.with_name(f"{self.path.name}.damaged{suffix}"))

    def _open(self) -> None:
        self.db = sqlite3.connect(self.path, isolation_level=None, cached_statements=256)
        execute = self.db.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        execute(f"PRAGMA journal_size_limit={LOG_BYTES_KEPT}")
        execute("PRAGMA wal_autocheckpoint=0")  # see `checkpoint`
        version = execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self.db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT")
        elif version in _ADDED:
            self.db.executescript(f"BEGIN;{_ADDED[version]}PRAGMA user_version={VERSION};COMMIT")
        elif version != VERSION:
            raise StateUnusable(
                f"portfolio {self.path}: version {version}, expected {VERSION}: move the file away, it is made anew"
            )

    @property
    def changing(self) -> bool:
        """Whether a transaction is open."""
        return self.db.in_transaction

    def begin(self) -> None:
        """Open a transaction, if none is."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Close it: all since `begin` is kept, whatever happens to this process.

        Raises:
            StateUnusable: what was to be kept is not whole.
        """
        if self.broken:
            raise StateUnusable(f"portfolio {self.path}: fills were folded in part: nothing of it is kept, start again")
        if self.db.in_transaction:
            self.db.execute("COMMIT")

    @contextlib.contextmanager
    def unusable(self) -> Iterator[None]:
        """What SQLite cannot do is our error. Memory is then ahead of the file: nothing helps but to start again.

        Raises:
            StateUnusable
        """
        try:
            yield
        except (sqlite3.Error, StateDamaged, UnicodeDecodeError) as error:
            if _says_damaged(error):
                self._put_aside(error)  # the next start begins a new one
            raise StateUnusable(
                f"portfolio {self.path}: {error}: make room on that disk, or mend its rights"
            ) from error

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the file. From another thread: it syncs, and nobody has to wait for it."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None, timeout=1.0)) as other:
            other.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def log_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except OSError:
            return 0

    def close(self) -> None:
        self.db.close()

    # -- positions ------------------------------------------------------------------------------------------------

    def positions(self) -> Iterator[tuple[int, tuple[str, str, str, str], Terms, str, State, Order]]:
        """`(id, key, terms, opening as JSON, state, last fill)` of each."""
        with _as_written():
            for row in self.db.execute("SELECT * FROM position"):
                number, account, strategy, venue, symbol, terms, opening, state, ts_ns, fill_id = row
                yield number, (account, strategy, venue, symbol), _terms.decode(terms), opening, _state.decode(state), (
                    ts_ns, fill_id,
                )  # fmt: skip

    def put_position(
        self, number: int, key: tuple[str, str, str, str], terms: Terms, opening: str, state: State, last: Order
    ) -> None:
        """Store a key for the first time, or with other terms."""
        self.db.execute(
            "INSERT OR REPLACE INTO position VALUES(?,?,?,?,?,?,?,?,?,?)",
            (number, *key, _encode(terms).decode(), opening, _encode(state), *last),
        )

    def put_states(self, rows: Iterable[tuple[int, State, Order]]) -> None:
        """Store the states of keys that have changed."""
        self.db.executemany(
            "UPDATE position SET state=?, ts_ns=?, fill_id=? WHERE id=?",
            [(_encode(state), *last, number) for number, state, last in rows],
        )

    def days(self) -> Iterator[tuple[int, int, int]]:
        """`(key, day, equity)`, in order."""
        with _as_written():
            for key, day, equity in self.db.execute("SELECT * FROM day"):
                yield key, day, int(equity)

    def put_days(self, rows: Iterable[tuple[int, int, int]]) -> None:
        self.db.executemany(
            "INSERT OR REPLACE INTO day VALUES(?,?,?)", [(key, day, stored(equity)) for key, day, equity in rows]
        )

    def drop_days(self, key: int, after: int) -> None:
        self.db.execute("DELETE FROM day WHERE key=? AND day>?", (key, after))

    # -- fills ----------------------------------------------------------------------------------------------------

    def books(self) -> dict[tuple[str, str], int]:
        return {(account, venue): number for number, account, venue in self.db.execute("SELECT * FROM book")}

    def put_book(self, number: int, account: str, venue: str) -> None:
        self.db.execute("INSERT INTO book VALUES(?,?,?)", (number, account, venue))

    def put_fill(self, key: int, book: int, execution: Execution) -> bool:
        """Add a fill; False where a telling of it is there."""
        row = (key, execution[0], execution[1], book, _encode(execution[2:]))
        return self.db.execute("INSERT OR IGNORE INTO fill VALUES(?,?,?,?,?)", row).rowcount > 0

    def find(self, book: int, fill_id: str) -> tuple[int, Execution]:
        """The telling of a fill that counts so far, and its key."""
        with _as_written():
            key, ts_ns, body = self.db.execute(
                "SELECT key, ts_ns, body FROM fill INDEXED BY fill_once WHERE book=? AND fill_id=?", (book, fill_id)
            ).fetchone()
            return key, Execution(ts_ns, fill_id, *_body.decode(body))

    def drop_fill(self, key: int, order: Order) -> None:
        self.db.execute("DELETE FROM fill WHERE key=? AND ts_ns=? AND fill_id=?", (key, *order))

    def put_rate(self, key: int, execution: Execution) -> None:
        """Store a fill that is there with another rate of its fee."""
        row = (_encode(execution[2:]), key, *execution.order)
        self.db.execute("UPDATE fill SET body=? WHERE key=? AND ts_ns=? AND fill_id=?", row)

    def fills(self, key: int, after: Order) -> Iterator[Execution]:
        """Fills of a key behind one, in order."""
        with _as_written():
            for ts_ns, fill_id, body in self.db.execute(
                "SELECT ts_ns, fill_id, body FROM fill WHERE key=? AND (ts_ns, fill_id)>(?,?) ORDER BY ts_ns, fill_id",
                (key, *after),
            ):
                yield Execution(ts_ns, fill_id, *_body.decode(body))

    def put_disagreement(self, book: int, kept: Execution, other: Execution) -> bool:
        """Keep a telling that says something else; False where it is there already."""
        row = (book, other.fill_id, _encode(kept).decode(), _encode(other).decode())
        return self.db.execute("INSERT OR IGNORE INTO disagreement VALUES(?,?,?,?)", row).rowcount > 0

    # -- snapshots ------------------------------------------------------------------------------------------------

    def put_snapshot(self, key: int, after: Order, state: State) -> None:
        self.db.execute("INSERT OR REPLACE INTO snapshot VALUES(?,?,?,?)", (key, *after, _encode(state)))

    def snapshot_before(self, key: int, order: Order) -> tuple[Order, State] | None:
        """The newest snapshot that a fill of this order does not touch; those behind are dropped."""
        with _as_written():
            self.db.execute("DELETE FROM snapshot WHERE key=? AND (ts_ns, fill_id)>=(?,?)", (key, *order))
            row = self.db.execute(
                "SELECT ts_ns, fill_id, state FROM snapshot WHERE key=? ORDER BY ts_ns DESC, fill_id DESC LIMIT 1",
                (key,),
            ).fetchone()
            return None if row is None else ((row[0], row[1]), _state.decode(row[2]))

    # -- groups ---------------------------------------------------------------------------------------------------

    def closes(self) -> Iterator[tuple[tuple[str, str, str], int, int]]:
        with _as_written():
            for account, strategy, symbol, day, beyond in self.db.execute("SELECT * FROM close"):
                yield (account, strategy, symbol), day, int(beyond)

    def peaks(self) -> Iterator[tuple[tuple[str, str, str], int, float]]:
        with _as_written():
            for account, strategy, symbol, peak, drawdown in self.db.execute("SELECT * FROM peak"):
                yield (account, strategy, symbol), int(peak), drawdown

    def rates(self, currency: str) -> Iterator[tuple[str, int, int]]:
        """`(asset, day, rate)` to the currency of the report, units of 1e-16."""
        with _as_written():
            for asset, day, rate in self.db.execute("SELECT asset, day, rate FROM rate WHERE currency=?", (currency,)):
                yield asset, day, int(rate)

    def put_rates(self, currency: str, rows: Iterable[tuple[str, int, int]]) -> None:
        self.db.executemany(
            "INSERT OR REPLACE INTO rate VALUES(?,?,?,?)",
            [(currency, asset, day, stored(rate)) for asset, day, rate in rows],
        )

    def put_groups(
        self,
        closes: Iterable[tuple[tuple[str, str, str], int, int]],
        peaks: Iterable[tuple[tuple[str, str, str], int, float]],
    ) -> None:
        self.db.executemany(
            "INSERT OR REPLACE INTO close VALUES(?,?,?,?,?)", [(*name, day, stored(n)) for name, day, n in closes]
        )
        self.db.executemany(
            "INSERT OR REPLACE INTO peak VALUES(?,?,?,?,?)", [(*name, stored(n), fall) for name, n, fall in peaks]
        )

    # -- what was seen of the market ------------------------------------------------------------------------------

    def marks(self) -> Iterator[tuple[int, int, int, int]]:
        """`(key, day, price, when it was seen)`, in order."""
        with _as_written():
            for key, day, price, seen_ns in self.db.execute("SELECT * FROM mark"):
                yield key, day, int(price), seen_ns

    def put_marks(self, rows: Iterable[tuple[int, int, int, int]]) -> None:
        self.db.executemany(
            "INSERT OR REPLACE INTO mark VALUES(?,?,?,?)",
            [(key, day, stored(price), seen_ns) for key, day, price, seen_ns in rows],
        )

    def drop_marks(self, before: int) -> None:
        """Drop those of the days before one."""
        self.db.execute("DELETE FROM mark WHERE day<?", (before,))

    def quoted(self, currency: str) -> Iterator[tuple[str, tuple[int, int]]]:
        """`(asset, (rate, when it was seen))` to the currency of the report, units of 1e-16."""
        with _as_written():
            query = "SELECT asset, rate, seen_ns FROM quoted WHERE currency=?"
            for asset, rate, seen_ns in self.db.execute(query, (currency,)):
                yield asset, (int(rate), seen_ns)

    def put_quoted(self, currency: str, rows: Iterable[tuple[str, tuple[int, int]]]) -> None:
        self.db.executemany(
            "INSERT OR REPLACE INTO quoted VALUES(?,?,?,?)",
            [(currency, asset, stored(rate), seen_ns) for asset, (rate, seen_ns) in rows],
        )

    # -- how far it has been read ---------------------------------------------------------------------------------

    def source(self, producer: str) -> tuple[int, int, bool] | None:
        """`(epoch, next sequence, whether partitions were looked for that the ring does not name)` of a ring."""
        query = "SELECT epoch, sequence, searched FROM source WHERE producer=?"
        return self.db.execute(query, (producer,)).fetchone()

    def put_source(self, producer: str, epoch: int, sequence: int, searched: bool) -> None:
        self.db.execute("INSERT OR REPLACE INTO source VALUES(?,?,?,?)", (producer, epoch, sequence, searched))

    def seen(self, topic: str) -> dict[int, int]:
        """Partition -> highest offset folded."""
        return dict(self.db.execute("SELECT part, offset FROM seen WHERE topic=?", (topic,)))

    def put_seen(self, topic: str, offsets: Iterable[tuple[int, int]]) -> None:
        self.db.executemany("INSERT OR REPLACE INTO seen VALUES(?,?,?)", [(topic, *pair) for pair in offsets])

    def holes(self, topic: str) -> dict[int, tuple[int, int | None]]:
        """Partition -> `(first, last)` offset to be read from ClickHouse; last is None while it is not known."""
        rows = self.db.execute("SELECT part, first, last FROM hole WHERE topic=?", (topic,))
        return {part: (first, last) for part, first, last in rows}

    def put_hole(self, topic: str, part: int, first: int, last: int | None) -> None:
        self.db.execute("INSERT OR REPLACE INTO hole VALUES(?,?,?,?)", (topic, part, first, last))

    def drop_hole(self, topic: str, part: int) -> None:
        self.db.execute("DELETE FROM hole WHERE topic=? AND part=?", (topic, part))


def _says_damaged(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # not SQLite's own, but the module's: a text, or what SQLite says of a table, is no UTF-8
        return isinstance(error, StateDamaged | sqlite3.OperationalError | UnicodeDecodeError)
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextlib.contextmanager
def _as_written() -> Iterator[None]:
    """For what is read back.

    Raises:
        StateDamaged: it is nothing that was written.
    """
    try:
        yield
    except (msgspec.MsgspecError, ValueError, TypeError, LookupError) as error:
        raise StateDamaged(f"damaged row: {error}") from error
