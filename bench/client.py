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
from pathlib import Path
from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

_ID = re.compile(rb'"(?:f|first_trade_id)":\s?"?(\d+)')


class Receiver(WSListener):
    ids = _ID  # finds the ids of what is counted in a frame

    def __init__(self, last_id: int, subscribed: asyncio.Event, done: asyncio.Event) -> None:
        self.frames: list[tuple[int, bytes]] = []
        self.seen = 0
        self.last_id, self.subscribed, self.done = last_id, subscribed, done

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type != WSMsgType.TEXT:
            return
        now = time.monotonic_ns()
        payload = frame.get_payload_as_bytes()
        self.frames.append((now, payload))
        if not self.subscribed.is_set() and b'"subscribed"' in payload:
            self.subscribed.set()
        ids = self.ids.findall(payload)
        self.seen += len(ids)
        if self.seen >= self.last_id:
            self.done.set()
        elif ids and int(ids[-1]) >= self.last_id:  # a fan-out may send other symbols' last ones after it
            asyncio.get_running_loop().call_later(3.0, self.done.set)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.done.set()


def trades_of(message: dict[str, Any]) -> Iterator[tuple[int, str]]:
    """(trade id, price) of the trades in a frame of the exchange, of tickring or of the replaced design."""
    match message:
        case {"type": "update", "data": dict(one)}:
            yield int(one["first_trade_id"]), one["price"]
        case {"type": "batch", "data": list(many)}:
            for one in many:
                yield int(one["first_trade_id"]), one["price"]
        case {"type": "trade", "data": dict(one)}:
            yield int(one["first_trade_id"]), one["price"]
        case {"stream": _, "data": dict(one)}:
            yield int(one["f"]), one["p"]


async def main(url: str, last_id: int, out: str, subscribe: str) -> None:
    subscribed, done = asyncio.Event(), asyncio.Event()
    transport, receiver = await ws_connect(lambda: Receiver(last_id, subscribed, done), url)
    if subscribe:
        transport.send(WSMsgType.TEXT, subscribe.encode())
        await subscribed.wait()
    print(json.dumps({"ready": True}), flush=True)
    await done.wait()
    Path(out).write_text(
        "".join(
            f"{trade_id} {now} {price}\n"
            for now, payload in receiver.frames
            for trade_id, price in trades_of(json.loads(payload))
        )
    )
    print(json.dumps({"frames": len(receiver.frames)}), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else ""))
