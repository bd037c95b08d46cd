"""The receiving end of the latency runs: keeps every frame with its arrival time, looks into them afterwards.

``python bench/client.py URL MESSAGES OUT [SUBSCRIBE_JSON]``: prints one JSON line when subscribed and one when it has
seen the last trade id; OUT gets a line ``trade_id arrival_ns price`` for each trade.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

_ID = re.compile(rb'"(?:a|trade_id)":\s?"?(\d+)')


class Receiver(WSListener):
    def __init__(self, last_id: int, first: asyncio.Event, done: asyncio.Event) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.last_id, self.first, self.done = last_id, first, done

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        now = time.monotonic_ns()
        payload = frame.get_payload_as_bytes()
        self.frames.append((now, payload))
        if not self.first.is_set():
            self.first.set()
        ids = _ID.findall(payload)
        if ids and int(ids[-1]) >= self.last_id:
            self.done.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()


def trades_of(message: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(trade id, price) of the trades in a frame of the exchange, of tickring or of the replaced design."""
    match message:
        case {"type": "update", "data": dict(one)}:
            yield int(one["trade_id"]), one["price"]
        case {"type": "batch", "data": list(many)}:
            for one in many:
                yield int(one["trade_id"]), one["price"]
        case {"type": "trade", "data": dict(one)}:
            yield int(one["trade_id"]), one["price"]
        case {"stream": _, "data": dict(one)}:
            yield int(one["a"]), one["p"]


async def main(url: str, last_id: int, out: str, subscribe: str) -> None:
    first, done = asyncio.Event(), asyncio.Event()
    transport, receiver = await ws_connect(lambda: Receiver(last_id, first, done), url)
    if subscribe:
        transport.send(WSMsgType.TEXT, subscribe.encode())
        while not any(b'"subscribed"' in payload for _, payload in receiver.frames):
            await asyncio.sleep(0.05)
    print(json.dumps({"ready": True}), flush=True)
    await done.wait()
    with open(out, "w") as file:
        for now, payload in receiver.frames:
            for trade_id, price in trades_of(json.loads(payload)):
                file.write(f"{trade_id} {now} {price}\n")
    print(json.dumps({"frames": len(receiver.frames)}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else ""))
