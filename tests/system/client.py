"""A client of the daemon that resumes by `seq` whatever ends its connection, and keeps what it saw."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect


def trade_channels(pairs: Iterable[str]) -> list[str]:
    """Names of the trade channels of both products."""
    return [f"trades.binance.{market_type}.{pair}" for pair in pairs for market_type in ("spot", "perpetual")]


class Record(NamedTuple):
    """A trade as it came."""

    seq: int
    trade_id: int
    price: float
    quantity: float
    side: str
    exchange_ts: int  # ms


@dataclass
class Channel:
    """What came on one channel, over all connections."""

    records: list[Record] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)  # of `seq`, both inclusive
    epochs: set[str] = field(default_factory=set)
    last_seq: int = 0


class Client(threading.Thread):
    """Subscribes, and after each end of its connection subscribes again with the last `seq` it has.

    Args:
        front_port: where the daemon serves.
        channels: names of trade channels, from their first record on.
    """

    def __init__(self, front_port: int, channels: Iterable[str]) -> None:
        super().__init__(name="client", daemon=True)
        self._url = f"ws://127.0.0.1:{front_port}/ws/v1"
        self.port = 0  # our end of the connection
        self.channels = {name: Channel() for name in channels}
        self.connections = self.answered = self.resumed = 0  # an end may come before the answer
        self.gap_reasons: Counter[str] = Counter()
        self.errors: list[Any] = []
        self.ending = threading.Event()

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                self._connected()
            except (OSError, ConnectionClosed, InvalidHandshake, EOFError):
                self.port = 0
            except Exception as error:  # noqa: BLE001 - the test must see it
                self.errors.append(error)
                return

    def _connected(self) -> None:
        with connect(self._url, open_timeout=5, close_timeout=1) as socket:
            self.port = socket.local_address[1]
            self.connections += 1
            socket.send(json.dumps({"op": "subscribe", "channels": self._wanted()}))
            while not self.ending.is_set():
                try:
                    self._take(json.loads(socket.recv(0.2)))
                except TimeoutError:
                    continue

    def _wanted(self) -> list[dict[str, Any]]:
        """From the first record on, and later from the last one seen."""
        wanted = []
        for name, channel in self.channels.items():
            kind, exchange, market_type, symbol = name.split(".")
            one = {"channel": kind, "exchange": exchange, "market_type": market_type, "symbol": symbol,
                   "from_seq": channel.last_seq}  # fmt: skip
            wanted.append(one | ({"epoch": next(iter(channel.epochs))} if channel.epochs else {}))
        return wanted

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "subscribed":
            self.errors += frame.get("errors", [])
            self.answered += 1
            for each in frame["channels"]:
                self.channels[each["channel"]].epochs.add(each["epoch"])
                self.resumed += each["resumed"]
        elif kind == "error":
            self.errors.append(frame)
        elif kind == "gap":
            channel = self.channels[frame["channel"]]
            channel.gaps.append((frame["from_seq"], frame["to_seq"]))
            self.gap_reasons[frame["reason"]] += 1
            channel.last_seq = max(channel.last_seq, frame["to_seq"])
        elif kind in ("update", "batch"):
            self._records(self.channels[frame["channel"]], frame)
        elif kind == "snapshot":  # follows a gap and repeats what is known
            channel = self.channels[frame["channel"]]
            channel.last_seq = max(channel.last_seq, frame["seq"])

    def _records(self, channel: Channel, frame: dict[str, Any]) -> None:
        if frame["type"] == "update":
            rows, first, last = [frame["data"]], frame["seq"], frame["seq"]
        else:
            rows, first, last = frame["data"], frame["first_seq"], frame["last_seq"]
        assert last - first + 1 == len(rows), frame
        channel.records += [
            Record(first + index, int(row["trade_id"]), float(row["price"]), float(row["quantity"]), row["side"],
                   row["exchange_ts"])
            for index, row in enumerate(rows)
        ]  # fmt: skip
        channel.last_seq = last

    def seen(self) -> dict[str, int]:
        return {name: len(channel.records) for name, channel in self.channels.items()}
