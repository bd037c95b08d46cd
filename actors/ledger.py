"""What one address has spent of an exchange's request limits, shared by all processes that spend it.

An exchange limits an address, not a process: every process that calls REST or opens a WebSocket asks this ledger
first. One file for each exchange, ``<exchange>.ledger``; check and reservation are one step under the file's lock,
which the kernel gives back when its holder dies. Every store leaves the file in a state that may be read: a process
killed half-way has either spent its weight or not.

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 8 | magic | |
| 8 | 8 | layout_version | |
| 64 | 64 x 63 | budgets | rows, see below; a row is in use once its name is there |

A budget, all words u64:

| offset | size | field | meaning |
|---|---|---|---|
| 0 | 16 | name | UTF-8, zero padded; stored last |
| 16 | 8 | limit | weight that the exchange allows in a window |
| 24 | 8 | window_ns | length of a window; windows are aligned to the UNIX epoch, as the exchanges count theirs |
| 32 | 8 | window | number of the window that `used` belongs to |
| 40 | 8 | used | weight reserved in it, by all processes; corrected upward by what the exchange reports |
| 48 | 8 | blocked_until_ns | wall clock; nobody gets anything before it (`Retry-After`) |
| 56 | 8 | refusals | how often the exchange has refused a request (429, 418) |
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import random
import struct
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path

from ..ringbuf.errors import DirectoryFull, LayoutMismatch, TickringError
from ..ringbuf.segment import SHARED_MODE, create_segment, locked, open_segment

MAGIC = int.from_bytes(b"TICKLEDG", "little")
LAYOUT_VERSION = 1
FILE_SIZE = mmap.PAGESIZE
BUDGETS_AT = 64
BUDGET = struct.Struct("<16s6Q")
BUDGETS = (FILE_SIZE - BUDGETS_AT) // BUDGET.size
LIMIT, WINDOW_NS, WINDOW, USED, BLOCKED_UNTIL, REFUSALS = range(2, 8)  # words of a row
assert BUDGET.size == 64

SECOND_NS = 1_000_000_000
BLOCK_MAX_S = 3 * 86_400.0  # the longest ban that Binance documents
RETRY_AFTER_DEFAULT_S = 60.0  # a refusal that does not say how long
JITTER_S = 0.25  # waiters come back one after the other and not all with the new window
SLEEP_MAX_S = 5.0  # a waiter looks again: another process may have raised the limit


class BudgetExceeded(TickringError):
    """A request weighs more than a whole window allows, or the patience of the caller."""


class Priority(Enum):
    """Which share of a window a kind of request may fill. The rest is kept for those above it."""

    SNAPSHOT = 0.9  # what a running feed needs now: a book, the list of instruments, a connection
    BACKFILL = 0.6  # history: never in the way of a snapshot
    ON_DEMAND = 0.4  # history that somebody asked for: never in the way of what a feed lacks


def ledger_filename(exchange: str) -> str:
    return f"{exchange}.ledger"


def create_ledger(path: Path) -> None:
    """Make the file unless it is there; of several processes that try at once, one makes it."""
    if path.exists():
        return

    def fill(memory: mmap.mmap) -> None:
        memory[0:16] = struct.pack("<QQ", MAGIC, LAYOUT_VERSION)

    fresh = path.with_name(f".{path.name}.new.{os.getpid()}")
    create_segment(fresh, FILE_SIZE, fill, mode=SHARED_MODE)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename it never replaces a file that others already have mapped
    finally:
        os.unlink(fresh)


class Ledger:
    """One exchange's file, attached. Made at first use by whoever comes first.

    Args:
        folder: the instance's folder.
        exchange: whose limits.
        clock: wall clock, UNIX ns.

    Raises:
        LayoutMismatch, NoSpace
    """

    def __init__(self, folder: Path, exchange: str, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = folder / ledger_filename(exchange)
        create_ledger(self.path)
        self._fd, self._memory = open_segment(self.path, writable=True)
        self.words = memoryview(self._memory).cast("Q")
        self.clock = clock
        if self.words[0] != MAGIC or self.words[1] != LAYOUT_VERSION:
            found = self.words[1]
            self.close()
            raise LayoutMismatch(
                f"ledger {self.path}: layout_version {found}, expected {LAYOUT_VERSION}: "
                "an older daemon made it: stop that daemon, remove the file, then start again"
            )

    def budget(self, name: str, limit: int, window_s: float) -> Budget:
        """The budget of that name, made with this limit at first use.

        Raises:
            DirectoryFull: no room for another.
        """
        label = name.encode()
        assert 0 < len(label) <= 16, f"budget name {name!r}: 1 to 16 bytes"
        with locked(self._fd):
            for row in range(BUDGETS):
                at = BUDGETS_AT + row * BUDGET.size
                found = self._memory[at : at + 16].rstrip(b"\0")
                if found == label:
                    break
                if not found:
                    numbers = (limit, round(window_s * SECOND_NS), 0, 0, 0, 0)
                    self._memory[at + 16 : at + BUDGET.size] = BUDGET.pack(b"", *numbers)[16:]
                    self._memory[at : at + 16] = label.ljust(16, b"\0")
                    break
            else:
                raise DirectoryFull(f"ledger {self.path.name}: all {BUDGETS} budgets are taken, {name!r} has no place")
        return Budget(self, name, at // 8)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        return locked(self._fd)

    def close(self) -> None:
        self.words.release()
        self._memory.close()
        os.close(self._fd)


class Budget:
    """One limit: so much weight in each window."""

    def __init__(self, ledger: Ledger, name: str, row: int) -> None:
        self.ledger = ledger
        self.name = name
        self._words = ledger.words
        self._row = row

    @property
    def limit(self) -> int:
        return self._words[self._row + LIMIT]

    @property
    def used(self) -> int:
        """Weight reserved in the present window."""
        window = self.ledger.clock() // self._words[self._row + WINDOW_NS]
        return self._words[self._row + USED] if self._words[self._row + WINDOW] == window else 0

    @property
    def blocked_until_ns(self) -> int:
        return self._words[self._row + BLOCKED_UNTIL]

    @property
    def refusals(self) -> int:
        return self._words[self._row + REFUSALS]

    def try_reserve(self, weight: int, priority: Priority = Priority.SNAPSHOT) -> float:
        """Reserve `weight` now, or say how long to wait before asking again.

        Returns:
            0.0 when it is reserved, else seconds: until the window ends or the block is over.

        Raises:
            BudgetExceeded: it would not fit an empty window either.
        """
        words, row = self._words, self._row
        with self.ledger.lock():
            now = self.ledger.clock()  # read under the lock: the windows that processes see never go back
            room = int(words[row + LIMIT] * priority.value)
            if weight > room:
                raise BudgetExceeded(
                    f"budget {self.name}: a request weighs {weight}, {priority.name.lower()} requests may use {room} "
                    f"of {words[row + LIMIT]} in a window: ask for less at once"
                )
            blocked = words[row + BLOCKED_UNTIL] - now
            if 0 < blocked <= BLOCK_MAX_S * SECOND_NS:
                return blocked / SECOND_NS
            used = self._turn_window(now)
            if used + weight > room:
                length = words[row + WINDOW_NS]
                return (length - now % length) / SECOND_NS
            words[row + USED] = used + weight
            return 0.0

    def _turn_window(self, now: int) -> int:
        """What is used in the window of `now`; begins the window if it is a new one."""
        words, row = self._words, self._row
        window = now // words[row + WINDOW_NS]
        if words[row + WINDOW] != window:
            words[row + USED] = 0
            words[row + WINDOW] = window
        return words[row + USED]

    async def reserve(
        self, weight: int, priority: Priority = Priority.SNAPSHOT, patience_s: float | None = None
    ) -> float:
        """Wait until `weight` is reserved; returns the seconds waited.

        Raises:
            BudgetExceeded: it takes longer than `patience_s`, or can never be.
        """
        started = time.monotonic()
        while True:
            wait = self.try_reserve(weight, priority)
            waited = time.monotonic() - started
            if not wait:
                return waited
            if patience_s is not None and waited + wait > patience_s:
                raise BudgetExceeded(
                    f"budget {self.name}: weight {weight} is free in {wait:.1f} s, the caller waits {patience_s:.1f} s"
                )
            await asyncio.sleep(min(wait + random.uniform(0.0, JITTER_S), SLEEP_MAX_S))

    def window(self) -> int:
        """Number of the present window: remember it with a request, see `observe`."""
        return self.ledger.clock() // self._words[self._row + WINDOW_NS]

    def observe(self, used: int, window: int) -> None:
        """Correct upward by what the exchange says was used; ignored once `window`, in which the request left, is over.

        The exchange also counts what other programs behind the same address spend.
        """
        with self.ledger.lock():
            now = self.ledger.clock()
            if now // self._words[self._row + WINDOW_NS] == window and self._turn_window(now) < used:
                self._words[self._row + USED] = used

    def set_limit(self, limit: int) -> None:
        """Take over the limit that the exchange publishes."""
        if limit > 0:
            with self.ledger.lock():
                self._words[self._row + LIMIT] = limit

    def refused(self, retry_after_s: float | None) -> float:
        """The exchange refused a request: nobody asks again for so long. Returns the seconds that are blocked."""
        seconds = RETRY_AFTER_DEFAULT_S if retry_after_s is None else retry_after_s
        seconds = min(max(seconds, 0.0), BLOCK_MAX_S)
        with self.ledger.lock():
            until = self.ledger.clock() + round(seconds * SECOND_NS)
            self._words[self._row + BLOCKED_UNTIL] = max(until, self._words[self._row + BLOCKED_UNTIL])
            self._words[self._row + REFUSALS] += 1
        return seconds
