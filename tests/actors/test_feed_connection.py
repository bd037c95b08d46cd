"""One WebSocket connection: frames, fragments, pings, ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from tickring.actors.feed.connection import Connection, connect

from .feeding import until


class Server(WSListener):
    """The other end: keeps what it is sent."""

    def __init__(self) -> None:
        self.transport: WSTransport | None = None
        self.frames: list[tuple[Any, bytes]] = []
        self.gone = False

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        self.frames.append((frame.msg_type, frame.get_payload_as_bytes()))

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.gone = True

    def send(self, kind: WSMsgType, payload: bytes, *, fin: bool = True) -> None:
        assert self.transport is not None
        self.transport.send(kind, payload, fin=fin)


class Pair:
    def __init__(
        self, message_bytes_max: int = 1 << 20, feed: Callable[[Sequence[bytes], int], object] | None = None
    ) -> None:
        self.taken: list[tuple[bytes, int]] = []
        self.ended: list[Connection] = []
        self.server = Server()
        take = feed or (lambda messages, ts: self.taken.extend((message, ts) for message in messages))
        self.connection = Connection(1, take, lambda message, ts: None, message_bytes_max, self.ended.append)

    def run(self, scenario: Callable[[Pair], Awaitable[None]]) -> None:
        async def go() -> None:
            server = await ws_create_server(lambda request: self.server, "127.0.0.1", 0, enable_auto_pong=False)
            port = server.sockets[0].getsockname()[1]
            try:
                await connect(f"ws://127.0.0.1:{port}/stream", self.connection, 5.0, 1 << 20)
                await until(lambda: self.server.transport is not None, "the server's side")
                await scenario(self)
            finally:
                self.connection.fail("test is over")
                await until(lambda: self.connection.is_closed, "the end of the connection")
                server.close()

        asyncio.run(go())


def test_connection_hands_on_frames_in_order_with_one_time_for_each_read() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        for i in range(100):
            pair.server.send(WSMsgType.TEXT, b"%d" % i)
        await until(lambda: len(pair.taken) == 100, "100 frames")
        assert [payload for payload, _ in pair.taken] == [b"%d" % i for i in range(100)]
        times = [ts for _, ts in pair.taken]
        assert times == sorted(times) and times[0] > 1_600_000_000 * 10**9
        assert pair.connection.frames == 100
        assert pair.connection.bytes == 190

    pair.run(scenario)


def test_connection_joins_a_message_that_comes_in_fragments() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        pair.server.send(WSMsgType.TEXT, b'{"a"', fin=False)
        pair.server.send(WSMsgType.PING, b"in between")
        pair.server.send(WSMsgType.CONTINUATION, b":1", fin=False)
        pair.server.send(WSMsgType.CONTINUATION, b"}")
        pair.server.send(WSMsgType.TEXT, b"next")
        await until(lambda: len(pair.taken) == 2, "two messages")
        assert [payload for payload, _ in pair.taken] == [b'{"a":1}', b"next"]

    pair.run(scenario)


def test_connection_takes_binary_and_stray_continuation_as_messages_for_the_decoder_to_refuse() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        pair.server.send(WSMsgType.BINARY, b"\x00\x01")
        pair.server.send(WSMsgType.CONTINUATION, b"of nothing")
        pair.server.send(WSMsgType.TEXT, b"next")
        await until(lambda: len(pair.taken) == 3, "three messages")
        assert [payload for payload, _ in pair.taken] == [b"\x00\x01", b"of nothing", b"next"]

    pair.run(scenario)


def test_connection_with_endless_fragments_is_dropped_at_a_limit() -> None:
    pair = Pair(message_bytes_max=1000)

    async def scenario(pair: Pair) -> None:
        pair.server.send(WSMsgType.TEXT, b"x" * 600, fin=False)
        pair.server.send(WSMsgType.CONTINUATION, b"x" * 600, fin=False)
        await until(lambda: pair.ended, "the end")
        assert pair.connection.reason.startswith("oversized")
        assert pair.taken == []

    pair.run(scenario)


def test_connection_answers_a_ping_with_its_payload() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        pair.server.send(WSMsgType.PING, b"1700000000000")
        await until(lambda: pair.server.frames, "the pong")
        assert pair.server.frames == [(WSMsgType.PONG, b"1700000000000")]
        assert pair.taken == []

    pair.run(scenario)


def test_connection_closed_by_the_exchange_says_with_which_code() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        assert pair.server.transport is not None
        pair.server.transport.send_close(WSCloseCode.POLICY_VIOLATION, b"Too many requests")
        await until(lambda: pair.ended, "the end")
        assert pair.connection.reason == "closed by the exchange: 1008 Too many requests"

    pair.run(scenario)


def test_connection_closed_by_us_sends_a_close_frame() -> None:
    pair = Pair()

    async def scenario(pair: Pair) -> None:
        pair.connection.close("replaced")
        await until(lambda: pair.server.gone, "the server's end")
        assert pair.server.frames[-1][0] == WSMsgType.CLOSE
        assert pair.connection.reason == "replaced"

    pair.run(scenario)


def test_connection_whose_decoder_raises_keeps_the_error_and_ends() -> None:
    def broken(payload: bytes, ts_recv_ns: int) -> None:
        raise ZeroDivisionError("our own bug")

    pair = Pair(feed=broken)

    async def scenario(pair: Pair) -> None:
        pair.server.send(WSMsgType.TEXT, b"{}")
        await until(lambda: pair.ended, "the end")
        assert isinstance(pair.connection.error, ZeroDivisionError)

    pair.run(scenario)


def test_message_that_a_ping_follows_in_the_same_read_is_handed_over_at_once_and_the_ping_answered() -> None:
    async def scenario(pair: Pair) -> None:
        assert pair.server.transport is not None
        message, ping = b'{"a":1}', bytes((0x89, 2)) + b"hi"
        pair.server.transport.underlying_transport.write(bytes((0x81, len(message))) + message + ping)
        await until(lambda: pair.taken, "the message")
        await until(lambda: pair.server.frames, "the answer")
        assert [payload for payload, _ in pair.taken] == [message]
        assert pair.server.frames == [(WSMsgType.PONG, b"hi")]

    Pair().run(scenario)


def test_message_before_the_end_of_the_connection_is_handed_over() -> None:
    async def scenario(pair: Pair) -> None:
        assert pair.server.transport is not None
        message, broken = b'{"a":1}', bytes((0xFF, 0x80, 0, 0, 0, 0))  # reserved bits and opcode
        pair.server.transport.underlying_transport.write(bytes((0x81, len(message))) + message + broken)
        await until(lambda: pair.connection.is_closed, "the end")
        assert [payload for payload, _ in pair.taken] == [message]

    Pair().run(scenario)


def test_connect_to_a_closed_port_raises() -> None:
    async def scenario() -> None:
        with pytest.raises(OSError):
            await connect("ws://127.0.0.1:9/stream", Pair().connection, 2.0, 1 << 20)

    asyncio.run(scenario())


def test_connect_to_a_peer_that_hangs_up_during_the_handshake_raises() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError):
            await connect(f"ws://127.0.0.1:{port}/stream", Pair().connection, 5.0, 1 << 20)
        server.close()

    asyncio.run(scenario())
