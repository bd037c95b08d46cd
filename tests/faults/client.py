"""A client of market data that resumes, through new rings too, and keeps everything that it was shown."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..system.client import Channel, Client

ORDERED = ("trades", "liquidation")  # kinds of channels that show every record, or name the gap
LATEST = ("quote", "ticker", "mark_price", "funding", "open_interest")  # that jump where they are slow
BOOK, DEPTH = "book", 50
NOT_YET = "NOT_FOUND"  # after a reboot a feed has to ask the exchange before there are channels


@dataclass
class MarketChannel(Channel):
    """What came in one epoch.

    Attributes:
        rows: records as they were shown, with their `seq`, in the order in which they came.
        sides: bids and asks of a book, price to quantity; None where it is not known.
        frames: of a book.
    """

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    sides: tuple[dict[str, str], dict[str, str]] | None = None
    frames: int = 0


def market_channels(pairs: Iterable[str]) -> list[str]:
    """Names of all channels but those of bars."""
    names = []
    for pair in pairs:
        names += [f"{kind}.binance.spot.{pair}" for kind in ("trades", "quote", "ticker", BOOK)]
        names += [f"{kind}.binance.perpetual.{pair}" for kind in (*ORDERED, *LATEST, BOOK)]
    return names


class MarketClient(Client):
    """Begins each channel with its first record, and anew where its numbering begins anew.

    Attributes:
        before: by channel what came in earlier epochs.
    """

    def __init__(self, front_port: int, channels: Iterable[str]) -> None:
        super().__init__(front_port, channels)
        self.channels: dict[str, Channel] = {name: MarketChannel() for name in channels}
        self.before: dict[str, list[MarketChannel]] = defaultdict(list)

    def _wanted(self) -> list[dict[str, Any]]:
        return [one | {"depth": DEPTH} if one["channel"] == BOOK else one for one in super()._wanted()]

    def _take(self, frame: dict[str, Any]) -> None:
        if frame.get("channel", "").startswith(f"{BOOK}."):
            self._book(frame)
            return
        if frame["type"] != "subscribed":
            super()._take(frame)
            return
        if any(error["code"] == NOT_YET for error in frame.get("errors", ())):
            self.ending.wait(0.2)
            raise EOFError("not all channels are there yet")  # it comes again
        for each in frame["channels"]:
            channel = self.channels[each["channel"]]
            if channel.epochs and each["epoch"] not in channel.epochs:
                self.before[each["channel"]].append(channel)  # pyright: ignore[reportArgumentType]
                self.channels[each["channel"]] = MarketChannel()
        super()._take(frame)

    def _book(self, frame: dict[str, Any]) -> None:
        """Follow a book: each frame goes on where the one before it ended, or is the whole book."""
        channel = self.channels[frame["channel"]]
        assert isinstance(channel, MarketChannel)
        if frame["type"] == "gap":
            channel.sides = None
        elif frame["type"] == "snapshot":
            bids, asks = frame["data"]["bids"], frame["data"]["asks"]
            channel.sides, channel.last_seq = (dict(bids), dict(asks)), frame["seq"]
        elif frame["type"] == "update":
            data = frame["data"]
            if channel.sides is None or data["prev_seq"] != channel.last_seq:
                self.errors.append(f"{frame['channel']}: a frame from {data['prev_seq']} behind {channel.last_seq}")
                return
            for side, levels in zip(channel.sides, (data["bids"], data["asks"]), strict=True):
                for price, quantity in levels:
                    if quantity == "0":
                        side.pop(price, None)
                    else:
                        side[price] = quantity
            channel.last_seq = frame["seq"]
            channel.frames += 1

    def _records(self, channel: Channel, frame: dict[str, Any]) -> None:
        assert isinstance(channel, MarketChannel)
        if frame["type"] == "update":
            rows, first, last = [frame["data"]], frame["seq"], frame["seq"]
        else:
            rows, first, last = frame["data"], frame["first_seq"], frame["last_seq"]
        seqs: Iterable[int] = range(first, last + 1) if len(rows) == last - first + 1 else (r["seq"] for r in rows)
        channel.rows += zip(seqs, rows, strict=True)
        channel.last_seq = last

    def seen(self) -> dict[str, int]:
        """How many records came on each channel of trades."""
        with contextlib.suppress(RuntimeError):  # a new epoch began meanwhile
            return {
                name: len(channel.rows) + sum(len(one.rows) for one in self.before.get(name, ()))
                for name, channel in self.channels.items()
                if isinstance(channel, MarketChannel) and name.startswith("trades.")
            }
        return self.seen()
