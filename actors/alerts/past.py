"""Alerts of the topic that only ClickHouse has: told while nobody looked, in a ring that is gone."""

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping

import msgspec

from ...codecs.desk.canonical import Alert
from ...codecs.desk.decoder import Defaults, decoder
from ...codecs.errors import Undecidable
from ...storage.client import SCHEMA_CODES, Client
from ...storage.errors import Refused
from ...storage.offsets import RAW_TABLE
from ...storage.schema import qualified
from .signals import ALERTS_TOPIC

log = logging.getLogger(__name__)

PAGE = 10_000
TIMEOUT_S = 60.0
_lines = msgspec.json.Decoder(tuple[int, int, int, str]).decode


async def past_alerts(client: Client, offsets: Mapping[str, int], account: str) -> tuple[list[Alert], dict[str, int]]:
    """The alerts behind the given offsets, at most 10,000, oldest first; and how far these go.

    Args:
        offsets: partition -> offset of the first event that is wanted; a partition that is not named: from 0.
        account: of alerts that name none.

    Raises:
        Unavailable, Refused
    """
    decode = decoder(ALERTS_TOPIC, Defaults(account=account))
    known = [f"(partition = {int(partition)} AND offset >= {offset})" for partition, offset in offsets.items()]
    rest = f"partition NOT IN ({', '.join(str(int(partition)) for partition in offsets)})" if offsets else "1"
    query = (
        "SELECT partition, offset, toUnixTimestamp64Milli(timestamp), base64Encode(value) FROM "
        f"{qualified(client.server.database, RAW_TABLE)} WHERE topic = {{topic:String}} "
        f"AND ({' OR '.join([*known, rest])}) ORDER BY partition, offset LIMIT {PAGE}"
    )
    try:
        settings = {"output_format_json_quote_64bit_integers": 0}
        text = await client.fetch(
            query, {"topic": ALERTS_TOPIC}, fmt="JSONCompactEachRow", timeout_s=TIMEOUT_S, settings=settings
        )
    except Refused as refused:
        if refused.code in SCHEMA_CODES:  # nothing was ever stored
            return [], {}
        raise
    found, ends = [], dict[str, int]()
    for line in text.splitlines():
        partition, offset, broker_ms, value = _lines(line)
        ends[str(partition)] = offset + 1
        try:
            event = decode(base64.b64decode(value), partition, offset, broker_ms)
        except Undecidable:
            continue  # among the dead letters
        if isinstance(event, Alert):
            found.append(event)
    return found, ends
