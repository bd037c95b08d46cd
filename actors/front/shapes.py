"""Members and schemas that answers of all record types share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..catalog import Source
from .endpoints import Arguments
from .envelope import encode
from .rows import Options
from .ws.epochs import epoch_text

TEXT: dict[str, Any] = {"type": "string"}
INTEGER: dict[str, Any] = {"type": "integer"}
DECIMAL: dict[str, Any] = {"type": ["string", "number"]}
MOMENT: dict[str, Any] = {"type": ["string", "integer"], "description": "RFC 3339 UTC; epoch ms with time=ms"}

KEY_SCHEMA: dict[str, Any] = {
    "symbol": {**TEXT, "description": "as the request wrote it"},
    "exchange": TEXT,
    "market_type": {"enum": ["spot", "perpetual", "future", "option"]},
    "instrument": {**TEXT, "description": "canonical name, BTC-USDT-PERP"},
    "instrument_id": {**TEXT, "description": "the exchange's own name"},
}
PAIR_SCHEMA: dict[str, Any] = {**KEY_SCHEMA, "symbol": {**TEXT, "description": "pair, BTC-USDT"}}
NAMES_SCHEMA: dict[str, Any] = {"symbol": TEXT, "instrument": TEXT, "exchange": TEXT, "market_type": TEXT}
COMPLETENESS: dict[str, Any] = {
    "data_source": {"enum": ["memory", "database", "mixed"]},
    "completeness": {
        "type": "number", "minimum": 0, "maximum": 100,
        "description": "percent of what the range should hold, as far as that is known",
    },
    "note": {**TEXT, "description": "why it is not complete"},
}  # fmt: skip
METADATA_SCHEMA: dict[str, Any] = {
    **NAMES_SCHEMA, "count": {**INTEGER, "description": "rows returned"},
    "epoch": {**TEXT, "description": "changes only when `seq` starts anew"},
    "start_time": {"type": ["string", "integer", "null"]}, "end_time": {"type": ["string", "integer", "null"]},
    **COMPLETENESS,
}  # fmt: skip
VALUE_METADATA: dict[str, Any] = {
    **NAMES_SCHEMA, "epoch": TEXT,
    "state": {"enum": ["live", "stale"], "description": "stale: received before the producer last started"},
    "data_source": {"enum": ["memory"]},
}  # fmt: skip


def options_of(arguments: Arguments) -> Options:
    return Options(arguments["decimals"], arguments["time"])


def names_of(source: Source, symbol: str) -> dict[str, Any]:
    """The part of `metadata` that says what was asked for; `symbol` in the form the request used."""
    return {
        "symbol": symbol, "instrument": source.instrument, "exchange": source.exchange,
        "market_type": source.market_type,
    }  # fmt: skip


def key_members(source: Source, symbol: str) -> dict[str, Any]:
    """What every row says of its key."""
    return {
        "symbol": symbol, "exchange": source.exchange, "market_type": source.market_type,
        "instrument": source.instrument, "instrument_id": source.native,
    }  # fmt: skip


def key_text(source: Source, symbol: str, **more: Any) -> bytes:
    """The same, and further members, as JSON without braces, with a comma behind."""
    return encode({**key_members(source, symbol), **more})[1:-1] + b","


def key_metadata(source: Source, symbol: str) -> dict[str, Any]:
    """`names_of`, and the epoch of the numbering."""
    return {**names_of(source, symbol), "epoch": epoch_text(source.reader)}


def schema_of(properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Schema of an object that has all of these members."""
    return {"type": "object", "properties": dict(properties), "required": list(properties), **more}
