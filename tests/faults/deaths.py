"""How a campaign ends processes: at random, at a certain write, all at once, with shared memory and without."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator

from ..system.tree import alive, until
from .campaign import Campaign

NO_SHIM = "without a C compiler the daemon's processes cannot be ruled from outside"
DEDUPLICATION_WINDOW = 10_000  # as the tables are made
TABLES = ("trades", "quotes", "book_levels", "book_tops", "klines", "tickers", "mark_prices", "open_interests")
# Streams with the names of their journals: of those that are sampled it is another.
JOURNALS = {
    "feed-binance-spot-0.trade": "trades", "feed-binance-usdm-market-0.trade": "trades",
    "feed-binance-usdm-public-0.book_level": "book_levels", "feed-binance-usdm-market-0.mark_price": "mark_prices",
    "feed-binance-spot-0.quote.samples": "quotes", "feed-binance-usdm-public-0.book_top.samples": "book_tops",
}  # fmt: skip


def kill(campaign: Campaign, actors: list[str], within_s: float, rest_s: float) -> str:
    """SIGKILL, one after the other within a time; the last of them may hit an actor that is just starting."""
    for name in actors:
        campaign.signal(name, signal.SIGKILL)
        time.sleep(within_s / len(actors))
    time.sleep(rest_s)
    return f"{campaign.kills} kills so far"


def stop(campaign: Campaign, actor: str, seconds: float) -> str:
    pid = campaign.signal(actor, signal.SIGSTOP)
    time.sleep(seconds)
    if alive(pid):
        os.kill(pid, signal.SIGCONT)
        return "went on"
    return "was replaced by the supervisor"


def hold_engine(campaign: Campaign, seconds: float) -> str:
    """No engine answers until the spool is full and its oldest rows yield: who is started anew is stopped again."""
    stopped: set[int] = set()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid = campaign.tree.actor("clickhouse")["pid"] or 0
        if pid > 0 and pid not in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
        time.sleep(0.05)
    lost = campaign.tree.metric("tickring_storage_lost_rows_total")
    for pid in filter(alive, stopped):
        os.kill(pid, signal.SIGCONT)
    return f"{len(stopped)} processes stopped, {lost:.0f} rows given up by this writer"


def kill_in_replay(campaign: Campaign, away_s: float, after_s: float) -> str:
    """The engine stands still until batches go to the spool; while they are replayed the writer is killed."""
    pid = campaign.signal("clickhouse", signal.SIGSTOP)
    time.sleep(away_s)
    spooled = campaign.tree.metric("tickring_storage_spool_batches")
    if alive(pid):
        os.kill(pid, signal.SIGCONT)
    time.sleep(after_s)
    campaign.signal("writer", signal.SIGKILL)
    return f"{spooled:.0f} batches were in the spool"


def kill_at_mark(campaign: Campaign, stream: str, table: str, skip: int, forgotten: bool) -> str:
    """ClickHouse has a batch of a stream, and the writer dies before its journal says so.

    Args:
        skip: so many batches are let through first.
        forgotten: the server does not remember the batch either when it is sent again.
    """
    if not campaign.shim.works:
        return campaign.skip("kill_at_mark", NO_SHIM)
    window = 0 if forgotten else DEDUPLICATION_WINDOW
    with _tokens(campaign, table, window):
        campaign.shim.arm(f"{stream}.journal", marks_only=True, skip=skip)
        died = _await_death(campaign)
        campaign.calm()
        time.sleep(2.0)
    return f"process {died} died" if died else "nobody died"


def kill_at_replay(campaign: Campaign, away_s: float, skip: int, forgotten: bool) -> str:
    """ClickHouse has batches out of the spool, and the writer dies before the spool says so."""
    if not campaign.shim.works:
        return campaign.skip("kill_at_replay", NO_SHIM)
    window = 0 if forgotten else DEDUPLICATION_WINDOW
    with contextlib.ExitStack() as stack:
        for table in TABLES:
            stack.enter_context(_tokens(campaign, table, window))
        pid = campaign.signal("clickhouse", signal.SIGSTOP)
        time.sleep(away_s)
        spooled = campaign.tree.metric("tickring_storage_spool_batches")
        campaign.shim.arm("spool/head", skip=skip)
        if alive(pid):
            os.kill(pid, signal.SIGCONT)
        died = _await_death(campaign)
        campaign.calm()
        time.sleep(2.0)
    return f"{spooled:.0f} batches in the spool, {f'process {died} died' if died else 'nobody died'}"


def _await_death(campaign: Campaign) -> int:
    """Wait for what was armed; the process that died, 0 = none."""
    with contextlib.suppress(AssertionError):
        until("a process to die", campaign.shim.died, 20.0)
    died = campaign.shim.disarm()
    campaign.kills += bool(died)
    return died


@contextlib.contextmanager
def _tokens(campaign: Campaign, table: str, window: int) -> Iterator[None]:
    """The server remembers so many inserts into a table, and later as many as before."""

    def remember(count: int) -> None:
        with contextlib.suppress(OSError, AssertionError):  # it is away, or has no such table yet
            campaign.tree.select(
                f"ALTER TABLE tickring.{table} MODIFY SETTING non_replicated_deduplication_window = {count}"
            )

    remember(window)
    try:
        yield
    finally:
        remember(DEDUPLICATION_WINDOW)


def reboot(campaign: Campaign, without: list[str], within_s: float, away_s: float, drained: bool) -> str:
    """What a reboot leaves: nothing runs, shared memory is empty, the disk is as it was.

    Args:
        without: actors that stand still for a while before, and whose work is therefore behind.
        away_s: how long the machine is off.
        drained: the daemon is told to end before; else everything is killed.
    """
    tree = campaign.tree
    assert tree.process is not None
    if drained:
        tree.stop()
    else:
        for name in without:
            campaign.signal(name, signal.SIGSTOP)
        time.sleep(within_s)
        pids = [tree.process.pid, *tree.pids()]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        tree.process.wait()
        until("all processes to end", lambda: not any(map(alive, pids)))
    shutil.rmtree(tree.folder, ignore_errors=True)
    time.sleep(away_s)
    began = time.monotonic()
    tree.start().ready()
    return f"ready again after {time.monotonic() - began:.1f} s"


def kill_daemon(campaign: Campaign) -> str:
    """SIGKILL the supervisor; a new one goes on with the rings."""
    tree = campaign.tree
    pids = tree.pids()
    assert tree.process is not None
    tree.process.kill()
    tree.process.wait()
    until("all processes to end", lambda: not any(map(alive, pids)))
    began = time.monotonic()
    tree.start().ready()
    return f"ready again after {time.monotonic() - began:.1f} s"


def restart_daemon(campaign: Campaign) -> str:
    """SIGTERM: a drain, and a start on the same rings."""
    tree = campaign.tree
    code = tree.stop()
    if code:
        campaign.trouble.append(f"a drain ended with {code}: {tree.logged(5)}")
    tree.start().ready()
    return f"exit code {code}"
