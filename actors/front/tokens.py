"""Where other services give out tokens and keys. tickring checks them (see `auth`) and gives out none: it says so."""

from __future__ import annotations

from typing import Any

from .endpoints import Answerer, Arguments, Endpoint
from .errors import NotSupported
from .params import Param, number, text, texts

USERNAME = text("username", "Of the user.", "a name", where="body")
PASSWORD = text("password", "Of the user.", "a password", where="body")
REFRESH_TOKEN = text("refresh_token", "That came with the token.", "a token", where="body")
PERMISSIONS = texts("permissions", "What the key allows.", "permissions", 3)
EXPIRES_AT = text("expires_at", "When the key ends.", "a time", where="body")
RATE_LIMIT = number("rate_limit", None, 1, 1e9, "Requests an hour.", where="body")
KEY_ID = text("key_id", "The key.", "a key's id", where="path", required=True, example="key-1")


def _refuse(_: Arguments) -> Answerer:
    raise NotSupported(
        "no tokens and keys are given out here: while authentication is off, which is the default, send requests "
        "without one; where it is on, send one of the system that checks them, as 'Authorization: Bearer <token>' or "
        "'X-API-Key: <key>'"
    )


def token_endpoints() -> list[Endpoint]:
    """Canonical paths, and those that other services had before us."""
    common: dict[str, Any] = {"errors": (400, 413, 501), "public": True, "tag": "operation", "data": {"type": "null"}}
    login: tuple[Param, ...] = (USERNAME, PASSWORD)

    def endpoint(path: str, summary: str, params: tuple[Param, ...], method: str = "POST") -> Endpoint:
        return Endpoint(path, _refuse, f"{summary}: always 501, no tokens are given out here", params, method, **common)

    return [
        endpoint("/api/v1/auth/login", "Log in", login),
        endpoint("/auth/login", "Log in", login),
        endpoint("/login", "Log in", login),
        endpoint("/api/v1/auth/refresh", "Renew a token", (REFRESH_TOKEN,)),
        endpoint("/api/v1/auth/api-keys", "Make a key", (PERMISSIONS, EXPIRES_AT, RATE_LIMIT)),
        endpoint("/api/v1/auth/api-keys/{key_id}", "Withdraw a key", (KEY_ID,), "DELETE"),
    ]
