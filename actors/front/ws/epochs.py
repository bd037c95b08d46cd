"""The short text by which a client knows that numbering goes on, or has restarted."""

from __future__ import annotations

import base64
import hashlib

from ....ringbuf import StreamReader


def epoch_text(reader: StreamReader) -> str:
    """Eight characters that differ for each new ring, and for the same instrument in another producer's ring."""
    name = f"{reader.spec.producer}.{reader.spec.record}.{reader.epoch}".encode()
    return base64.b32encode(hashlib.blake2b(name, digest_size=5).digest()).decode().lower()
