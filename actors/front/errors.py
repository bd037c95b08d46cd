"""Errors of the front: each becomes a response.

TickringError
└── FrontError              code, HTTP status, message, details
    ├── MalformedRequest    400, no HTTP
    ├── InvalidParameter    400, names the parameter
    ├── InvalidTimeRange    400
    ├── NotAuthenticated    401
    ├── Forbidden           403
    ├── NotFound            404
    ├── MethodNotAllowed    405
    ├── PayloadTooLarge     413
    ├── UriTooLong          414
    ├── ValidationFailed    422, an InvalidParameter of a path that other services had before us
    ├── RateLimitExceeded   429, with Retry-After
    ├── HeaderTooLarge      431
    ├── NotSupported        501
    └── ServiceUnavailable  503 (retriable)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ringbuf import TickringError


class FrontError(TickringError):
    """A request that cannot be answered as asked."""

    status = 500
    code = "INTERNAL_ERROR"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.details = dict(details or {})
        self.headers = dict(headers or {})
        self.detail: Any = message  # what clients of other services look at


class MalformedRequest(FrontError):
    status = 400
    code = "INVALID_PARAMETER"


class InvalidParameter(FrontError):
    status = 400
    code = "INVALID_PARAMETER"

    def __init__(self, field: str, value: object, expected: str) -> None:
        shown = "nothing" if value is None else f"{str(value)[:100]!r}"
        super().__init__(
            f"parameter {field!r}: expected {expected}, got {shown}",
            details={"field": field, "value": None if value is None else str(value)[:100], "expected": expected},
        )
        self.field = field

    @classmethod
    def of(cls, field: str, message: str) -> InvalidParameter:
        """With a message of one's own."""
        error = cls.__new__(cls)
        FrontError.__init__(error, message, details={"field": field})
        error.field = field
        return error


class ValidationFailed(FrontError):
    status = 422
    code = "VALIDATION_ERROR"

    def __init__(self, error: InvalidParameter, where: str) -> None:
        super().__init__(error.message, details=error.details)
        given = error.details.get("value")
        kind = "missing" if given is None else "value_error"
        self.detail = [{"type": kind, "loc": [where, error.field], "msg": error.message, "input": given}]


class InvalidTimeRange(FrontError):
    status = 400
    code = "INVALID_TIME_RANGE"


class NotAuthenticated(FrontError):
    status = 401
    code = "MISSING_AUTH_TOKEN"


class Forbidden(FrontError):
    status = 403
    code = "FORBIDDEN"


class NotFound(FrontError):
    status = 404
    code = "NOT_FOUND"


class MethodNotAllowed(FrontError):
    status = 405
    code = "METHOD_NOT_ALLOWED"


class PayloadTooLarge(FrontError):
    status = 413
    code = "PAYLOAD_TOO_LARGE"


class UriTooLong(FrontError):
    status = 414
    code = "URI_TOO_LONG"


class HeaderTooLarge(FrontError):
    status = 431
    code = "HEADER_TOO_LARGE"


class NotSupported(FrontError):
    status = 501
    code = "NOT_SUPPORTED"


class RateLimitExceeded(FrontError):
    status = 429
    code = "RATE_LIMIT_EXCEEDED"


class ServiceUnavailable(FrontError):
    status = 503
    code = "SERVICE_UNAVAILABLE"
    retriable = True


LEGACY_PREFIX = "/api/"
CANONICAL_PREFIX = "/api/v1/"
_LEGACY_CODES = {"INVALID_PARAMETER", "INVALID_TIME_RANGE", "TIME_RANGE_TOO_LARGE", "NOT_FOUND", "METHOD_NOT_ALLOWED"}


def is_legacy(path: str) -> bool:
    """Whether a path is one that another service had before us, where errors have its codes."""
    return path.startswith(LEGACY_PREFIX) and not path.startswith(CANONICAL_PREFIX)


def legacy_code(error: FrontError) -> str:
    """The code of an error under such a path."""
    if error.code == "INTERNAL_ERROR":
        return "INTERNAL_SERVER_ERROR"
    return f"HTTP_{error.status}" if error.code in _LEGACY_CODES else error.code
