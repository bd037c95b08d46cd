"""Faults on demand: what goes wrong with an exchange, by name.

A fault is a function of the simulator and its parameters that starts it and returns what it did, as JSON. Most last for
a number of messages or until they are lifted with `DELETE /sim/faults`. To add one, write the function and put it into
`FAULTS` with its description; the control endpoint, its listing and its checks need nothing else.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from picows import WSCloseCode

from .connection import Connection
from .errors import UnknownFault
from .hub import Filter, Stream
from .wire import frame_of

if TYPE_CHECKING:
    from .simulator import Simulator

Parameters = dict[str, Any]
_PU = re.compile(rb'"(pu|U)":(\d+)')


RUBBISH = (
    b"", b"{", b"null", b"[]", b"9" * 5000, b"\x00\x01\x02", b'{"e":"trade"}', b'{"stream":7,"data":{}}',
    b'{"e":"aggTrade","p":"NaN"}', b'{"stream":"btcusdt@trade","data":{"e":"trade","t":1,"p":"-1","q":"x"}}',
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One entry of the registry. `parameters`: name -> what it means."""

    summary: str
    parameters: dict[str, str]
    start: Callable[[Simulator, Parameters], object]


def start_fault(simulator: Simulator, request: Parameters) -> object:
    """Start the fault that a control request names.

    Raises `UnknownFault` for a name or parameter that the registry does not have.
    """
    name = request.get("fault")
    fault = FAULTS.get(name) if isinstance(name, str) else None
    if fault is None:
        raise UnknownFault(f"no fault {name!r}; there are: {', '.join(sorted(FAULTS))}")
    parameters = {key: value for key, value in request.items() if key != "fault"}
    unknown = parameters.keys() - fault.parameters.keys()
    if unknown:
        raise UnknownFault(
            f"fault {name!r} has no parameter {', '.join(sorted(unknown))}; it takes: {fault.parameters}"
        )
    return fault.start(simulator, parameters)


def lift_faults(simulator: Simulator) -> object:
    """End every fault that lasts."""
    lifted = 0
    for hub in simulator.hubs.values():
        for stream in hub.streams.values():
            lifted += len(stream.filters)
            stream.filters.clear()
    for connection in simulator.connections():
        lifted += connection.muted
        connection.mute(False)
    simulator.rest_faults.clear()
    return {"lifted": lifted}


# -- which connections and streams

_CONNECTIONS = {
    "product": "spot or usdm; both when left out",
    "tier": "public or market",
    "connection": "number of one connection",
}
_STREAMS = {"product": "spot or usdm", "stream": "name of one stream", "symbol": "native symbol: all its depth streams"}


def _connections(simulator: Simulator, parameters: Parameters) -> list[Connection]:
    return [
        each
        for each in simulator.connections()
        if parameters.get("product") in (None, each.hub.product)
        and parameters.get("tier") in (None, each.tier)
        and parameters.get("connection") in (None, each.number)
    ]


def _streams(simulator: Simulator, parameters: Parameters) -> Iterator[Stream]:
    name, symbol = parameters.get("stream"), parameters.get("symbol")
    if name is None and symbol is None:
        raise UnknownFault("this fault needs `stream` or `symbol`")
    found = False
    for product, hub in simulator.hubs.items():
        if parameters.get("product") not in (None, product):
            continue
        for stream in list(hub.streams.values()):
            by_symbol = name is None and stream.name.kind == "depth" and stream.name.symbol == str(symbol).upper()
            if stream.name.text == name or by_symbol:
                found = True
                yield stream
    if not found:
        raise UnknownFault(f"no stream {name or symbol!r} has ever been subscribed")


def _filter_streams(simulator: Simulator, parameters: Parameters, make: Callable[[Stream], Filter]) -> object:
    names = []
    for stream in _streams(simulator, parameters):
        stream.filters.append(make(stream))
        names.append(f"{stream.hub.product}:{stream.name.text}")
    return {"streams": names}


def _count(parameters: Parameters, default: int = 1) -> int:
    count = parameters.get("count", default)
    if not isinstance(count, int) or count < 1:
        raise UnknownFault(f"`count` is {count!r}, expected a positive integer")
    return count


# -- connections


def _close(simulator: Simulator, parameters: Parameters) -> object:
    hit = _connections(simulator, parameters)
    for each in hit:
        each.close(WSCloseCode.GOING_AWAY, "fault: close")
    return {"connections": [each.number for each in hit]}


def _reset(simulator: Simulator, parameters: Parameters) -> object:
    """Write the first half of a frame, then reset the TCP connection."""
    hit = _connections(simulator, parameters)
    for each in hit:
        if each.transport is None:
            continue
        each.flush()
        frame = frame_of(b'{"stream":"torn","data":{"e":"trade","p":"1' + b"0" * 200 + b'"}}')
        each.write_block(frame[: len(frame) // 2], 0)
        raw = each.transport.underlying_transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.abort("fault: reset")
    return {"connections": [each.number for each in hit]}


def _silence(simulator: Simulator, parameters: Parameters) -> object:
    hit = _connections(simulator, parameters)
    for each in hit:
        each.mute(True)
    return {"connections": [each.number for each in hit]}


def _shutdown(simulator: Simulator, parameters: Parameters) -> object:
    """Announce the end on every connection; with `close_after_s` also bring it."""
    hit = _connections(simulator, parameters)
    event = b'{"e":"serverShutdown","E":%d}' % (time.time_ns() // 1_000_000)
    for each in hit:
        each.flush()
        each.write_block(frame_of(b'{"stream":"!serverShutdown","data":%b}' % event if each.combined else event), 1)
    if (delay := parameters.get("close_after_s")) is not None:
        for each in hit:
            simulator.call_later(float(delay), each.close, WSCloseCode.GOING_AWAY, "server shutdown")
    return {"connections": [each.number for each in hit]}


def _garbage(simulator: Simulator, parameters: Parameters) -> object:
    """Send frames that are no message; `payload` or one of several kinds of rubbish in turn."""
    rubbish = list(RUBBISH)
    if "payload" in parameters:
        rubbish = [str(parameters["payload"]).encode()]
    hit = _connections(simulator, parameters)
    count = _count(parameters, len(rubbish))
    for each in hit:
        each.flush()
        for index in range(count):
            each.write_block(frame_of(rubbish[index % len(rubbish)]), 1)
    return {"connections": [each.number for each in hit], "frames": count}


# -- streams


def _drop(simulator: Simulator, parameters: Parameters) -> object:
    left = dict.fromkeys(map(id, _streams(simulator, parameters)), _count(parameters))

    def make(stream: Stream) -> Filter:
        def drop(payload: bytes, micro: bytes | None) -> list[tuple[bytes, bytes | None]]:
            left[id(stream)] -= 1
            if not left[id(stream)]:
                stream.filters.remove(drop)
            return []

        return drop

    return _filter_streams(simulator, parameters, make)


def _silent_stream(simulator: Simulator, parameters: Parameters) -> object:
    return _filter_streams(simulator, parameters, lambda stream: lambda payload, micro: [])


def _duplicate(simulator: Simulator, parameters: Parameters) -> object:
    def make(stream: Stream) -> Filter:
        left = _count(parameters)

        def duplicate(payload: bytes, micro: bytes | None) -> list[tuple[bytes, bytes | None]]:
            nonlocal left
            left -= 1
            if not left:
                stream.filters.remove(duplicate)
            return [(payload, micro), (payload, micro)]

        return duplicate

    return _filter_streams(simulator, parameters, make)


def _reorder(simulator: Simulator, parameters: Parameters) -> object:
    """Hold one message back and send it after the next one."""

    def make(stream: Stream) -> Filter:
        left = _count(parameters)
        held: list[tuple[bytes, bytes | None]] = []

        def reorder(payload: bytes, micro: bytes | None) -> list[tuple[bytes, bytes | None]]:
            nonlocal left
            if not held:
                held.append((payload, micro))
                return []
            left -= 1
            if not left:
                stream.filters.remove(reorder)
            stream.withheld -= 1  # counted when it was held back, and it does go out
            return [(payload, micro), held.pop()]

        return reorder

    return _filter_streams(simulator, parameters, make)


def _break_chain(simulator: Simulator, parameters: Parameters) -> object:
    """Change the id that ties a depth message to the one before: `pu` on USD-M, `U` on spot."""

    def make(stream: Stream) -> Filter:
        left = _count(parameters)
        key = b"U" if stream.hub.product == "spot" else b"pu"

        def broken(payload: bytes) -> bytes:
            return _PU.sub(
                lambda match: b'"%b":%d' % (match[1], int(match[2]) + (7 if match[1] == key else 0)), payload
            )

        def break_chain(payload: bytes, micro: bytes | None) -> list[tuple[bytes, bytes | None]]:
            nonlocal left
            left -= 1
            if not left:
                stream.filters.remove(break_chain)
            return [(broken(payload), None if micro is None else broken(micro))]

        return break_chain

    return _filter_streams(simulator, parameters, make)


# -- REST


def _rest_status(simulator: Simulator, parameters: Parameters) -> object:
    """Answer the next `count` requests with a status, whatever their weight."""
    status = parameters.get("status", 429)
    if status not in (403, 418, 429, 500, 502, 503):
        raise UnknownFault(f"`status` is {status!r}, expected 403, 418, 429, 500, 502 or 503")
    retry_after = int(parameters.get("retry_after_s", 1))
    simulator.rest_faults.statuses += [(parameters.get("product"), status, retry_after)] * _count(parameters)
    return {"requests": len(simulator.rest_faults.statuses)}


def _stale_snapshot(simulator: Simulator, parameters: Parameters) -> object:
    """Keep a symbol's depth body of now and give it to the next `count` requests."""
    product, symbol = str(parameters.get("product", "spot")), str(parameters.get("symbol", "")).upper()
    body = simulator.source.depth(product, symbol, 5000)
    if body is None:
        raise UnknownFault(f"no symbol {symbol!r} on {product}")
    simulator.rest_faults.snapshots[product, symbol] = [body] * _count(parameters)
    return {"product": product, "symbol": symbol}


class RestFaults:
    """What the REST server has to do wrong."""

    def __init__(self) -> None:
        self.statuses: list[tuple[str | None, int, int]] = []  # product (None = any), status, Retry-After
        self.snapshots: dict[tuple[str, str], list[bytes]] = {}

    def clear(self) -> None:
        self.statuses.clear()
        self.snapshots.clear()

    def take_status(self, product: str) -> tuple[int, int] | None:
        for index, (wanted, status, retry_after) in enumerate(self.statuses):
            if wanted in (None, product):
                del self.statuses[index]
                return status, retry_after
        return None

    def take_snapshot(self, product: str, symbol: str) -> bytes | None:
        bodies = self.snapshots.get((product, symbol))
        return bodies.pop() if bodies else None


_COUNT = {"count": "how many, 1 when left out"}

FAULTS: dict[str, Fault] = {
    "close": Fault("close connections with 1001", _CONNECTIONS, _close),
    "reset": Fault("reset connections in the middle of a frame", _CONNECTIONS, _reset),
    "silence": Fault("half-open: pings are answered, no data comes", _CONNECTIONS, _silence),
    "server_shutdown": Fault(
        "announce `serverShutdown`",
        {**_CONNECTIONS, "close_after_s": "seconds until the close; none when left out"},
        _shutdown,
    ),
    "garbage": Fault(
        "send frames that are no message", {**_CONNECTIONS, **_COUNT, "payload": "text to send"}, _garbage
    ),
    "drop": Fault("leave out the next messages: a gap", {**_STREAMS, **_COUNT}, _drop),
    "silent_stream": Fault("acknowledged, but nothing comes any more", _STREAMS, _silent_stream),
    "duplicate": Fault("send the next messages twice", {**_STREAMS, **_COUNT}, _duplicate),
    "reorder": Fault("swap two neighbouring messages", {**_STREAMS, **_COUNT}, _reorder),
    "break_chain": Fault(
        "change `pu` (USD-M) or `U` (spot) of the next depth messages", {**_STREAMS, **_COUNT}, _break_chain
    ),
    "rest_status": Fault(
        "refuse the next requests: 403, 418, 429 or 5xx",
        {
            **_COUNT,
            "product": "spot or usdm",
            "status": "HTTP status, 429 when left out",
            "retry_after_s": "Retry-After",
        },
        _rest_status,
    ),
    "stale_snapshot": Fault(
        "answer later depth requests with the book of now",
        {**_COUNT, "product": "spot or usdm", "symbol": "native symbol"},
        _stale_snapshot,
    ),
}
