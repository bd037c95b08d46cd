"""Subscribe and unsubscribe instruments while everything runs. The supervisor carries it out and keeps it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..control import CONTROL_SOCKET, CommandRefused, NoAnswer, command
from .endpoints import Answer, Answerer, Arguments, Endpoint
from .envelope import encode, members
from .errors import InvalidParameter, NotFound, ServiceUnavailable
from .params import choice, texts
from .resolve import EXCHANGE_PATH, MARKET_TYPE
from .shapes import TEXT, schema_of
from .state import FrontState

SYMBOLS_MAX = 500

ACTION = choice("action", ("subscribe", "unsubscribe"), "What to do.", where="body", required=True, example="subscribe")
SYMBOLS = texts(
    "symbols", "In any form that other requests take: `BTC-USDT`, `BTCUSDT`, `BTC-USDT-PERP`.", "symbols", SYMBOLS_MAX,
    required=True, example='["BTC-USDT"]',
)  # fmt: skip
DATA_TYPES = texts(
    "data_types",
    "`trade`, `orderbook`, `quote`, `ticker`, `kline`; of futures also `funding_rate`, `open_interest`, `liquidation`. "
    "Also by the names of channels in the configuration. Where none is given: what the market has, or everything.",
    "data types", 32, example='["trade"]',
)  # fmt: skip
BODY_MARKET_TYPE = replace(MARKET_TYPE, where="body")

_NAMES: dict[str, Any] = {"type": "array", "items": TEXT}
SCHEMA = schema_of({
    "exchange": TEXT, "action": {"enum": ["subscribe", "unsubscribe"]},
    "changed": {"type": "boolean", "description": "false where it was so already"},
    "symbols": {
        "type": "array", "description": "those of the request, and what is taken of them now",
        "items": schema_of({"symbol": TEXT, "instrument": TEXT, "market_type": TEXT, "channels": _NAMES}),
    },
    "actors": schema_of({"added": _NAMES, "restarted": _NAMES, "removed": _NAMES}),
})  # fmt: skip


def subscribe_endpoints(state: FrontState) -> list[Endpoint]:
    return [
        Endpoint(
            "/api/v1/exchanges/{exchange}/subscribe", lambda arguments: subscribe(state, arguments),
            "Take, or no longer take, data types of instruments; kept over restarts",
            (EXCHANGE_PATH, ACTION, SYMBOLS, DATA_TYPES, BODY_MARKET_TYPE), method="POST", data=SCHEMA,
            errors=(400, 404, 413, 503), tag="operation",
        )
    ]  # fmt: skip


def subscribe(state: FrontState, arguments: Arguments) -> Answerer:
    exchange, venue_market = arguments["exchange"]
    request = {
        "exchange": exchange, "action": arguments["action"], "symbols": arguments["symbols"],
        "data_types": arguments["data_types"] or (), "market_type": arguments["market_type"] or venue_market,
    }  # fmt: skip

    async def answer() -> Answer:
        path, timeout_s = state.ctx.folder / CONTROL_SOCKET, state.config.command_timeout_s
        try:
            done = await command(path, "subscribe", timeout_s, **request)
        except NoAnswer as error:
            raise ServiceUnavailable(f"the supervisor is not there: {error}") from None
        except CommandRefused as error:
            raise _refusal(error) from None
        if done["failed"]:
            raise ServiceUnavailable(
                f"the subscriptions are kept, but do not run yet: {', '.join(done['failed'])}",
                details={"failed": done["failed"]},
            )
        return members(encode({
            "exchange": exchange, "action": arguments["action"], "changed": done["changed"], "symbols": done["symbols"],
            "actors": {name: done[name] for name in ("added", "restarted", "removed")},
        }))  # fmt: skip

    return answer


def _refusal(error: CommandRefused) -> Exception:
    match error.kind:
        case "UnknownName":
            return InvalidParameter.of(error.field, str(error))
        case "ConfigError":
            return InvalidParameter.of("symbols", str(error))
        case "NotConfigured":
            return NotFound(str(error))
    return ServiceUnavailable(f"the supervisor refused: {error}")
