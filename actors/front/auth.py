"""Who asks: where keys and tokens are checked.

One `Authenticator` serves REST and WebSocket; the default one lets everybody read.
"""

from __future__ import annotations

from aiohttp import web

from .errors import NotAuthenticated
from .ws.auth import ANONYMOUS, Authenticator, Identity, NoAuthentication

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tickring"'}


def request_token(request: web.BaseRequest) -> str | None:
    """The JWT or API key of a request: ``Authorization: Bearer`` or ``X-API-Key``."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("X-API-Key") or None


async def authenticate(request: web.BaseRequest, authenticator: Authenticator) -> Identity:
    """Who sent a request.

    Raises:
        NotAuthenticated: no token where one is needed, or one that is not valid.
    """
    token = request_token(request)
    if token is None:
        if not authenticator.required:
            return ANONYMOUS
        raise NotAuthenticated(
            "this needs a token: send 'Authorization: Bearer <token>' or 'X-API-Key: <key>'", headers=CHALLENGE
        )
    identity = await authenticator.identify(token)
    if identity is None:
        raise NotAuthenticated("the token is not valid", code="INVALID_AUTH_TOKEN", headers=CHALLENGE)
    return identity


__all__ = ["Authenticator", "Identity", "NoAuthentication", "authenticate", "request_token"]
