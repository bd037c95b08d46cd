"""Clients that mean harm to the front, over plain sockets. Each returns what it achieved, as text."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import socket
import struct
import time
from collections import Counter

HOST = "127.0.0.1"
TIMEOUT_S = 5.0


def _answer(sock: socket.socket) -> str:
    """Status of an HTTP answer, or how the connection ended."""
    try:
        head = sock.recv(4096)
    except TimeoutError:
        return "no answer"
    except OSError:
        return "reset"
    return head.split(b" ", 2)[1].decode() if head.startswith(b"HTTP/") else "closed"


def _upgraded(port: int, receive_bytes: int = 0) -> socket.socket:
    """A connection to the WebSocket side, whose answer to the upgrade is not read yet."""
    sock = socket.socket()
    sock.settimeout(TIMEOUT_S)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.connect((HOST, port))
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /ws/v1 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return sock


def _frame(payload: bytes, opcode: int = 1) -> bytes:
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + struct.pack(">H", size)
    else:
        length = b"\xff" + struct.pack(">Q", size)
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload  # masked with zeros


def storm(port: int, connects: int, seconds: float) -> str:
    """Connect and hang up, evenly spread over the time, as fast as this process can."""
    begin = time.monotonic()
    done = failed = 0
    interval = seconds / connects
    while done + failed < connects and time.monotonic() - begin < 4 * seconds:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT is left
        try:
            sock.connect((HOST, port))
        except BlockingIOError:
            pass
        except OSError:
            failed += 1
        done += 1
        sock.close()
        ahead = begin + done * interval - time.monotonic()
        if ahead > 0.001:
            time.sleep(ahead)
    spent = time.monotonic() - begin
    return f"{done} connects at {done / spent:,.0f}/s, {failed} refused"


def slowloris(port: int, connections: int, seconds: float) -> str:
    """Requests that never end: a header byte now and then."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.create_connection((HOST, port), TIMEOUT_S)) for _ in range(connections)]
        for sock in socks:
            sock.setblocking(False)
            sock.send(b"GET /api/v1/health HTTP/1.1\r\nX-Slow: ")
        end = time.monotonic() + seconds
        ended = 0
        while time.monotonic() < end and socks:
            for sock in list(socks):
                try:
                    sock.send(b"a")
                except OSError:
                    socks.remove(sock)
                    ended += 1
            time.sleep(0.5)
    return f"{connections} requests without end, {ended} were cut"


def oversized(port: int) -> str:
    """Frames, bodies, headers and request lines far beyond every limit."""
    got: Counter[str] = Counter()
    requests = {
        "line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        "header": b"GET / HTTP/1.1\r\nHost: x\r\nX-Big: " + b"y" * 200_000 + b"\r\n\r\n",
        "headers": b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: 1\r\n" * 5000 + b"\r\n",
        "body": b"POST /api/v1/trades HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n" + b"z" * 30_000_000,
        "said body": b"POST /api/v1/trades HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
    }
    for what, request in requests.items():
        with socket.create_connection((HOST, port), TIMEOUT_S) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(request)
            got[f"{what} {_answer(sock)}"] += 1
    for what, frame in {
        "frame": _frame(b"f" * 2_000_000),
        "said frame": b"\x81\xff" + struct.pack(">Q", 1 << 62) + b"\0\0\0\0",
        "control": _frame(b"p" * 4000, opcode=9),
    }.items():
        with _upgraded(port) as sock:
            with contextlib.suppress(OSError):
                sock.recv(4096)  # the upgrade
                sock.sendall(frame)
            got[f"{what} {_end(sock)}"] += 1
    return ", ".join(got)


def _end(sock: socket.socket) -> str:
    """Close code of a WebSocket, or how else it ended."""
    data = b""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        try:
            more = sock.recv(65_536)
        except TimeoutError:
            break
        except OSError:
            return "reset"
        if not more:
            break
        data += more
        at = data.rfind(b"\x88")
        if at >= 0 and len(data) >= at + 4:
            return str(struct.unpack(">H", data[at + 2 : at + 4])[0])
    return "closed without a code" if data else "closed"


def slow_reader(port: int, channels: list[str], seconds: float) -> str:
    """Subscribe to everything with the smallest of receive buffers, ask for more and more, and read nothing."""
    keys = ("channel", "exchange", "market_type", "symbol")
    wanted: list[dict[str, object]] = [dict(zip(keys, name.split("."), strict=True)) for name in channels]
    for one in wanted:
        one |= {"from_seq": 0, "depth": 400} if one["channel"] == "book" else {"from_seq": 0}
    begin = time.monotonic()
    with _upgraded(port, 2048) as sock:
        sock.sendall(_frame(json.dumps({"op": "subscribe", "channels": wanted}).encode()))
        more = _frame(json.dumps({"op": "snapshot", "channel": next(n for n in channels if "book" in n)}).encode())
        poll = select.poll()
        poll.register(sock, select.POLLHUP | select.POLLERR)
        while time.monotonic() < begin + seconds:
            try:
                if poll.poll(50):
                    raise ConnectionResetError
                sock.sendall(more)
            except OSError:
                return f"was cut after {time.monotonic() - begin:.1f} s"
    return "was kept"
