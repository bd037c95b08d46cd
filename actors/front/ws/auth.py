"""Who a client is. Keys and tokens plug in here; without them everybody is `anonymous` and may read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from aiohttp import web


@dataclass(frozen=True)
class Identity:
    user_id: str
    permissions: tuple[str, ...] = ("read",)  # read, write, admin
    accounts: frozenset[str] | None = None  # whose fills, positions and so on it may see; None = all

    def may_see(self, account: str) -> bool:
        return "read" in self.permissions and (self.accounts is None or account in self.accounts)


ANONYMOUS = Identity("anonymous", ("read", "write"))  # where nobody is asked who he is


class Authenticator(Protocol):
    """Decides about tokens (JWT or API key). Called from the event loop; must not block."""

    required: bool

    async def identify(self, token: str) -> Identity | None:
        """The owner of a token; None when it is not valid."""
        ...


class NoAuthentication:
    """Everybody may read and write; a token is accepted and not looked at."""

    required = False

    async def identify(self, token: str) -> Identity | None:
        return ANONYMOUS


def handshake_token(request: web.Request) -> str | None:
    """The token that came with the handshake: `Authorization: Bearer`, `X-API-Key` or ``?token=``."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        return credentials.strip()
    return request.headers.get("X-API-Key") or request.query.get("token")
