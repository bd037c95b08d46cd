"""One request-weight ledger for all processes of an address."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import msgspec
import pytest

from tickring.actors.feed.config import Config
from tickring.actors.feed.protocol import connect_budget, weight_budget
from tickring.actors.ledger import BUDGETS, Budget, BudgetExceeded, Ledger, Priority
from tickring.codecs.binance.rest import WEIGHT_PER_MINUTE
from tickring.ringbuf import LayoutMismatch
from tickring.ringbuf.errors import DirectoryFull

MINUTE_NS = 60 * 10**9
NOW = 1_700_000_000 * 10**9 // MINUTE_NS * MINUTE_NS + 5 * 10**9  # five seconds into a minute


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now


def make(folder: Path, clock: Clock | None = None, limit: int = 1000) -> tuple[Ledger, Budget]:
    ledger = Ledger(folder, "binance", clock=clock or time.time_ns)
    return ledger, ledger.budget("weight", limit, 60.0)


def run_child(folder: Path, body: str) -> subprocess.Popen[bytes]:
    source = "from pathlib import Path\nfrom tickring.actors.ledger import *\n" + textwrap.dedent(body)
    return subprocess.Popen([sys.executable, "-c", source, str(folder)], stdout=subprocess.PIPE)


def test_budget_spends_up_to_its_share_then_waits_for_the_next_minute(tmp_path: Path) -> None:
    clock = Clock()
    ledger, budget = make(tmp_path, clock)
    assert budget.try_reserve(850) == 0.0
    assert budget.try_reserve(51) == pytest.approx(55.0)
    assert budget.try_reserve(50) == 0.0
    assert budget.used == 900
    clock.now += 55 * 10**9
    assert budget.used == 0
    assert budget.try_reserve(51) == 0.0
    ledger.close()


def test_backfill_leaves_room_for_snapshots(tmp_path: Path) -> None:
    ledger, budget = make(tmp_path, Clock())
    assert budget.try_reserve(600, Priority.BACKFILL) == 0.0
    assert budget.try_reserve(1, Priority.BACKFILL) > 0
    assert budget.try_reserve(300, Priority.SNAPSHOT) == 0.0
    ledger.close()


def test_budget_refuses_what_never_fits(tmp_path: Path) -> None:
    ledger, budget = make(tmp_path, Clock())
    with pytest.raises(BudgetExceeded, match="weighs 901"):
        budget.try_reserve(901)
    ledger.close()


def test_budget_is_corrected_upward_by_the_exchange_and_never_downward(tmp_path: Path) -> None:
    clock = Clock()
    ledger, budget = make(tmp_path, clock)
    window = budget.window()
    budget.try_reserve(100)
    budget.observe(40, window)
    assert budget.used == 100
    budget.observe(870, window)
    assert budget.used == 870
    assert budget.try_reserve(31) > 0
    clock.now += MINUTE_NS
    budget.observe(900, window)  # says something about a minute that is over
    assert budget.used == 0
    ledger.close()


def test_refusal_blocks_every_process_until_retry_after(tmp_path: Path) -> None:
    clock = Clock()
    ledger, budget = make(tmp_path, clock)
    other_ledger, other = make(tmp_path, clock)
    assert budget.refused(90.0) == 90.0
    assert other.try_reserve(1) == pytest.approx(90.0)
    budget.refused(10.0)  # a shorter one does not lift it
    clock.now += 89 * 10**9
    assert other.try_reserve(1) == pytest.approx(1.0)
    clock.now += 10**9
    assert other.try_reserve(1) == 0.0
    assert other.refusals == 2
    ledger.close()
    other_ledger.close()


def test_published_limit_replaces_the_documented_one(tmp_path: Path) -> None:
    ledger, budget = make(tmp_path, Clock())
    budget.set_limit(2000)
    assert budget.try_reserve(1800) == 0.0
    again = ledger.budget("weight", 1000, 60.0)
    assert (again.limit, again.used) == (2000, 1800)
    ledger.close()


def test_changed_configuration_changes_the_limits_of_a_file_that_is_there(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path, Clock())
    assert weight_budget(ledger, "usdm", None).limit == WEIGHT_PER_MINUTE["usdm"]
    assert connect_budget(ledger, feed_config()).limit == 150
    weight_budget(ledger, "usdm", 100).try_reserve(90)
    assert weight_budget(ledger, "usdm", 200).limit == 200
    again = weight_budget(ledger, "usdm", None)
    assert (again.limit, again.used) == (200, 90), "until the published one is read"
    assert connect_budget(ledger, feed_config(connection_attempts_max=20)).limit == 10
    assert connect_budget(ledger, feed_config()).limit == 150
    ledger.close()


def test_fewest_connection_attempts_that_may_be_configured_let_a_feed_connect(tmp_path: Path) -> None:
    with pytest.raises(msgspec.ValidationError, match="connection_attempts_max"):
        feed_config(connection_attempts_max=3)
    ledger, _ = make(tmp_path, Clock())
    assert connect_budget(ledger, feed_config(connection_attempts_max=4)).try_reserve(1) == 0.0
    ledger.close()


def feed_config(connection_attempts_max: int = 300) -> Config:
    return msgspec.convert(
        {
            "product": "usdm", "tier": "market", "symbols": [], "channels": [], "ws_url": "ws://x",
            "rest_url": "http://x", "connection_attempts_max": connection_attempts_max,
        },
        Config,
    )  # fmt: skip


def test_clock_stepped_back_begins_a_window_and_keeps_working(tmp_path: Path) -> None:
    clock = Clock()
    ledger, budget = make(tmp_path, clock)
    budget.try_reserve(900)
    budget.refused(3600.0)
    clock.now -= 30 * 86_400 * 10**9
    assert budget.try_reserve(10) == 0.0  # a block further away than the longest ban is a stepped clock
    ledger.close()


def test_reserve_waits_for_the_window_and_gives_up_when_patience_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        ledger = Ledger(tmp_path, "binance")
        budget = ledger.budget("fast", 10, 0.2)
        assert await budget.reserve(9) < 0.1
        await budget.reserve(9)
        slow = ledger.budget("slow", 10, 3600.0)
        await slow.reserve(9)
        with pytest.raises(BudgetExceeded, match="the caller waits"):
            await slow.reserve(9, patience_s=0.01)
        ledger.close()

    asyncio.run(scenario())


def test_four_processes_racing_for_the_last_units_never_exceed(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "binance")
    budget = ledger.budget("race", 10_000, 86_400.0 * 36_500)  # a window that does not end during the test
    budget.try_reserve(8_900)
    body = """
        import sys
        budget = Ledger(Path(sys.argv[1]), "binance").budget("race", 10_000, 1.0)
        print("ready", flush=True)
        while not (Path(sys.argv[1]) / "go").exists():
            pass
        print(sum(budget.try_reserve(1) == 0.0 for _ in range(500)), flush=True)
    """
    children = [run_child(tmp_path, body) for _ in range(4)]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    (tmp_path / "go").touch()
    got = [int(child.communicate(timeout=60)[0].split()[-1]) for child in children]
    assert sum(got) == 100, got
    assert budget.used == 9_000
    ledger.close()


def test_process_killed_while_it_holds_the_lock_blocks_nobody(tmp_path: Path) -> None:
    ledger, budget = make(tmp_path)
    body = """
        import sys, time
        ledger = Ledger(Path(sys.argv[1]), "binance")
        ledger.budget("weight", 1000, 60.0)
        with ledger.lock():
            print("locked", flush=True)
            time.sleep(60)
    """
    child = run_child(tmp_path, body)
    assert child.stdout is not None and child.stdout.readline() == b"locked\n"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate(timeout=60)
    assert budget.try_reserve(1) == 0.0
    ledger.close()


def test_processes_killed_at_random_moments_leave_a_ledger_that_adds_up(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "binance")
    budget = ledger.budget("kill", 1 << 40, 86_400.0 * 36_500)
    body = """
        import sys
        budget = Ledger(Path(sys.argv[1]), "binance").budget("kill", 1, 1.0)
        print("ready", flush=True)
        while True:
            budget.try_reserve(1)
    """
    before = 0
    for round_ in range(5):
        child = run_child(tmp_path, body)
        assert child.stdout is not None and child.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 60
        while budget.used < before + 100 * (round_ + 1) and time.monotonic() < deadline:
            time.sleep(0.001)
        child.kill()
        child.communicate(timeout=60)
        assert budget.try_reserve(1) == 0.0
        assert budget.used > before
        before = budget.used
    ledger.close()


def test_ledger_made_by_several_processes_at_once_is_one_file(tmp_path: Path) -> None:
    body = """
        import sys
        ledger = Ledger(Path(sys.argv[1]), "binance")
        budget = ledger.budget("weight", 1000, 86_400.0 * 36_500)
        assert budget.try_reserve(10) == 0.0
    """
    children = [run_child(tmp_path, body) for _ in range(4)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0, 0]
    for child in children:
        child.communicate()
    ledger = Ledger(tmp_path, "binance")
    assert ledger.budget("weight", 1000, 60.0).used == 40
    assert [path.name for path in tmp_path.iterdir()] == ["binance.ledger"]
    ledger.close()


def test_ledger_full_of_budgets_is_a_named_error(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, "binance")
    for i in range(BUDGETS):
        ledger.budget(f"b{i}", 1, 1.0)
    with pytest.raises(DirectoryFull, match="'one-more' has no place"):
        ledger.budget("one-more", 1, 1.0)
    ledger.close()


def test_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    make(tmp_path)[0].close()
    path = tmp_path / "binance.ledger"
    with open(path, "r+b") as file:
        file.seek(8)
        file.write(b"\x63")
    with pytest.raises(LayoutMismatch, match="layout_version 99"):
        Ledger(tmp_path, "binance")
