"""Declared endpoints: one declaration gives the route, the check of its parameters and its OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from .errors import InvalidParameter, NotFound
from .params import Param, parse_query

JSON = "application/json; charset=utf-8"

Arguments = Mapping[str, Any]
# What a handler returns: the members of the envelope after the common ones, as JSON text without the outer braces:
# `"data":...,"metadata":...`. Or a `Bare` body.
Members = bytes


@dataclass(frozen=True)
class Bare:
    """A whole body of its own form."""

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Enveloped:
    """Members of the envelope with another status than 200, or with headers of their own."""

    members: Members
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Members | Bare | Enveloped
# Called for each request. An awaitable is returned only where ClickHouse must be asked.
Answerer = Callable[[], Answer | Awaitable[Answer]]


@dataclass(frozen=True)
class Endpoint:
    """One path.

    Args:
        path: with `{name}` for path parameters; a symbol may hold slashes (``BTC/USDT``).
        prepare: checked arguments to the function that answers; it is kept for requests of the same text until the
            catalog changes. Raises FrontError.
        params: of path and query.
        data: schema of `data`, or of the whole body where not enveloped.
        metadata: schemas of the members of `metadata`.
        errors: HTTP status codes of the errors that it can answer with.
        also: further status codes with the same body as 200.
        other_types: content types of text that it can be asked for instead.
        public: answered without authentication.
        cached: whether `prepare`'s result may be kept.
    """

    path: str
    prepare: Callable[[Arguments], Answerer]
    summary: str
    params: tuple[Param, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[int] = (400,)
    also: Sequence[int] = ()
    other_types: Sequence[str] = ()
    enveloped: bool = True
    content_type: str = JSON
    public: bool = False
    tag: str = "market data"

    def arguments(self, path_values: Mapping[str, str], query: str) -> dict[str, Any]:
        """Check all parameters.

        Raises:
            InvalidParameter
        """
        values = parse_query(query) if query else {}
        return {param.name: param.read(path_values if param.where == "path" else values) for param in self.params}


_SEGMENT = re.compile(r"\{(\w+)\}")


class Router:
    """Finds the endpoint of a path: literal paths first, then those with parameters, the longest literal part first."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        self._literal = {e.path: e for e in self.endpoints if "{" not in e.path}
        patterns = sorted((e for e in self.endpoints if "{" in e.path), key=lambda e: -len(_SEGMENT.sub("", e.path)))
        self._patterns = [(self._pattern(endpoint.path), endpoint) for endpoint in patterns]

    @staticmethod
    def _pattern(path: str) -> re.Pattern[str]:
        names = _SEGMENT.findall(path)
        source = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        for name in names:
            source = source.replace(f"{{{name}}}", f"(?P<{name}>{'.+' if name == 'symbol' else '[^/]+'})")
        return re.compile(source)

    def find(self, path: str) -> tuple[Endpoint, dict[str, str]]:
        """The endpoint of a raw path, and its path parameters decoded. A trailing slash does not matter.

        Raises:
            NotFound
        """
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/") or "/"
        endpoint = self._literal.get(path)
        if endpoint is not None:
            return endpoint, {}
        for pattern, candidate in self._patterns:
            match = pattern.fullmatch(path)
            if match:
                try:
                    return candidate, {name: unquote(text, errors="strict") for name, text in match.groupdict().items()}
                except UnicodeDecodeError:
                    raise InvalidParameter("path", path, "percent-encoded UTF-8") from None
        decoded = unquote(path)
        if decoded != path and decoded in self._literal:
            return self._literal[decoded], {}
        raise NotFound(f"no such path: {path[:200]!r}; see /openapi.json", details={"path": path[:200]})
