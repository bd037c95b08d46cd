"""Amounts and times as a request wants them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from ....codecs.desk.money import amount_number, amount_text
from ..stamps import NS, rfc3339

AMOUNT_SCHEMA: dict[str, Any] = {"type": ["string", "number"]}
MAYBE_AMOUNT: dict[str, Any] = {"type": ["string", "number", "null"]}
NUMBER: dict[str, Any] = {"type": "number"}
MAYBE_NUMBER: dict[str, Any] = {"type": ["number", "null"]}
TEXT: dict[str, Any] = {"type": "string"}
MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
INTEGER: dict[str, Any] = {"type": "integer"}
BOOLEAN: dict[str, Any] = {"type": "boolean"}
OBJECT: dict[str, Any] = {"type": "object"}
MOMENT: dict[str, Any] = {"type": ["string", "integer"], "description": "RFC 3339 UTC; epoch ms with time=ms"}

MAYBE_MOMENT: dict[str, Any] = {**MOMENT, "type": ["string", "integer", "null"]}


def objects(**properties: dict[str, Any]) -> dict[str, Any]:
    """Schema of an object all of whose members are there."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def lists(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


@lru_cache(maxsize=8192)
def _naive_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}."


def naive(ns: int) -> str:
    """UTC without an offset, as DipMaster's API prints times: 2025-03-04T09:15:27.412000."""
    seconds, rest = divmod(ns, NS)
    return f"{_naive_second(seconds)}{rest // 1000:06}"


class Form:
    """How one answer writes amounts and times.

    Args:
        decimals: "string" or "number".
        time: "rfc3339", "ms", or "naive" for the answers that other services gave before us.
    """

    def __init__(self, decimals: str, time: str) -> None:
        self.decimals, self.time = decimals, time
        self.amount: Callable[[int], Any] = amount_text if decimals == "string" else amount_number
        self.moment: Callable[[int], Any] = _MOMENTS[time]

    def maybe(self, units: int | None) -> Any:
        """An amount that may not be there."""
        return None if units is None else self.amount(units)

    def when(self, ns: int | None) -> Any:
        """A time that may not be there."""
        return None if ns is None else self.moment(ns)


_MOMENTS: dict[str, Callable[[int], Any]] = {"rfc3339": rfc3339, "ms": lambda ns: ns // 1_000_000, "naive": naive}
_FORMS = {(decimals, time): Form(decimals, time) for decimals in ("string", "number") for time in _MOMENTS}
FORMS = tuple(_FORMS.values())


def form_of(decimals: str, time: str) -> Form:
    return _FORMS[decimals, time]
