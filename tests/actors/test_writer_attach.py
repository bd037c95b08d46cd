"""What a writer leaves behind of a stream that it cannot follow yet, and tries again and again."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from tickring.actors.writer.config import Config
from tickring.actors.writer.follower import Follower
from tickring.actors.writer.metrics import Metrics
from tickring.actors.writer.sampler import Sampler
from tickring.codecs.records import TRADE
from tickring.ringbuf import DirectoryFull, MetricsPage, StreamReader, create_stream


@pytest.mark.parametrize("kind", [Follower, Sampler])
def test_stream_without_a_free_line_leaves_nothing_open(
    shm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_left_open: None, kind: type[Follower | Sampler]
) -> None:
    def full(*_: object) -> None:
        raise DirectoryFull("all lines belong to live readers")

    create_stream(shm, TRADE.spec("feed", capacity=1024, keys_max=4), 1)
    page, delivery = MetricsPage(shm, "writer", time.time_ns()), SimpleNamespace(config=Config())
    metrics = Metrics(page)
    monkeypatch.setattr(StreamReader, "register", full)
    for _ in range(3):
        reader = StreamReader(shm, "feed", TRADE.name, TRADE.dtype)
        more = ((), (), None, 1000) if kind is Follower else ()
        with pytest.raises(DirectoryFull):
            kind(reader, TRADE, tmp_path, delivery, metrics, *more)  # type: ignore[call-arg, arg-type]
        reader.close()
    page.close()
