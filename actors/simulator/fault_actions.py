"""What each fault does to connections, streams, REST answers and limits.

An action takes the simulator and its parameters, does its harm and returns what it hit, as JSON. What lasts is undone
by `faults.lift_faults`. Streams that a fault names need no subscriber yet: it then waits for them.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
from picows import WSCloseCode

from .config import SPOT, USDM, Limits
from .connection import Connection
from .errors import UnknownFault
from .hub import Filter, Stream
from .wire import ALL_MARKETS, MARKET, PUBLIC, frame_of

if TYPE_CHECKING:
    from .simulator import Simulator

Parameters = dict[str, Any]
Messages = list[tuple[bytes, bytes | None]]

RUBBISH = (
    b"", b"{", b"null", b"[]", b"9" * 5000, b"\x00\x01\x02", b'{"e":"trade"}', b'{"stream":7,"data":{}}',
    b'{"e":"aggTrade","p":"NaN"}', b'{"stream":"btcusdt@trade","data":{"e":"trade","t":1,"p":"-1","q":"x"}}',
)  # fmt: skip
MERGED_ROWS_MAX = 5  # rows of COIN-M that are put into one array
SNAPSHOT_BEHIND = 10**9  # update ids: more than a stream goes through while anybody looks
_CHAIN = re.compile(rb'"(pu|U)":(\d+)')
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


# -- which connections and streams


def _connections(simulator: Simulator, parameters: Parameters) -> list[Connection]:
    return [
        each
        for each in simulator.connections()
        if parameters.get("product") in (None, each.hub.product)
        and parameters.get("tier") in (None, each.tier)
        and parameters.get("connection") in (None, each.number)
    ]


def _numbers(connections: list[Connection]) -> dict[str, object]:
    return {"connections": [each.number for each in connections]}


def _products(simulator: Simulator, parameters: Parameters) -> list[str]:
    product = parameters.get("product")
    if product not in (None, *simulator.hubs):
        raise UnknownFault(f"`product` is {product!r}, this simulator plays {', '.join(simulator.hubs)}")
    return list(simulator.hubs) if product is None else [product]


def _streams(simulator: Simulator, parameters: Parameters) -> list[Stream]:
    """Return the stream that is named, or all depth streams of a symbol that were ever subscribed."""
    name, symbol = parameters.get("stream"), parameters.get("symbol")
    if name is None and symbol is None:
        raise UnknownFault("this fault needs `stream` or `symbol`")
    found = []
    for product in _products(simulator, parameters):
        hub = simulator.hubs[product]
        if name is not None:
            found += [hub.stream(name)] if isinstance(name, str) and hub.knows(name) else []
        else:
            wanted = str(symbol).upper()
            found += [s for s in hub.streams.values() if s.name.kind == "depth" and s.name.symbol == wanted]
    if not found:
        what = f"no server has a stream {name!r}" if name is not None else f"no depth of {symbol!r} was subscribed yet"
        raise UnknownFault(what)
    return found


def _filter(streams: list[Stream], make: Callable[[Stream], Filter]) -> object:
    for stream in streams:
        stream.filters.append(make(stream))
    return {"streams": [f"{stream.hub.product}:{stream.name.text}" for stream in streams]}


def _count(parameters: Parameters, default: int = 1) -> int:
    count = parameters.get("count", default)
    if not isinstance(count, int) or count < 1:
        raise UnknownFault(f"`count` is {count!r}, expected a positive integer")
    return count


def _for_next(count: int, act: Callable[[Stream, bytes, bytes | None], Messages]) -> Callable[[Stream], Filter]:
    """Return what makes a filter that acts on the next `count` messages of its stream."""

    def make(stream: Stream) -> Filter:
        left = count

        def once(payload: bytes, micro: bytes | None) -> Messages:
            nonlocal left
            left -= 1
            if not left:
                stream.filters.remove(once)
            return act(stream, payload, micro)

        return once

    return make


# -- connections


def close(simulator: Simulator, parameters: Parameters) -> object:
    code = parameters.get("code", 1001)
    if not isinstance(code, int) or not 1000 <= code <= 4999:
        raise UnknownFault(f"`code` is {code!r}, expected a close code (1000 to 4999)")
    hit = _connections(simulator, parameters)
    for each in hit:
        each.close(WSCloseCode(code), str(parameters.get("reason", "fault: close")))
    return _numbers(hit)


def reset(simulator: Simulator, parameters: Parameters) -> object:
    """Write the first half of a frame, then end the TCP connection: with RST, or with FIN."""
    hit = _connections(simulator, parameters)
    for each in hit:
        if each.transport is None:
            continue
        each.flush()
        frame = frame_of(b'{"stream":"torn","data":{"e":"trade","p":"1' + b"0" * 200 + b'"}}')
        each.write_block(frame[: len(frame) // 2], 0)
        if not parameters.get("fin"):
            raw = each.transport.underlying_transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.abort("fault: reset")
    return _numbers(hit)


def silence(simulator: Simulator, parameters: Parameters) -> object:
    hit = _connections(simulator, parameters)
    for each in hit:
        each.mute(True)
    return _numbers(hit)


def server_shutdown(simulator: Simulator, parameters: Parameters) -> object:
    """Announce the end on every connection; with `close_after_s` also bring it."""
    hit = _connections(simulator, parameters)
    event = b'{"e":"serverShutdown","E":%d}' % (time.time_ns() // 1_000_000)
    for each in hit:
        each.flush()
        each.write_block(frame_of(b'{"stream":"!serverShutdown","data":%b}' % event if each.combined else event), 1)
    if (delay := parameters.get("close_after_s")) is not None:
        for each in hit:
            simulator.call_later(float(delay), each.close, WSCloseCode.GOING_AWAY, "server shutdown")
    return _numbers(hit)


def garbage(simulator: Simulator, parameters: Parameters) -> object:
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
    return {**_numbers(hit), "frames": count}


# -- streams


def drop(simulator: Simulator, parameters: Parameters) -> object:
    return _filter(_streams(simulator, parameters), _for_next(_count(parameters), lambda stream, payload, micro: []))


def duplicate(simulator: Simulator, parameters: Parameters) -> object:
    make = _for_next(_count(parameters), lambda stream, payload, micro: [(payload, micro), (payload, micro)])
    return _filter(_streams(simulator, parameters), make)


def reorder(simulator: Simulator, parameters: Parameters) -> object:
    """Hold one message back and send it after the next one."""

    def make(stream: Stream) -> Filter:
        left = _count(parameters)
        held: Messages = []

        def swap(payload: bytes, micro: bytes | None) -> Messages:
            nonlocal left
            if not held:
                held.append((payload, micro))
                return []
            left -= 1
            if not left:
                stream.filters.remove(swap)
            stream.withheld -= 1  # counted when it was held back, and it does go out
            return [(payload, micro), held.pop()]

        return swap

    return _filter(_streams(simulator, parameters), make)


def break_chain(simulator: Simulator, parameters: Parameters) -> object:
    """Change the id that ties a depth message to the one before: `pu` on USD-M, `U` on spot."""

    def broken(stream: Stream, payload: bytes) -> bytes:
        key = b"U" if stream.hub.product == SPOT else b"pu"
        return _CHAIN.sub(lambda id: b'"%b":%d' % (id[1], int(id[2]) + (7 if id[1] == key else 0)), payload)

    def act(stream: Stream, payload: bytes, micro: bytes | None) -> Messages:
        return [(broken(stream, payload), None if micro is None else broken(stream, micro))]

    return _filter(_streams(simulator, parameters), _for_next(_count(parameters), act))


def silent_stream(simulator: Simulator, parameters: Parameters) -> object:
    return _filter(_streams(simulator, parameters), lambda stream: lambda payload, micro: [])


def silent_tier(simulator: Simulator, parameters: Parameters) -> object:
    tier = parameters.get("tier")
    if tier not in (None, PUBLIC, MARKET):
        raise UnknownFault(f"`tier` is {tier!r}, expected {PUBLIC} or {MARKET}")
    products = _products(simulator, parameters)
    for product in products:
        # Spot has no tiers: there it is everything.
        simulator.hubs[product].silent_tiers |= {tier} if tier and product == USDM else {PUBLIC, MARKET}
    return {"products": products}


def merged_rows(simulator: Simulator, parameters: Parameters) -> object:
    """Put rows of COIN-M into USD-M's streams about all markets, as both have carried since 2026-06-30."""

    def act(payload: bytes, micro: bytes | None) -> Messages:
        message = _decode(payload)
        if not isinstance(message, list):
            return [(payload, micro), (_encode(_coin_margined(message)), None)]
        return [(_encode(message + [_coin_margined(row) for row in message[:MERGED_ROWS_MAX]]), None)]

    hub = simulator.hubs.get(USDM)
    streams = [] if hub is None else [hub.stream(name) for name in ALL_MARKETS[USDM]]
    return _filter(streams, lambda stream: act)


def _coin_margined(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the same form about the coin-margined perpetual of the same coin."""
    if "o" in row and isinstance(row["o"], dict):  # a liquidation
        order = _coin_margined(row["o"])
        order.pop("st")
        return {**row, "o": order, "st": 2}
    pair = row["s"].removesuffix("T")
    return {**row, "s": pair + "_PERP", "ps": pair, "st": 2}


# -- REST


def rest_status(simulator: Simulator, parameters: Parameters) -> object:
    """Answer the next `count` requests with a status, whatever their weight; several of these add up."""
    status = parameters.get("status", 429)
    if status not in (403, 418, 429, 500, 502, 503):
        raise UnknownFault(f"`status` is {status!r}, expected 403, 418, 429, 500, 502 or 503")
    retry_after = int(parameters.get("retry_after_s", 1))
    simulator.rest_faults.statuses += [(parameters.get("product"), status, retry_after)] * _count(parameters)
    return {"requests": len(simulator.rest_faults.statuses)}


def _market(simulator: Simulator, parameters: Parameters) -> tuple[str, str, bytes]:
    """Return product, symbol and the depth body of now."""
    product, symbol = str(parameters.get("product", SPOT)), str(parameters.get("symbol", "")).upper()
    body = simulator.source.depth(product, symbol, 5000)
    if body is None:
        raise UnknownFault(f"no symbol {symbol!r} on {product}")
    return product, symbol, body


def stale_snapshot(simulator: Simulator, parameters: Parameters) -> object:
    """Keep a symbol's depth body of now and give it to the next `count` requests."""
    product, symbol, body = _market(simulator, parameters)
    simulator.rest_faults.stale[product, symbol] = [body] * _count(parameters)
    return {"product": product, "symbol": symbol}


def old_snapshot(simulator: Simulator, parameters: Parameters) -> object:
    """Give the next `count` depth requests of a symbol an update id from before everything on its streams."""
    product, symbol, _ = _market(simulator, parameters)
    behind = int(parameters.get("behind", SNAPSHOT_BEHIND))
    simulator.rest_faults.old[product, symbol] = [behind] * _count(parameters)
    return {"product": product, "symbol": symbol, "behind": behind}


# -- limits


def limits(simulator: Simulator, parameters: Parameters) -> object:
    """Change limits of a product while it runs: kicks, caps, connection life, pings, request weight."""
    changes = {key: value for key, value in parameters.items() if key != "product"}
    if not changes:
        raise UnknownFault(f"this fault needs at least one of: {', '.join(Limits.__struct_fields__)}")
    for product in _products(simulator, parameters):
        now = simulator.hubs[product].limits
        try:
            msgspec.convert({**msgspec.structs.asdict(now), **changes}, Limits)
        except msgspec.ValidationError as error:
            raise UnknownFault(str(error)) from None
        simulator.limits_before.setdefault(product, msgspec.structs.replace(now))
        for key, value in changes.items():
            setattr(now, key, value)  # servers and weight ledgers all look at this one object
    return {"limits": changes}
