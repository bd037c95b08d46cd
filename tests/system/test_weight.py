"""Request weight of an address that several processes share, as the exchange counts it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from tickring.actors.ledger import Ledger

from .tree import fetch

PROCESSES = 4
LIMIT = 1000
DEPTH_WEIGHT = 5  # of `depth` with up to 100 levels
LAST = 100  # units of our share of the limit, nine tenths, that are left when the race begins
ENDLESS_S = 86_400.0 * 36_500  # a window that does not end during the test; it began at the UNIX epoch
ANSWER_S = 60.0

RACER = f"""
import asyncio, sys
from pathlib import Path
from tickring.actors.feed.rest import RestClient
from tickring.actors.ledger import BudgetExceeded, Ledger

async def main(folder, url):
    ledger = Ledger(Path(folder), "binance")
    client = RestClient(url, ledger.budget("weight", {LIMIT}, {ENDLESS_S}), {ANSWER_S}, lambda status: None)
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    try:
        while True:
            await client.get("/api/v3/depth?symbol=BTCUSDT&limit=5", {DEPTH_WEIGHT}, patience_s=0.0)
            done += 1
    except BudgetExceeded:  # nothing is left of this window
        print(done, flush=True)
    await client.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_four_processes_racing_for_the_last_units_never_exceed_what_the_exchange_counts(shm: Path):
    limits = {"messages_per_s_max": 5, "streams_max": 1024, "ping_interval_s": 20.0, "pong_timeout_s": 60.0,
              "weight_max": LIMIT, "weight_window_s": ENDLESS_S}  # fmt: skip
    config = {"spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": ["BTCUSDT"], "spot": limits}
    simulator = subprocess.Popen(
        [sys.executable, "-m", "tickring.actors.simulator", "--with-parent", "--config-json", json.dumps(config)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=shm,
    )  # fmt: skip
    racers: list[subprocess.Popen[str]] = []
    try:
        urls = json.loads(simulator.stdout.readline())
        for _ in range(PROCESSES):
            command = [sys.executable, "-c", RACER, str(shm), urls["spot_rest"]]
            racers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=shm, text=True))
            assert racers[-1].stdout.readline() == "ready\n"
        spend(shm, urls["spot_rest"], LIMIT * 9 // 10 - LAST)
        for racer in racers:
            racer.stdin.write("go\n")
            racer.stdin.flush()
        done = [int(racer.communicate(timeout=120)[0]) for racer in racers]
        spot = fetch(f"{urls['control']}/status").json["products"]["spot"]
        (account,) = spot["weights"].values()
        assert spot["rest_refused"] == 0
        assert sum(done) * DEPTH_WEIGHT == LAST, done
        assert account["used_max"] == account["used"] == LIMIT * 9 // 10
    finally:
        for process in (*racers, simulator):
            process.kill()
            process.communicate()


def spend(folder: Path, url: str, weight: int) -> None:
    """Bring ledger and exchange to the same count."""
    ledger = Ledger(folder, "binance")
    budget = ledger.budget("weight", LIMIT, ENDLESS_S)
    for _ in range(weight // DEPTH_WEIGHT):
        assert budget.try_reserve(DEPTH_WEIGHT) == 0.0
        urllib.request.urlopen(f"{url}/api/v3/depth?symbol=BTCUSDT&limit=5", timeout=30).close()
    ledger.close()
