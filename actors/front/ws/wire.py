"""Frames as they go out: the members of each type, and their bytes.

A frame is built once and encoded at most once for each way of encoding, WebSocket header included: frames of a server
carry no mask, so the same bytes are right for every client.

Compression: permessage-deflate is negotiated with JSON clients, and each message may still be sent plain. Frames below
a kilobyte go plain: compressing one costs more than encoding it and would have to be done per connection to gain
anything. Larger ones (snapshots, batches) are compressed without context, so one compressed frame is right for every
client too.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Any

import msgspec

OPCODE_TEXT, OPCODE_BINARY, OPCODE_PING = 0x81, 0x82, 0x89
RSV1 = 0x40  # this message is compressed
PING = bytes((OPCODE_PING, 0))
_LENGTH_16 = struct.Struct(">BBH").pack
_LENGTH_64 = struct.Struct(">BBQ").pack
_DEFLATE_END = b"\x00\x00\xff\xff"  # left out on the wire (RFC 7692, 7.2.1)

_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


class Encoding(IntEnum):
    """How a connection gets its frames."""

    JSON = 0
    MSGPACK = 1
    JSON_DEFLATE = 2  # JSON, large frames compressed


class Update(msgspec.Struct, tag="update", omit_defaults=True):
    channel: str
    seq: int
    ts: int  # epoch ms of the event
    data: Any
    conflated: bool = False  # stands for several updates: seq jumped


class Batch(msgspec.Struct, tag="batch"):
    channel: str
    first_seq: int
    last_seq: int
    data: list[dict[str, Any]]


class Snapshot(msgspec.Struct, tag="snapshot", omit_defaults=True):
    channel: str
    epoch: str
    seq: int
    ts: int
    data: Any
    final: bool
    id: Any = None


class Gap(msgspec.Struct, tag="gap", omit_defaults=True):
    """Records `from_seq` to `to_seq`, both included, do not come; `epoch` where numbering restarted."""

    channel: str
    from_seq: int
    to_seq: int
    reason: str
    epoch: str | None = None


class Heartbeat(msgspec.Struct, tag="heartbeat"):
    ts: int
    seqs: dict[str, int]


class Status(msgspec.Struct, tag="status"):
    channel: str
    state: str
    since: int


class Error(msgspec.Struct, tag="error", omit_defaults=True):
    code: str
    message: str
    id: Any = None
    channel: str | None = None


def framed(opcode: int, payload: bytes) -> bytes:
    """A whole, unmasked WebSocket message."""
    size = len(payload)
    if size < 126:
        return bytes((opcode, size)) + payload
    if size < 65536:
        return _LENGTH_16(opcode, 126, size) + payload
    return _LENGTH_64(opcode, 127, size) + payload


def deflated(payload: bytes) -> bytes:
    """The payload of a compressed message that refers to nothing sent before."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_DEFLATE_END)


class Frame:
    """One outgoing frame, shared by all connections that get it.

    Args:
        body: one of the types above, or any mapping.
        ids: members of `data` that hold exchange ids: text in JSON, integers in msgpack.
        compress_from: size in bytes from which a client that takes it gets it compressed; 0 = never.

    Attributes:
        urgent: goes out at once and is not dropped for a newer one, whatever the channel.
    """

    __slots__ = ("_conflated", "_ids", "_wires", "body", "compress_from", "urgent")

    def __init__(self, body: Any, ids: frozenset[str] = frozenset(), compress_from: int = 0) -> None:
        self.body = body
        self.compress_from = compress_from
        self._ids = ids
        self.urgent = False
        self._conflated: Frame | None = None
        self._wires: list[bytes | None] = [None, None, None]

    def wire(self, encoding: int) -> bytes:
        """The bytes to write to a socket."""
        found = self._wires[encoding]
        if found is None:
            found = self._wires[encoding] = self._encode(encoding)
        return found

    def _encode(self, encoding: int) -> bytes:
        if encoding == Encoding.MSGPACK:
            return framed(OPCODE_BINARY, _to_msgpack(self._with_integer_ids()))
        if encoding == Encoding.JSON_DEFLATE:
            plain = self.wire(Encoding.JSON)
            if not self.compress_from or len(plain) < self.compress_from:
                return plain
            return framed(OPCODE_TEXT | RSV1, deflated(_to_json(self.body)))
        return framed(OPCODE_TEXT, _to_json(self.body))

    def _with_integer_ids(self) -> Any:
        ids = self._ids
        if not ids:
            return self.body
        body = msgspec.structs.asdict(self.body)
        data = body["data"]
        many = data if isinstance(data, list) else [data]
        converted = [{name: int(value) if name in ids else value for name, value in one.items()} for one in many]
        changes = {"data": converted if isinstance(data, list) else converted[0]}
        return msgspec.structs.replace(self.body, **changes)

    def conflated(self) -> Frame:
        """The frame that stands for this one and those before it: the newest value alone. Shared like this one."""
        if self._conflated is not None:
            return self._conflated
        body = self.body
        if isinstance(body, Batch):
            newest = body.data[-1]
            body = Update(body.channel, body.last_seq, newest["ts"], newest)
        if isinstance(body, Update):
            body = msgspec.structs.replace(body, conflated=True)
        frame = self._conflated = Frame(body, self._ids, self.compress_from)
        frame.urgent = self.urgent
        return frame


class Joined(Frame):
    """Several messages that belong together: a client that reads slowly gets all of them or none."""

    __slots__ = ("_parts",)

    def __init__(self, parts: list[Frame]) -> None:
        super().__init__(parts[-1].body)
        self._parts = parts

    def wire(self, encoding: int) -> bytes:
        return b"".join(part.wire(encoding) for part in self._parts)

    def conflated(self) -> Frame:
        """All of them are one state: it stands for those before it as it is."""
        return self


def joined(parts: list[Frame]) -> Frame:
    """One frame of several messages, or the one that there is."""
    return parts[0] if len(parts) == 1 else Joined(parts)
