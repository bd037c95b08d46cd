"""Lines in the log about dead letters."""

from __future__ import annotations

import logging
import time

from ...codecs.errors import Undecidable

log = logging.getLogger(__name__)

PREVIEW_MAX = 500  # characters of a dead letter's value
LINES_PER_MINUTE = 10


class DeadLog:
    """Lines about dead letters: so many a minute, and then how many more there were."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._minute, self._lines, self._left_out = 0, 0, 0

    def say(self, error: Undecidable, value: bytes, partition: int, offset: int) -> None:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            if self._left_out:
                log.warning("topic=%s dead letters left out of the log=%d", self._topic, self._left_out)
            self._minute, self._lines, self._left_out = minute, 0, 0
        if self._lines >= LINES_PER_MINUTE:
            self._left_out += 1
            return
        self._lines += 1
        preview = value[: 4 * PREVIEW_MAX].decode("utf-8", "replace")[:PREVIEW_MAX]
        log.warning(
            "topic=%s partition=%d offset=%d dead letter reason=%s: %s; preview=%r",
            self._topic, partition, offset, error.reason, str(error)[:PREVIEW_MAX], preview,
        )  # fmt: skip
