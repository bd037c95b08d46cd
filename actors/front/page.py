"""The first page: one file, served under a policy that lets it run its own script and talk to this port alone."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from pathlib import Path

from .activity import SERVICE
from .endpoints import Answerer, Arguments, Bare, Endpoint
from .envelope import encode
from .gate import PAGE_PATH
from .stamps import rfc3339
from .state import FrontState
from .status import package_version

HTML = "text/html; charset=utf-8"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def policy(html: str) -> str:
    """Content-Security-Policy of a page: only the inline script and style that it came with, nothing from elsewhere."""
    hashes: dict[str, list[str]] = {"script": [], "style": []}
    for kind, text in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    return (
        f"default-src 'none'; script-src {' '.join(hashes['script']) or chr(39) + 'none' + chr(39)}; "
        f"style-src {' '.join(hashes['style']) or chr(39) + 'none' + chr(39)}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def page_endpoints(state: FrontState) -> list[Endpoint]:
    html = (Path(__file__).parent / "page.html").read_text("utf-8")
    page = Bare(html.encode(), 200, HTML, {"Content-Security-Policy": policy(html), "Referrer-Policy": "no-referrer"})
    version = package_version()

    def show(_: Arguments) -> Answerer:
        return lambda: page

    def banner(_: Arguments) -> Answerer:
        def answer() -> Bare:
            return Bare(encode({
                "service": SERVICE, "version": version, "status": "running", "timestamp": rfc3339(time.time_ns()),
                "docs": "/openapi.json",
            }))  # fmt: skip

        return answer

    common = {"enveloped": False, "public": True, "errors": (), "tag": "operation"}
    return [
        Endpoint(
            "/",
            banner,
            "The first page; as JSON, what this service is",
            other_types=(HTML,),
            **common,  # type: ignore[arg-type]
        ),
        Endpoint(PAGE_PATH, show, "The first page", content_type=HTML, **common),  # type: ignore[arg-type]
    ]
