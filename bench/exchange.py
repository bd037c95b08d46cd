"""A bare exchange for latency runs: aggregate trades at an exact rate, the send time of each kept by its id.

``python bench/exchange.py --rate 1000 --symbols 20 --times FILE``: prints one JSON line with its port. Aggregate ids
count by symbol, as the real ones do; the first and last trade id of each are its number over all symbols. Speaks just
enough of Binance spot: ``GET /api/v3/exchangeInfo``, and WebSocket connections that get every frame once ``--clients``
of them are there. Frames are written by a thread of its own with plain sockets, so that the exchange's own cost is one
system call a frame. The monotonic time right before that call is stored at ``8 x id`` of FILE.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import mmap
import os
import socket
import struct
import sys
import threading
import time

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def symbols_of(n: int) -> list[str]:
    return [f"S{i:03d}USDT" for i in range(n)]


def exchange_info(symbols: list[str]) -> bytes:
    return json.dumps({
        "timezone": "UTC", "serverTime": int(time.time() * 1000),
        "rateLimits": [{"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": 6000}],
        "symbols": [{
            "symbol": s, "status": "TRADING", "baseAsset": s.removesuffix("USDT"), "quoteAsset": "USDT",
            "baseAssetPrecision": 8, "quoteAssetPrecision": 8, "quotePrecision": 8,
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000.00", "tickSize": "0.01000000"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001000", "maxQty": "9000.00", "stepSize": "0.00001000"},
            ],
        } for s in symbols],
    }).encode()  # fmt: skip


def price_of(trade_id: int) -> str:
    """A price that follows from the id, so that a receiver can check the content."""
    return f"{60_000 + trade_id % 10_000}.{trade_id % 100:02d}"


def frame_of(symbol: str, aggregate_id: int, trade_id: int, now_ms: int) -> bytes:
    payload = (
        f'{{"stream":"{symbol.lower()}@aggTrade","data":{{"e":"aggTrade","E":{now_ms},"s":"{symbol}","a":{aggregate_id},'
        f'"p":"{price_of(trade_id)}","q":"0.01234000","f":{trade_id},"l":{trade_id},"T":{now_ms},"m":true,"M":true}}}}'
    ).encode()
    return struct.pack("!BBH", 0x81, 126, len(payload)) + payload


class Exchange:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.symbols = symbols_of(arguments.symbols)
        self.info = exchange_info(self.symbols)
        self.clients: list[socket.socket] = []
        self.ready = threading.Event()
        fd = os.open(arguments.times, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 8 * (arguments.messages + 1))
        self.times = memoryview(mmap.mmap(fd, 8 * (arguments.messages + 1))).cast("Q")

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            headers = {
                k.strip().lower(): v.strip()
                for k, _, v in (line.partition(b":") for line in request.split(b"\r\n")[1:])
            }
            if b"sec-websocket-key" in headers:
                break
            body = self.info if b"exchangeInfo" in request else b"{}"
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-MBX-USED-WEIGHT-1M: 20\r\n"
                b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
            )
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID).digest())
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n"
        )  # fmt: skip
        self.clients.append(connection)
        if len(self.clients) >= self.arguments.clients:
            self.ready.set()
        while connection.recv(65536):  # subscriptions need no answer here: every client gets everything
            pass

    def send_all(self) -> None:
        self.ready.wait()
        sys.stdin.readline()  # the bench says when everybody has subscribed
        interval = 1.0 / self.arguments.rate
        burst = max(1, self.arguments.rate // 2000)  # above 2,000 a second several frames leave at one wake-up
        times, clients, symbols, n = self.times, self.clients, self.symbols, len(self.symbols)
        start = time.monotonic()
        trade_id = 0
        while trade_id < self.arguments.messages:
            delay = start + trade_id * interval - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            now_ms = int(time.time() * 1000)
            for _ in range(min(burst, self.arguments.messages - trade_id)):
                trade_id += 1
                frame = frame_of(symbols[trade_id % n], 1000 + trade_id // n, trade_id, now_ms)
                times[trade_id] = time.monotonic_ns()
                for client in clients:
                    client.sendall(frame)
        print(json.dumps({"sent": trade_id, "seconds": time.monotonic() - start}), flush=True)
        sys.stdin.readline()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--symbols", type=int, default=20)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--times", required=True)
    exchange = Exchange(parser.parse_args())
    listener = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=exchange.accept, args=(listener,), daemon=True).start()
    exchange.send_all()


if __name__ == "__main__":
    main()
