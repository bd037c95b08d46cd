"""Answers in the shape of DipMaster's API, under its paths (`/api/...`).

Modelled answers have `success`, `timestamp` (UTC without an offset), `query_params` and `execution_time_ms` beside
their own members at the top level, and amounts as strings. Ad-hoc answers are bare objects, with amounts as numbers.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..endpoints import Answer, Answerer, Arguments, Bare, Endpoint
from ..envelope import encode, spliced
from ..params import Param
from .form import BOOLEAN, INTEGER, OBJECT, TEXT, Form, form_of, naive
from .params import query_params

MODELLED_FORM = form_of("string", "naive")
ENVELOPE: dict[str, Any] = {
    "success": BOOLEAN, "timestamp": TEXT, "query_params": OBJECT, "execution_time_ms": INTEGER,
}  # fmt: skip

Body = Mapping[str, Any]
Make = Callable[[Arguments, Form], "Body | Awaitable[Body]"]


def modelled(
    path: str, summary: str, params: tuple[Param, ...], schema: Mapping[str, Any], make: Make, **more: Any
) -> Endpoint:
    """An answer with DipMaster's envelope.

    Args:
        schema: of its own members.
        make: the members from the checked arguments; may be asked to wait for ClickHouse.
    """

    def finish(body: Body, started: float, arguments: Arguments) -> Bare:
        text, *rest = spliced({
            "success": True, "timestamp": naive(time.time_ns()), **body,
            "query_params": body.get("query_params") or query_params(arguments, params),
            "execution_time_ms": int((time.perf_counter() - started) * 1000),
        })  # fmt: skip
        return Bare(text, rest=tuple(rest))

    properties = {**ENVELOPE, **schema}
    return _endpoint(path, summary, params, properties, make, MODELLED_FORM, finish, more)


def bare(
    path: str, summary: str, params: tuple[Param, ...], schema: Mapping[str, Any], make: Make, *,
    amounts: str = "number", **more: Any,
) -> Endpoint:  # fmt: skip
    """An answer that is a bare object. `amounts` is "string" for those that are models of DipMaster's API."""

    def finish(body: Body, started: float, arguments: Arguments) -> Bare:
        return Bare(encode(body))

    return _endpoint(path, summary, params, dict(schema), make, form_of(amounts, "naive"), finish, more)


def _endpoint(
    path: str, summary: str, params: tuple[Param, ...], properties: Mapping[str, Any], make: Make, form: Form,
    finish: Callable[[Body, float, Arguments], Bare], more: Mapping[str, Any],
) -> Endpoint:  # fmt: skip
    def prepare(arguments: Arguments) -> Answerer:
        async def waiting(body: Awaitable[Body], started: float) -> Answer:
            return finish(await body, started, arguments)

        def answer() -> Answer | Awaitable[Answer]:
            started = time.perf_counter()
            body = make(arguments, form)
            if inspect.isawaitable(body):
                return waiting(body, started)
            return finish(body, started, arguments)

        return answer

    schema = {"type": "object", "properties": dict(properties), "required": list(properties)}
    options = {"errors": (400, 422), "tag": "legacy", **more}
    return Endpoint(path, prepare, summary, params, data=schema, enveloped=False, **options)
