"""A feed killed with SIGKILL at any moment: the next one continues its rings."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from tickring.actors.gaps import gaps_path, read_gaps

from .feeding import (
    SPOT_NAMES,
    SYMBOLS,
    Running,
    exchange,
    exchange_book,
    feed_config,
    freeze,
    make_streams,
    row_book,
    sent,
    until,
)

_PROCESS = """
import asyncio, sys, time
from pathlib import Path
import msgspec
from tickring.actors.feed import Config, main
from tickring.actors.runtime import ActorContext
from tickring.ringbuf import MetricsPage
folder, data = Path(sys.argv[1]), Path(sys.argv[2])
config = msgspec.json.decode(sys.argv[3], type=Config)
async def run():
    page = MetricsPage(folder, "feed-test", time.time_ns())
    ctx = ActorContext(name="feed-test", kind="feed", folder=folder, data=data, config=config, page=page)
    ctx.stop_on_signals()
    await main(ctx)
asyncio.run(run())
"""


def start(folder: Path, data: Path, config: bytes) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _PROCESS, str(folder), str(data), config.decode()])


def test_feed_killed_under_load_continues_epoch_numbering_and_books(shm: Path, tmp_path: Path) -> None:
    kills = 3

    async def scenario() -> None:
        async with exchange(rate=1500.0) as simulator:
            config = feed_config(simulator)
            make_streams(shm, "feed-test", config)
            encoded = msgspec.json.encode(config)
            running = Running(shm, "feed-test")
            epoch = running.reader("trade").epoch
            process = start(shm, tmp_path, encoded)
            try:
                for round_ in range(kills):
                    goal = len(running.rows("trade")) + 300
                    await until(lambda: len(running.rows("trade")) >= goal, f"300 trades in round {round_}")  # noqa: B023
                    os.kill(process.pid, 9)
                    process.wait()
                    process = start(shm, tmp_path, encoded)
                goal = len(running.rows("trade")) + 300
                await until(lambda: len(running.rows("trade")) >= goal, "300 trades at the end")
                await freeze(simulator)
                running.key("BTC-USDT")
                for symbol, name in zip(SYMBOLS, SPOT_NAMES, strict=True):
                    last = sent(simulator, "spot", f"{symbol.lower()}@trade")[-1]["t"]
                    await until(lambda: int(running.rows("trade", name)["trade_id"][-1]) == last, f"{name} is there")  # noqa: B023
                    rows = running.rows("trade", name)
                    assert rows["nth"].tolist() == list(range(len(rows)))
                    lost = [
                        i
                        for gap in read_gaps(gaps_path(tmp_path, "feed-test"))
                        if gap.instrument == name and gap.kind == "trade"
                        for i in range(gap.first_id, gap.last_id + 1)
                    ]
                    ids = rows["trade_id"].tolist()
                    assert sorted(ids + lost) == list(range(ids[0], ids[-1] + 1)), name
                    book = exchange_book(simulator, "spot", symbol, 20)
                    await until(lambda: row_book(running.top(name)) == book, f"book of {name}")  # noqa: B023
                reader = running.reader("trade")
                assert reader.epoch == epoch
                assert reader.producer_pid == process.pid
                for record in ("trade", "quote", "book_level"):
                    rows = running.rows(record)
                    for key_id in set(rows["key_id"].tolist()):
                        nth = rows["nth"][rows["key_id"] == key_id].tolist()
                        assert nth == list(range(len(nth))), record
                process.terminate()
                assert process.wait(timeout=60) == 0
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                running.close()

    asyncio.run(scenario())
