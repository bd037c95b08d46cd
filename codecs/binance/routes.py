"""What the decoder keeps for one instrument: its chains of ids, its book, the shapes of its depth frames."""

from __future__ import annotations

from typing import Any

from ..chain import Chain
from ..symbols import Instrument
from .events import STREAMS, Context
from .sync import BookSync

LEVEL_BYTES = b"0123456789.,[]"
LEVEL = b'""""'  # what a level leaves without those: the quotes around its price and quantity
DEPTH_SHAPES_MAX = 32  # of one instrument

# (bids before asks, head, middle, tail)
DepthShape = tuple[bool, bytes, bytes, bytes]


def stream_mark(native: str) -> bytes:
    """How the names of an instrument's streams begin in a frame."""
    return f'"{native.lower()}@'.encode()


class Trades(Chain):
    """The trades, or the aggregates, of one instrument: all that the hot path touches of it."""

    __slots__ = ("key_id", "kind", "mark", "native")

    def __init__(self, native: str, key_id: int, kind: str) -> None:
        super().__init__()
        self.native = native
        self.key_id = key_id
        self.kind = kind  # as gaps are reported
        self.mark = stream_mark(native)


class Quotes:
    """The quotes of one instrument."""

    __slots__ = ("key_id", "mark", "native", "update_id")

    def __init__(self, native: str, key_id: int) -> None:
        self.native = native
        self.key_id = key_id
        self.mark = stream_mark(native)
        self.update_id = -1  # of the last one


class Route:
    """What the decoder keeps for one instrument."""

    __slots__ = (
        "aggregates",
        "ambiguous",
        "depth_shapes",
        "instrument",
        "key_id",
        "others",
        "quotes",
        "streams",
        "sync",
        "trades",
    )

    def __init__(self, instrument: Instrument, key_id: int, sync: BookSync, context: Context) -> None:
        native = instrument.native
        self.instrument = instrument
        self.key_id = key_id
        self.sync = sync
        self.ambiguous = any(char.isdigit() for char in native)
        self.trades = Trades(native, key_id, "trade")
        self.aggregates = Trades(native, key_id, "aggregate")
        self.quotes = Quotes(native, key_id)
        self.streams: tuple[Any, ...] = self.aggregates, self.quotes, self.trades  # by kind of shape
        self.others = {kind: stream(native, key_id, context) for kind, stream in STREAMS.items()}
        self.depth_shapes: dict[bytes, DepthShape] = {}  # by `frame_prefix`

    @property
    def native(self) -> str:
        return self.instrument.native


def depth_shape(frame: bytes, bids: int, asks: int) -> DepthShape | None:
    """Take the shape of a depth frame that was read exactly; None where its keys stand in an order not provided for."""
    plain = frame.translate(None, LEVEL_BYTES)
    at_bids, at_asks = plain.find(b'"b":') + 4, plain.find(b'"a":') + 4
    if at_bids < 4 or at_asks < 4:
        return None
    bids_first = at_bids < at_asks
    first, second = (at_bids, at_asks) if bids_first else (at_asks, at_bids)
    before, after = (LEVEL * bids, LEVEL * asks) if bids_first else (LEVEL * asks, LEVEL * bids)
    head, middle, tail = plain[:first], plain[first + len(before) : second], plain[second + len(after) :]
    if b"".join((head, before, middle, after, tail)) != plain:
        return None
    return bids_first, head, middle, tail


def frame_prefix(frame: bytes) -> bytes:
    """The start of a frame up to its second ``:`` value: it names the stream, digits and all.

    The digits matter: ``@depth20`` is no stream of changes, and without digits it looks like ``@depth``.
    """
    return frame[: frame.find(b'"', 12)]
