"""Who asks: where keys and tokens are checked.

One `Authenticator` serves REST and WebSocket; the default one lets everybody read and write.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from aiohttp import web

from .endpoints import Arguments, Endpoint
from .errors import Forbidden, NotAuthenticated
from .ws.auth import ANONYMOUS, Authenticator, Identity, NoAuthentication

CHALLENGE = {"WWW-Authenticate": 'Bearer realm="tickring"'}


def request_token(request: web.BaseRequest) -> str | None:
    """The JWT or API key of a request: ``Authorization: Bearer`` or ``X-API-Key``."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials.strip():
        return credentials.strip()
    return request.headers.get("X-API-Key") or None


async def authenticate(request: web.BaseRequest, authenticator: Authenticator, permission: str) -> Identity:
    """Who sent a request that takes a permission: `read`, `write`, `admin`.

    Raises:
        NotAuthenticated: no token where one is needed, or one that is not valid.
        Forbidden: its owner may not do that.
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
    if permission not in identity.permissions:
        raise Forbidden(
            f"{request.method} {request.path[:200]} needs the permission {permission!r}",
            details={"permission": permission},
        )
    return identity


ALL_ACCOUNTS = frozenset(("*", "all", "ALL"))
OF_ACCOUNTS = frozenset(("desk", "legacy"))  # tags of what tells of accounts; the legacy paths always of all


def refuse_other_accounts(identity: Identity, endpoint: Endpoint, arguments: Arguments) -> None:
    """Whoever may see some accounts alone must name one of them. Raises Forbidden."""
    if identity.accounts is None or endpoint.tag not in OF_ACCOUNTS:
        return
    account = arguments.get("account_id")
    if account is None or account in ALL_ACCOUNTS:
        raise Forbidden(
            "this tells of all accounts: name one that the token is for with account_id, under /api/v1",
            details={"account_id": account},
        )
    if not identity.may_see(account):
        raise Forbidden(f"the token is not for account {account[:100]!r}", details={"account_id": account[:100]})


def refuse_other_origins(request: web.BaseRequest) -> None:
    """A page of another site, open in a browser on this machine, must not change anything here.

    Browsers name the origin in each such request; other clients name none. Raises Forbidden.
    """
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden(f"a page of {origin[:100]!r} may not change anything here", details={"origin": origin[:100]})


__all__ = [
    "Authenticator",
    "Identity",
    "NoAuthentication",
    "authenticate",
    "refuse_other_accounts",
    "refuse_other_origins",
    "request_token",
]
