"""Endpoints whose answer is worked out over a range and kept for a bounded time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any

from ...codecs.record import PRICE, QUANTITY
from ..catalog import Source
from .endpoints import Answer, Answerer, Enveloped
from .envelope import members
from .folding import rounded
from .rows import Options, decimal_of
from .shapes import COMPLETENESS, MOMENT, NAMES_SCHEMA, TEXT
from .stamps import rfc3339
from .state import FrontState

AGGREGATE_METADATA: dict[str, Any] = {
    **NAMES_SCHEMA, **COMPLETENESS, "start_time": MOMENT, "end_time": MOMENT,
    "as_of": {**TEXT, "format": "date-time", "description": "when it was worked out"},
    "age_seconds": {"type": "number", "minimum": 0, "description": "since then; 0 with X-Cache: MISS"},
}  # fmt: skip


@dataclass(frozen=True)
class Aggregate:
    """An answer to keep.

    Args:
        data: JSON text.
        metadata: without the age.
        count: rows, where it is a list.
        answered: False where ClickHouse was asked in vain; then it is not kept.
    """

    data: bytes
    metadata: dict[str, Any]
    count: int | None = None
    answered: bool = True


class Writer:
    """Decimals of one instrument as a request wants them."""

    def __init__(self, source: Source, options: Options) -> None:
        price, quantity = decimal_of(PRICE, source.key.attributes), decimal_of(QUANTITY, source.key.attributes)
        assert price is not None and quantity is not None
        self._price, self._quantity, self._as_text = price, quantity, options.decimals == "string"

    def price(self, value: float) -> Any:
        return self._price(rounded(value)) if self._as_text else rounded(value)

    def quantity(self, value: float) -> Any:
        return self._quantity(rounded(value)) if self._as_text else rounded(value)


def kept_answer(state: FrontState, identity: Hashable, make: Callable[[], Awaitable[Aggregate]]) -> Answerer:
    """Answer with what is kept of this identity, or work it out once for all who ask meanwhile."""

    def told(found: Aggregate, age_s: float) -> Answer:
        now = time.time_ns()
        metadata = {
            **found.metadata, "as_of": rfc3339(now - int(age_s * 1e9)), "age_seconds": round(age_s, 3),
        }  # fmt: skip
        more = {} if found.count is None else {"count": found.count}
        return Enveloped(members(found.data, metadata=metadata, **more), headers=state.cache_headers(age_s))

    async def working_out() -> Answer:
        made = await state.aggregates.get(identity, make)
        assert made is not None, f"{identity}: nothing was worked out"
        return told(*made)

    def answer() -> Answer | Awaitable[Answer]:
        kept = state.aggregates.fresh(identity)
        return told(*kept) if kept is not None else working_out()

    return answer
