"""What perpetuals have besides funding: open interest, mark and index price, liquidations."""

from __future__ import annotations

from ...codecs.records import LIQUIDATION, MARK_PRICE, OPEN_INTEREST
from .endpoints import Answerer, Arguments, Endpoint
from .paging import RANGE_PARAMS
from .ranges import Form, rows_in_range
from .resolve import DECIMALS, TIME, as_perpetual
from .shapes import METADATA_SCHEMA
from .state import FrontState
from .values import PATH, value_endpoint

LIQUIDATIONS = Form(LIQUIDATION)


def derivative_endpoints(state: FrontState) -> list[Endpoint]:
    def liquidations(arguments: Arguments) -> Answerer:
        return rows_in_range(state, LIQUIDATIONS, as_perpetual(arguments))

    return [
        value_endpoint(state, "open-interest", OPEN_INTEREST, "Open interest, as last asked for", as_perpetual),
        value_endpoint(state, "mark-price", MARK_PRICE, "Mark price and index price now", as_perpetual),
        Endpoint(
            "/api/v1/liquidations/{exchange}/{symbol}", liquidations, "Liquidations of a range, newest first",
            (*PATH, *RANGE_PARAMS, DECIMALS, TIME), data={"type": "array", "items": LIQUIDATIONS.schema()},
            metadata=METADATA_SCHEMA, errors=(400, 404),
        ),
    ]  # fmt: skip
