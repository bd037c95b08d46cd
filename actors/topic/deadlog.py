"""Lines in the log about single events."""

from __future__ import annotations

import logging
import time

from ...codecs.errors import Undecidable

log = logging.getLogger(__name__)

PREVIEW_MAX = 500  # characters of a dead letter's value
LINES_PER_MINUTE = 10


class DeadLog:
    """Lines about dead letters and odd events: so many a minute, and then how many more there were."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._minute, self._lines, self._left_out = 0, 0, 0

    def say(self, error: Undecidable, value: bytes, partition: int, offset: int) -> None:
        """An event is a dead letter."""
        preview = value[: 4 * PREVIEW_MAX].decode("utf-8", "replace")[:PREVIEW_MAX]
        text = f"dead letter reason={error.reason}: {str(error)[:PREVIEW_MAX]}; preview={preview!r}"
        self.tell(partition, offset, text)

    def tell(self, partition: int, offset: int, text: str) -> None:
        """An event is odd."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            if self._left_out:
                log.warning("topic=%s lines about events left out=%d", self._topic, self._left_out)
            self._minute, self._lines, self._left_out = minute, 0, 0
        if self._lines >= LINES_PER_MINUTE:
            self._left_out += 1
            return
        self._lines += 1
        log.warning("topic=%s partition=%d offset=%d %s", self._topic, partition, offset, text[: 3 * PREVIEW_MAX])
