"""The one loop that writes a frame to all who take it as it is, without any socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tickring.actors.front.ws.audience import Audience
from tickring.actors.front.ws.meters import Meters
from tickring.actors.front.ws.wire import Encoding, Frame, Update
from tickring.ringbuf import MetricsPage

WIRE = b"one record"


class Client:
    """As much of a connection, and of its subscription, as the audience sees."""

    def __init__(self, encoding: Encoding = Encoding.JSON) -> None:
        self.encoding = encoding
        self.clear = True
        self.connection = self.transport = self
        self.written: list[bytes] = []
        self.waiting: list[int] = []
        self.errors: list[Exception] = []
        self.error: Exception | None = None

    def write(self, wire: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.written.append(wire)

    def send(self, sub: Client, frame: Frame, first: int, last: int) -> None:
        assert sub is self
        self.waiting.append(last)

    def write_failed(self, error: Exception) -> None:
        self.errors.append(error)


@pytest.fixture
def meters(tmp_path: Path) -> Meters:
    return Meters(MetricsPage(tmp_path, "front-0", 1))


def audience_of(meters: Meters, *clients: Client) -> Audience:
    audience = Audience(meters)
    for client in clients:
        audience.add(client)  # type: ignore[arg-type]
    return audience


def frame(seq: int = 1) -> Frame:
    return Frame(Update("trades.binance.spot.BTC-USDT", seq, 0, {"seq": seq}))


def send_small(audience: Audience, seq: int = 1) -> None:
    audience.send_small(lambda: WIRE, lambda: frame(seq), seq)


def test_record_is_written_to_each_client_in_its_encoding(meters):
    clients = {encoding: Client(encoding) for encoding in Encoding}
    send_small(audience_of(meters, *clients.values()))
    assert clients[Encoding.JSON].written == clients[Encoding.JSON_DEFLATE].written == [WIRE]
    assert clients[Encoding.MSGPACK].written == [frame().wire(Encoding.MSGPACK)]
    assert meters.sent.value == 3
    assert meters.bytes.value == 2 * len(WIRE) + len(frame().wire(Encoding.MSGPACK))


def test_client_whose_write_fails_is_told_and_all_others_get_the_frame(meters):
    clients = [Client() for _ in range(5)]
    failures = {1: RuntimeError("closed"), 2: ValueError("ours"), 4: RuntimeError("closed")}
    for i, error in failures.items():
        clients[i].error = error
    audience = audience_of(meters, *clients)
    audience.send(frame(), 1, 1)
    assert [client.errors for client in clients] == [[failures[i]] if i in failures else [] for i in range(5)]
    assert [len(client.written) for client in clients] == [1, 0, 0, 1, 0]
    assert meters.sent.value == 2


def test_client_that_falls_behind_during_a_frame_gets_it_once_and_the_next_ones_wait(meters):
    fast, slow = Client(), Client()
    audience = audience_of(meters, slow, fast)

    def write_and_fill(wire: bytes) -> None:
        slow.written.append(wire)
        slow.clear = False
        audience.resort()

    slow.write = write_and_fill  # type: ignore[method-assign]
    for seq in (1, 2, 3):
        send_small(audience, seq)
    assert (len(slow.written), slow.waiting) == (1, [2, 3])
    slow.clear = True
    audience.resort()
    send_small(audience, 4)
    assert (len(slow.written), slow.waiting) == (2, [2, 3])
    assert len(fast.written) == 4 and not fast.waiting


def test_client_that_left_gets_nothing_more(meters):
    stays, leaves = Client(), Client()
    audience = audience_of(meters, stays, leaves)
    send_small(audience)
    audience.discard(leaves)  # type: ignore[arg-type]
    send_small(audience, 2)
    assert (len(stays.written), len(leaves.written)) == (2, 1)
    assert list(audience) == [stays]
