"""Current values: the newest record of a key, its text kept until a newer one comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...codecs.record import RecordType
from ..catalog import Source
from .endpoints import Answerer, Arguments, Endpoint
from .envelope import members
from .errors import NotFound
from .resolve import DECIMALS, EXCHANGE_PATH, MARKET_TYPE, SYMBOL_PATH, TIME
from .rows import RowRenderer, row_schema
from .shapes import PAIR_SCHEMA, VALUE_METADATA, key_metadata, key_text, options_of
from .state import FrontState, Kept

PATH = (EXCHANGE_PATH, SYMBOL_PATH, MARKET_TYPE)


def latest_value(
    state: FrontState,
    source: Source,
    symbol: str,
    render: Callable[[np.void], bytes],
    also: Sequence[Source | None] = (),
) -> Callable[[], bytes]:
    """Answer with the newest record of a key.

    Args:
        symbol: in the form the request used.
        render: its members as JSON, without braces.
        also: further keys that `render` looks at.
    """
    reader, key_id = source.reader, source.key_id
    key = key_text(source, source.symbol)
    metadata = {**key_metadata(source, symbol), "data_source": "memory"}
    watched = [(one.reader, one.key_id) for one in also if one is not None]
    kept = Kept(state)

    def answer() -> bytes:
        now = (reader.count(key_id), reader.live_since_ns, *(other.count(other_id) for other, other_id in watched))
        text = kept.get(now)
        if text is not None:
            return text
        row = reader.latest(key_id)
        if row is None:
            raise NotFound(
                f"{source.key.text}: no {reader.record.replace('_', ' ')} has come yet",
                details={"symbol": symbol, "instrument": source.instrument, "record": reader.record},
            )
        said = "live" if int(row["ts_recv_ns"]) >= reader.live_since_ns else "stale"
        return kept.put(now, members(b"{" + key + render(row) + b"}", metadata={**metadata, "state": said}))

    return answer


def value_endpoint(
    state: FrontState, path: str, record: RecordType, summary: str,
    meant: Callable[[Arguments], Arguments] = lambda arguments: arguments,
) -> Endpoint:  # fmt: skip
    """``/api/v1/<path>/{exchange}/{symbol}``: the newest record as it is."""

    def prepare(arguments: Arguments) -> Answerer:
        source = state.source(record, meant(arguments))
        renderer = RowRenderer(record, source.key.attributes, options_of(arguments))
        return latest_value(state, source, arguments["symbol"], renderer.row)

    return Endpoint(
        f"/api/v1/{path}/{{exchange}}/{{symbol}}", prepare, summary, (*PATH, DECIMALS, TIME),
        data=row_schema(record, **PAIR_SCHEMA), metadata=VALUE_METADATA, errors=(400, 404),
    )  # fmt: skip
