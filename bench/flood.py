"""Aggregate trades from a socket as fast as one core takes them: tickring's feed beside its peers on the same socket.

The simulator sends frames encoded beforehand, each receiver runs alone, and what counts is CPU time of the receiver for
each message. Peers: bare picows with the typed decode and nothing else, cryptofeed, and `websockets` counting frames.

``python bench/flood.py`` measures; ``python bench/flood.py receive KIND JSON`` is one receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvloop
from harness import Line

COINS = 20
STREAMS_PATH = "/stream?streams="


@contextlib.contextmanager
def simulator(source: dict[str, Any]) -> Iterator[dict[str, str]]:
    """A simulator of spot with so many coins; yields its addresses."""
    config = source | {"symbols": COINS, "spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "products": ["spot"]}
    process = subprocess.Popen(
        [sys.executable, "-m", "tickring.actors.simulator", "--with-parent", "--config-json", json.dumps(config)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def natives(urls: dict[str, str]) -> list[str]:
    with urllib.request.urlopen(urls["spot_rest"] + "/api/v3/exchangeInfo") as answer:
        return [one["symbol"] for one in json.load(answer)["symbols"]]


def measure(kind: str, messages: int) -> float | None:
    """CPU seconds of one receiver for each message; None where its library is not installed."""
    flood = {"source": "flood", "messages": messages, "start": "command", "flood_distinct": 100_000}
    with simulator(flood) as urls:
        arguments = {**urls, "messages": messages, "symbols": natives(urls)}
        receiver = subprocess.Popen(
            [sys.executable, __file__, "receive", kind, json.dumps(arguments)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert receiver.stdout is not None
            if not receiver.stdout.readline():
                return None
            time.sleep(1.0)  # its subscription is on the way
            with urllib.request.urlopen(urllib.request.Request(urls["control"] + "/start", method="POST")):
                pass
            result = json.loads(receiver.stdout.readline())
            with contextlib.suppress(subprocess.TimeoutExpired):
                receiver.wait(20)  # it removes its rings
        finally:
            receiver.kill()
            receiver.wait()
        return result["cpu"] / result["messages"]


# -- receivers: print a line when subscribed, and one with the CPU seconds used once all messages are there


def ready() -> float:
    print("{}", flush=True)
    return time.process_time()


def done(start: float, messages: int) -> None:
    print(json.dumps({"cpu": time.process_time() - start, "messages": messages}), flush=True)


def stream_url(arguments: dict[str, Any]) -> str:
    streams = "/".join(f"{native.lower()}@aggTrade" for native in arguments["symbols"])
    return arguments["spot_ws"] + STREAMS_PATH + streams


async def receive_tickring(arguments: dict[str, Any]) -> None:
    from tickring.actors.feed import Config, main, streams
    from tickring.actors.runtime import ActorContext
    from tickring.ringbuf import MetricsPage, StreamReader, create_keys, create_stream, keys_filename

    with (
        tempfile.TemporaryDirectory(prefix="tickring-bench-", dir="/dev/shm") as name,
        tempfile.TemporaryDirectory() as data,
    ):
        folder = Path(name)
        config = Config(
            product="spot", tier="spot", channels=["agg_trade"],
            ws_url=arguments["spot_ws"], rest_url=arguments["spot_rest"],
            symbols=[native.removesuffix("USDT") + "-USDT" for native in arguments["symbols"]],
        )  # fmt: skip
        create_keys(folder / keys_filename("feed"), config.keys_max)
        for spec in streams("feed", config):
            create_stream(folder, spec, time.time_ns())
        page = MetricsPage(folder, "feed", time.time_ns())
        ctx = ActorContext(name="feed", kind="feed", folder=folder, data=Path(data), config=config, page=page)
        running = asyncio.create_task(main(ctx))
        reader = StreamReader(folder, "feed", "trade")
        while page.detail.get("state") != "connected":  # noqa: ASYNC110 - another actor's page has no event
            await asyncio.sleep(0.05)
        start = ready()
        while reader.published() < arguments["messages"]:  # noqa: ASYNC110 - shared memory has no event
            await asyncio.sleep(0.05)
        done(start, reader.published())
        ctx.stop()
        await running
        reader.close()


async def receive_bare(arguments: dict[str, Any]) -> None:
    import msgspec
    from decode import Combined
    from picows import WSFrame, WSListener, WSTransport, ws_connect

    decode = msgspec.json.Decoder(Combined, strict=False).decode
    count = 0

    class Listener(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            nonlocal count
            decode(frame.get_payload_as_bytes())
            count += 1

    await ws_connect(Listener, stream_url(arguments), read_buffer_init_size=256 * 1024)
    start = ready()
    while count < arguments["messages"]:  # noqa: ASYNC110 - the callback stays bare
        await asyncio.sleep(0.05)
    done(start, count)


async def receive_websockets(arguments: dict[str, Any]) -> None:
    import websockets

    async with websockets.connect(stream_url(arguments), compression=None, max_queue=None) as connection:
        start = ready()
        for _ in range(arguments["messages"]):
            await connection.recv(decode=False)
        done(start, arguments["messages"])


async def receive_cryptofeed(arguments: dict[str, Any]) -> None:
    """cryptofeed's own message handler behind `websockets`, the connection it uses itself, without its scheduler."""
    import websockets
    from cryptofeed.defines import TRADES
    from cryptofeed.exchanges import Binance
    from cryptofeed.symbols import Symbols

    names = {native.removesuffix("USDT") + "-USDT": native for native in arguments["symbols"]}
    Symbols.set("BINANCE", names, {})

    async def on_trade(trade: Any, received: float) -> None:
        pass

    feed = Binance(symbols=list(names), channels=[TRADES], callbacks={TRADES: on_trade})
    async with websockets.connect(stream_url(arguments), compression=None, max_queue=None) as connection:
        start = ready()
        for _ in range(arguments["messages"]):
            await feed.message_handler(await connection.recv(), None, time.time())
        done(start, arguments["messages"])


RECEIVERS = {
    "tickring": receive_tickring, "bare": receive_bare,
    "websockets": receive_websockets, "cryptofeed": receive_cryptofeed,
}  # fmt: skip


def run(quick: bool = False) -> list[Line]:
    messages = 300_000 if quick else 1_000_000
    costs: dict[str, float | None] = {}
    for kind in RECEIVERS:
        n = messages if kind in ("tickring", "bare") else messages // 10
        found = [measure(kind, n) for _ in range(1 if quick else 3)]
        costs[kind] = None if None in found else min(cost for cost in found if cost is not None)
    ours, bare = costs["tickring"], costs["bare"]
    assert ours and bare
    detail = ", ".join(f"{kind} {1 / cost:,.0f} msg per CPU-second" for kind, cost in costs.items() if cost)
    lines = [Line("aggTrade, socket to ring", bare / ours, "x bare picows + decode", 0.45, "higher", detail)]
    for kind, limit in (("cryptofeed", 4.0), ("websockets", None)):
        cost = costs[kind]
        lines.append(Line(f"the same beside {kind}", cost / ours if cost else None, f"x {kind}", limit, "higher"))
    return lines


if __name__ == "__main__":
    if sys.argv[1:2] == ["receive"]:
        with contextlib.suppress(ImportError):
            uvloop.run(RECEIVERS[sys.argv[2]](json.loads(sys.argv[3])))
    else:
        for line in run(quick="--quick" in sys.argv):
            print(line)
