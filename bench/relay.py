"""The bare peer of the latency runs: picows client and server in one process, frames passed on as they are.

``python bench/relay.py URL``: prints one JSON line with its port.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server


class Downstream(WSListener):
    def __init__(self, clients: list[WSTransport]) -> None:
        self.clients = clients

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.clients.append(transport)


class Upstream(WSListener):
    def __init__(self, clients: list[WSTransport]) -> None:
        self.clients = clients

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        payload = frame.get_payload_as_bytes()
        for client in self.clients:
            client.send(WSMsgType.TEXT, payload)


async def main(url: str) -> None:
    clients: list[WSTransport] = []
    server = await ws_create_server(lambda _request: Downstream(clients), "127.0.0.1", 0)
    await ws_connect(lambda: Upstream(clients), url)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
