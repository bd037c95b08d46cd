"""ClickHouse's error codes as HTTP answers.

Codes and their HTTP status are those of the server
(https://github.com/ClickHouse/ClickHouse/blob/master/src/Server/HTTP/exceptionCodeToHTTPStatus.cpp, read 2026-11-21).

    TickringError
    ├── PortTaken         the port of the HTTP interface belongs to another process
    └── EngineError       (storage.engine) a code of ClickHouse's own: what a client sees
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError
from ...storage.engine import EngineError

_STATUS: dict[int, int] = {
    194: 401,  # REQUIRED_PASSWORD
    # UNKNOWN_USER, WRONG_PASSWORD, ACCESS_DENIED, SET_NON_GRANTED_ROLE, AUTHENTICATION_FAILED
    **dict.fromkeys((192, 193, 497, 512, 516), 403),
    # BAD_ARGUMENTS, CANNOT_COMPILE_REGEXP, CANNOT_PARSE_*, DUPLICATE_COLUMN, ILLEGAL_COLUMN, *_AST, THERE_IS_NO_COLUMN,
    # SYNTAX_ERROR, INCORRECT_DATA, TYPE_MISMATCH, VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    **dict.fromkeys((36, 427, 6, 25, 26, 38, 41, 72, 441, 675, 676, 27, 376, 15, 44), 400),
    **dict.fromkeys((37, 123, 8, 167, 168, 223, 62, 117, 53, 321), 400),
    # UNKNOWN_TABLE, _FUNCTION, _IDENTIFIER, _TYPE, _STORAGE, _DATABASE, _SETTING, _DIRECTION_OF_SORTING,
    # _AGGREGATE_FUNCTION, _FORMAT, _DATABASE_ENGINE, _TYPE_OF_QUERY, _ROLE
    **dict.fromkeys((60, 46, 47, 50, 56, 81, 115, 152, 63, 73, 336, 78, 511), 404),
    779: 415,  # UNSUPPORTED_MEDIA_TYPE
    229: 413,  # QUERY_IS_TOO_LARGE
    48: 501,  # NOT_IMPLEMENTED
    209: 503,  # SOCKET_TIMEOUT
    76: 503,  # CANNOT_OPEN_FILE
    439: 503,  # CANNOT_SCHEDULE_TASK
    381: 411,  # HTTP_LENGTH_REQUIRED
    159: 408,  # TIMEOUT_EXCEEDED
}


def http_status(code: int) -> int:
    """Return the HTTP status that a ClickHouse server answers an exception of this code with."""
    return _STATUS.get(code, 500)


def error_text(error: EngineError, version: str) -> str:
    """Return the body of the answer, as the server writes it."""
    return f"Code: {error.code}. DB::Exception: {error.reason} ({error.name}) (version {version})\n"


class PortTaken(TickringError):
    """The HTTP interface cannot listen."""

    exit_code = 71


def bad_arguments(reason: str) -> EngineError:
    return EngineError(36, "BAD_ARGUMENTS", reason)


def not_implemented(reason: str) -> EngineError:
    return EngineError(48, "NOT_IMPLEMENTED", reason)


def too_large(reason: str) -> EngineError:
    return EngineError(229, "QUERY_IS_TOO_LARGE", reason)


def syntax_error(reason: str) -> EngineError:
    return EngineError(62, "SYNTAX_ERROR", reason)
