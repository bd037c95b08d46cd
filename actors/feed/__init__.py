"""Feeds: from an exchange's WebSocket into shared memory."""

from __future__ import annotations

from .config import Config
from .feed import Feed, main, streams

__all__ = ["Config", "Feed", "main", "streams"]
