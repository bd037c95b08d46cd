"""The description for people: Swagger UI and Redoc, from files of the package `offapi` and nowhere else."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from .endpoints import Answerer, Arguments, Bare, Endpoint
from .errors import NotSupported

HTML = "text/html; charset=utf-8"
SCRIPT = "text/javascript; charset=utf-8"
STYLE = "text/css; charset=utf-8"
PACKAGE = "offapi"  # its files are served; it is not imported
# Both pages make style elements of their own; Redoc searches in a worker that it makes of a blob.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src data:; "
    "connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}

_HEAD = '<!doctype html><html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
SWAGGER = (
    f'{_HEAD}<title>tickring API</title><link rel="stylesheet" href="/docs/swagger_style.css"></head><body>'
    '<div id="swagger-ui"></div><script src="/docs/swagger_bundle.js"></script>'
    '<script src="/docs/swagger_preset.js"></script><script src="/docs/start.js"></script></body></html>'
)
REDOC = (
    f'{_HEAD}<title>tickring API</title></head><body><redoc spec-url="/openapi.json"></redoc>'
    '<script type="module" src="/docs/redoc.js"></script></body></html>'
)
START = """window.ui = SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIStandalonePreset], layout: "BaseLayout",
});
"""
FILES = {
    "swagger_style.css": STYLE, "swagger_bundle.js": SCRIPT, "swagger_preset.js": SCRIPT, "redoc.js": SCRIPT,
}  # fmt: skip


@lru_cache(maxsize=len(FILES))
def packaged(name: str) -> bytes:
    """A file of the package. Raises NotSupported where it is not installed."""
    spec = find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / name
        if path.is_file():
            return path.read_bytes()
    raise NotSupported(
        f"this page needs {name} of the package {PACKAGE}: pip install {PACKAGE}; the description itself is at "
        "/openapi.json", details={"package": PACKAGE, "file": name},
    )  # fmt: skip


def docs_endpoints() -> list[Endpoint]:
    def page(path: str, html: str, needs: str, summary: str) -> Endpoint:
        def prepare(_: Arguments) -> Answerer:
            packaged(needs)
            body = Bare(html.encode(), 200, HTML, HEADERS)
            return lambda: body

        return _public(path, prepare, summary, HTML)

    def file(name: str, content_type: str) -> Endpoint:
        def prepare(_: Arguments) -> Answerer:
            body = Bare(packaged(name), 200, content_type)
            return lambda: body

        return _public(f"/docs/{name}", prepare, f"Part of the page: {name}", content_type)

    def start(_: Arguments) -> Answerer:
        body = Bare(START.encode(), 200, SCRIPT)
        return lambda: body

    return [
        page("/docs", SWAGGER, "swagger_bundle.js", "This description, to be tried out (Swagger UI)"),
        page("/redoc", REDOC, "redoc.js", "This description, to be read (Redoc)"),
        *(file(name, content_type) for name, content_type in FILES.items()),
        _public("/docs/start.js", start, "Part of the page: start.js", SCRIPT),
    ]


def _public(path: str, prepare: object, summary: str, content_type: str) -> Endpoint:
    return Endpoint(
        path, prepare, summary, enveloped=False, public=True, errors=(501,), tag="operation",  # type: ignore[arg-type]
        content_type=content_type,
    )  # fmt: skip
