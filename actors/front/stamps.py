"""Times and ids as text, cheap enough to be made for each request and each row."""

from __future__ import annotations

import os
import time
from functools import lru_cache

NS = 1_000_000_000
IDS_PER_REFILL = 64


@lru_cache(maxsize=8192)
def _second(seconds: int) -> str:
    moment = time.gmtime(seconds)
    return f"{moment[0]:04}-{moment[1]:02}-{moment[2]:02}T{moment[3]:02}:{moment[4]:02}:{moment[5]:02}."


def rfc3339(ns: int) -> str:
    """UNIX ns as RFC 3339 in UTC with milliseconds: 2026-11-21T10:59:00.123Z."""
    seconds, rest = divmod(ns, NS)
    return f"{_second(seconds)}{rest // 1_000_000:03}Z"


@lru_cache(maxsize=8)
def http_date(seconds: int) -> str:
    """UNIX s as the Date header has it."""
    moment = time.gmtime(seconds)
    day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[moment[6]]
    month = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")[moment[1] - 1]
    return f"{day}, {moment[2]:02} {month} {moment[0]} {moment[3]:02}:{moment[4]:02}:{moment[5]:02} GMT"


class RequestIds:
    """Random ids of RFC 4122, version 4.

    `uuid.uuid4` asks the kernel for each one and builds an object of it; here one call brings `IDS_PER_REFILL`.
    Make it after the fork: a copy would hand out the same ids.
    """

    def __init__(self) -> None:
        self._ready: list[str] = []

    def __call__(self) -> str:
        if not self._ready:
            self._refill()
        return self._ready.pop()

    def _refill(self) -> None:
        text = os.urandom(16 * IDS_PER_REFILL).hex()
        for at in range(0, len(text), 32):
            h = text[at : at + 32]
            variant = "89ab"[int(h[16], 16) & 3]
            self._ready.append(f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{variant}{h[17:20]}-{h[20:]}")
