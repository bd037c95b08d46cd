"""The envelope around every JSON answer under /api/v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from .errors import FrontError

encode = msgspec.json.encode

SCHEMA: dict[str, Any] = {
    "success": {"type": "boolean"},
    "status": {"enum": ["success", "error"]},
    "message": {"type": "string"},
    "timestamp": {"type": "string", "format": "date-time"},
    "request_id": {"type": "string", "format": "uuid"},
    "execution_time_ms": {"type": "number", "minimum": 0},
}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **SCHEMA,
        "data": {"type": "null"},
        "error": {
            "type": "object",
            "properties": {"code": {"type": "string"}, "message": {"type": "string"}, "details": {"type": "object"}},
            "required": ["code", "message", "details"],
        },
        "error_code": {"type": "string"},
        "error_message": {"type": "string"},
        "details": {"type": "object"},
        "detail": {"type": ["string", "array"], "description": "the message; of a 422 a list of what is wrong"},
    },
    "required": [*SCHEMA, "data", "error", "error_code", "error_message", "details", "detail"],
}


def members(data: bytes | None, **more: Any) -> bytes:
    """`"data":...` and further members, as JSON text without the outer braces.

    Args:
        data: JSON text.
        more: metadata, count, pagination, ...; any JSON-able values.
    """
    rest = encode(more)[1:-1] if more else b""
    return b'"data":' + (data if data is not None else b"null") + (b"," + rest if rest else b"")


class Spliced(tuple[bytes, ...]):
    """The JSON text of a value, in parts, where it is too long to be copied for each answer."""

    __slots__ = ()


def spliced(body: Mapping[str, Any]) -> tuple[bytes, ...]:
    """A JSON object in parts: members that are `Spliced` go in as they are, behind all others."""
    texts = {name: value for name, value in body.items() if isinstance(value, Spliced)}
    if not texts:
        return (encode(body),)
    rest = {name: value for name, value in body.items() if name not in texts}
    parts = [encode(rest)[:-1]]
    for name, text in texts.items():
        parts += (b"," if len(parts) > 1 or rest else b"", encode(name), b":", *text)
    return (*parts, b"}")


def success_head(timestamp: str, request_id: str, execution_ms: float) -> bytes:
    """The members that every successful answer has, with the opening brace and a comma behind."""
    return (
        f'{{"success":true,"status":"success","message":"OK","timestamp":"{timestamp}",'
        f'"request_id":"{request_id}","execution_time_ms":{execution_ms:.3f},'
    ).encode()


def error_body(error: FrontError, timestamp: str, request_id: str, execution_ms: float) -> bytes:
    """The whole body of an error: nested for one kind of client, flat for another."""
    return encode({
        "success": False, "status": "error", "message": error.message, "data": None, "timestamp": timestamp,
        "request_id": request_id, "execution_time_ms": round(execution_ms, 3),
        "error": {"code": error.code, "message": error.message, "details": error.details},
        "error_code": error.code, "error_message": error.message, "details": error.details, "detail": error.detail,
    })  # fmt: skip


def joined_rows(constant: bytes, texts: Sequence[bytes]) -> bytes:
    """A JSON array of objects that all begin with the same members.

    Args:
        constant: these members as text, with a comma behind.
        texts: the rest of each object, without braces.
    """
    if not texts:
        return b"[]"
    return b"[{" + constant + (b"},{" + constant).join(texts) + b"}]"
