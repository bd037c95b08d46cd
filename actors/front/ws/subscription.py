"""One connection's interest in one channel."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from .names import ChannelRequest, Filters
from .outbox import Delivery, Entry
from .wire import Frame

if TYPE_CHECKING:
    from .connection import Connection
    from .forms import Form
    from .topics import Topic


PATIENCE = 2000  # looks, each of about a millisecond; a producer that died in the middle has a successor by then


class Subscription:
    """What a connection has of a channel, and where it is in it.

    Attributes:
        live: gets what the channel publishes; else it is still replaying, or waits for a book's first snapshot.
        position: number of the next record it wants, while it replays.
        ahead: the last `seq` that it has seen, where that is more than its worker has: it is not sent again.
        patience: how often more it waits for records that its producer has published and not yet counted.
        form: what makes its frames where they are not those of `v1`; None = they are.
        waiting: its frames in the connection's outbox; `gap` stands there for what was dropped.
        held: the newest frame, kept until the least time between two has passed (`conflate`).
        shown: of a state: the figures of the one that the client was shown last.
    """

    __slots__ = (
        "ahead", "connection", "delivery", "due", "filters", "form", "gap", "held", "live", "patience", "position",
        "replay", "request", "shown", "topic", "view", "waiting",
    )  # fmt: skip

    def __init__(self, connection: Connection, topic: Topic, request: ChannelRequest) -> None:
        self.connection = connection
        self.topic = topic
        self.request = request
        self.delivery: Delivery = topic.delivery
        self.filters: Filters | None = request.filters
        self.form: Form | None = connection.form
        self.live = False
        self.position = 0
        self.ahead = 0
        self.patience = PATIENCE
        self.replay: Any = ()  # read ahead of `position`: rows of a record, frames of a book
        self.waiting: deque[Entry] = deque()
        self.gap: Entry | None = None
        self.held: tuple[Frame, int] | None = None
        self.due = 0.0  # monotonic, s: the next frame goes out not before
        self.shown: tuple[int, ...] = ()
        self.view: Any = None  # of a book: what all its readers at this depth share

    @property
    def plain(self) -> bool:
        """Whether it takes every frame as it is."""
        return self.filters is None and not self.request.conflate_ms and not self.ahead

    def describe(self) -> dict[str, Any]:
        """For `list`."""
        request, topic = self.request, self.topic
        described: dict[str, Any] = {"channel": topic.name, "epoch": topic.epoch, "seq": topic.seq_of(self)}
        if request.kind == "book":
            described["depth"] = request.depth
        if self.filters:
            described["filters"] = {member: sorted(values) for member, values in self.filters.items()}
        if request.conflate_ms:
            described["conflate"] = request.conflate_ms
        return described
