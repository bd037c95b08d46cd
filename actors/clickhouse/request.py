"""What a request of the ClickHouse HTTP interface asks for: its URL, headers and form fields, sorted by meaning.

As the server does (https://github.com/ClickHouse/ClickHouse/blob/master/src/Server/HTTPHandler.cpp, read 2026-11-21): a
few names are the interface's own, `param_*` are query parameters, everything else is a setting of the query.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from ...storage.engine import USER, EngineError
from .errors import bad_arguments, not_implemented
from .sessions import TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S

_RESERVED = frozenset(
    [
        "user",
        "password",
        "quota_key",
        "query",
        "database",
        "default_format",
        "query_id",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "client_protocol_version",
        "stacktrace",
        "role",
        "readonly",
        "log_comment",
        "http_zlib_compression_level",
    ]
)
_EXTERNAL_SUFFIXES = ("_format", "_types", "_structure")
_FALSE = ("", "0", "false")


@dataclass(slots=True)
class External:
    """A table that came with the request as multipart data."""

    data: bytes
    format: str
    structure: str


@dataclass(slots=True)
class Options:
    """A request, sorted. Numbers are checked, settings are not: the engine knows them."""

    query: bytes = b""
    query_id: str = ""
    database: str = ""
    default_format: str = ""
    session_id: str = ""
    session_timeout_s: float = TIMEOUT_DEFAULT_S
    session_check: bool = False
    close_session: bool = False
    wait_end: bool = False
    http_compression: bool = False
    zlib_level: int = 3
    protocol_version: int = 0
    role: str = ""
    readonly: int = 0
    log_comment: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    external: dict[str, External] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw_query: str, method: str, headers: Mapping[str, str], defaults: Mapping[str, str]) -> Options:
        """Sort a request's URL and headers; `defaults` are the engine's values of settings that the interface reads.

        Raises `EngineError` 36 for a number that is none, 48 for what is not supported, 374 for a session timeout.
        """
        fields = parse_fields(raw_query)
        multipart = headers.get("Content-Type", "").startswith("multipart/form-data")
        options = cls(
            query=fields.get("query", "").encode("utf-8", "surrogateescape"),
            query_id=fields.get("query_id", "") or headers.get("X-ClickHouse-Query-Id", "") or str(uuid.uuid4()),
            database=headers.get("X-ClickHouse-Database", "") or fields.get("database", ""),
            default_format=headers.get("X-ClickHouse-Format", "") or fields.get("default_format", ""),
            session_id=fields.get("session_id", ""),
            session_timeout_s=_number(fields, "session_timeout", TIMEOUT_DEFAULT_S),
            session_check=_flag(fields, "session_check"),
            close_session=_flag(fields, "close_session"),
            wait_end=_flag(fields, "wait_end_of_query", defaults.get("http_wait_end_of_query", "0")),
            http_compression=_flag(fields, "enable_http_compression", defaults.get("enable_http_compression", "0")),
            zlib_level=min(9, max(1, _number(fields, "http_zlib_compression_level", 3))),
            protocol_version=_number(fields, "client_protocol_version", 0),
            role=fields.get("role", ""),
            # A GET may only read, as at the server; it may change settings.
            readonly=_number(fields, "readonly", 2 if method in ("GET", "HEAD") else 0),
            log_comment=fields.get("log_comment", ""),
        )
        if options.session_timeout_s > TIMEOUT_MAX_S:
            raise EngineError(
                374,
                "INVALID_SESSION_TIMEOUT",
                f"Session timeout '{options.session_timeout_s}' is larger than max_session_timeout: {TIMEOUT_MAX_S}.",
            )
        if _flag(fields, "compress") or _flag(fields, "decompress"):
            raise not_implemented(
                "compress=1 and decompress=1 (ClickHouse's own block framing); use Accept-Encoding with "
                "enable_http_compression=1 and Content-Encoding."
            )
        for name, value in fields.items():
            if name.startswith("param_"):
                options.params[name[6:]] = value
            elif name and name not in _RESERVED and not (multipart and name.endswith(_EXTERNAL_SUFFIXES)):
                options.settings[name] = value
        return options

    def add_form(self, parts: list[tuple[str, bool, bytes]], raw_query: str) -> None:
        """Take the fields (name, is a file, content) of a multipart body: query, parameters, external tables."""
        fields = parse_fields(raw_query)
        for name, is_file, content in parts:
            if is_file:
                if not name.replace("_", "a").isalnum():
                    raise bad_arguments(f"External table name {name[:40]!r} is not an identifier.")
                structure = fields.get(f"{name}_structure", "")
                if not structure and (types := fields.get(f"{name}_types", "")):
                    structure = ", ".join(f"_{index} {part}" for index, part in enumerate(types.split(","), 1))
                if not structure:
                    raise bad_arguments(f"External table {name} needs {name}_structure or {name}_types in the URL.")
                self.external[name] = External(content, fields.get(f"{name}_format", "TabSeparated"), structure)
            elif name == "query":
                self.query += content
            elif name.startswith("param_"):
                self.params[name[6:]] = content.decode("utf-8", "surrogateescape")


def parse_fields(raw_query: str) -> dict[str, str]:
    """Return the fields of a query string, the first of each name; bytes that are no UTF-8 stay as surrogates."""
    fields: dict[str, str] = {}
    for name, value in parse_qsl(raw_query, keep_blank_values=True, errors="surrogateescape"):
        fields.setdefault(name, value)
    return fields


def _flag(fields: Mapping[str, str], name: str, default: str = "0") -> bool:
    return fields.get(name, default).lower() not in _FALSE


def _number(fields: Mapping[str, str], name: str, default: int) -> int:
    text = fields.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise bad_arguments(f"Cannot parse {name}={text[:40]!r} as a number.")
    return int(text)


class Gate:
    """Checks who asks: user `default` and the store's password, by one of the server's three ways."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()

    def check(self, raw_query: str, headers: Mapping[str, str]) -> None:
        """Raise `EngineError` 516 for wrong credentials, 194 for none."""
        fields = parse_fields(raw_query)
        in_headers = any(name in headers for name in ("X-ClickHouse-User", "X-ClickHouse-Key"))
        in_url = "user" in fields or "password" in fields
        authorization = headers.get("Authorization", "")
        if (in_headers and (authorization or in_url)) or (authorization and in_url):
            raise _failed("it is not allowed to use two ways of authentication at once")
        if in_headers:
            user, password = headers.get("X-ClickHouse-User", "") or USER, headers.get("X-ClickHouse-Key", "")
        elif authorization:
            user, password = _basic(authorization)
        else:
            user, password = fields.get("user", "") or USER, fields.get("password", "")
        # Both are compared, whatever the first says, and in constant time.
        right_user = hmac.compare_digest(user.encode("utf-8", "surrogateescape"), USER.encode())
        right_password = hmac.compare_digest(password.encode("utf-8", "surrogateescape"), self._password)
        if not (right_user and right_password):
            reason = f"{user[:40]}: Authentication failed: password is incorrect, or there is no user with such name"
            if not password:
                raise EngineError(194, "REQUIRED_PASSWORD", reason + ".")
            raise _failed(reason)


def _failed(reason: str) -> EngineError:
    return EngineError(516, "AUTHENTICATION_FAILED", f"{reason}.")


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _failed(f"Invalid authentication: '{scheme[:20]}' HTTP Authorization scheme is not supported")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        raise _failed("Invalid authentication: the Basic credentials are not base64") from None
    user, _, password = decoded.partition(":")
    return user or USER, password
