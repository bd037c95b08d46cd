"""Declared endpoints: one declaration gives the route, the check of its parameters and its OpenAPI description."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from .errors import InvalidParameter, MethodNotAllowed, NotFound, ValidationFailed, is_legacy
from .params import Param, parse_query

JSON = "application/json; charset=utf-8"
# What DipMaster's API checks in its handlers: a bad one is 400 under its paths, other bad parameters are 422.
CHECKED_BY_HAND = frozenset(("side", "severity"))

Arguments = Mapping[str, Any]
# What a handler returns: the members of the envelope after the common ones, as JSON text without the outer braces:
# `"data":...,"metadata":...`. Or a `Bare` body.
Members = bytes


@dataclass(frozen=True)
class Bare:
    """A whole body of its own form.

    Attributes:
        rest: what follows `body`, in parts, which are sent without being copied together.
    """

    body: bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    rest: tuple[bytes, ...] = ()


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
        params: of path and query, and members of the JSON body (`where` is "body").
        method: GET, which is also HEAD; POST, DELETE.
        success: status of the usual answer; the answerer of another one than 200 returns it in an `Enveloped`.
        data: schema of `data`, or of the whole body where not enveloped.
        metadata: schemas of the members of `metadata`.
        errors: HTTP status codes of the errors that it can answer with.
        also: further status codes with the same body as 200.
        other_types: content types of text that it can be asked for instead.
        public: answered without authentication.
    """

    path: str
    prepare: Callable[[Arguments], Answerer]
    summary: str
    params: tuple[Param, ...] = ()
    method: str = "GET"
    success: int = 200
    data: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    errors: Sequence[int] = (400,)
    also: Sequence[int] = ()
    other_types: Sequence[str] = ()
    enveloped: bool = True
    content_type: str = JSON
    public: bool = False
    tag: str = "market data"

    @property
    def permission(self) -> str:
        """What a key must allow, where keys are asked for."""
        return "read" if self.method == "GET" else "write"

    def arguments(self, path_values: Mapping[str, str], query: str, body: bytes = b"") -> dict[str, Any]:
        """Check all parameters.

        Raises:
            InvalidParameter; ValidationFailed where the path is another service's, but for `CHECKED_BY_HAND`
        """
        values: dict[str, Mapping[str, str]] = {"path": path_values, "query": parse_query(query) if query else {}}
        if members := [param for param in self.params if param.where == "body"]:
            needed = any(param.required for param in members)  # else there may be no body at all
            values["body"] = body_values(body) if body.strip() or needed else {}
        found = {}
        for param in self.params:
            try:
                found[param.name] = param.read(values[param.where])
            except InvalidParameter as error:
                if is_legacy(self.path) and param.name not in CHECKED_BY_HAND:
                    raise ValidationFailed(error, param.where) from None
                raise
        return found


def body_values(body: bytes) -> dict[str, str]:
    """The members of a JSON object as the texts that they would be in a query. Raises InvalidParameter."""
    try:
        members = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidParameter("body", body[:100].decode("utf-8", "replace"), "a JSON object") from None
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in members.items()
        if value is not None
    }


_SEGMENT = re.compile(r"\{(\w+)\}")


class Router:
    """Finds the endpoint of a path: literal paths first, then those with parameters, the longest literal part first."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)
        paths: dict[str, dict[str, Endpoint]] = {}  # path -> method -> endpoint
        for endpoint in self.endpoints:
            paths.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        self._literal = {path: methods for path, methods in paths.items() if "{" not in path}
        patterns = sorted((path for path in paths if "{" in path), key=lambda path: -len(_SEGMENT.sub("", path)))
        self._patterns = [(self._pattern(path), paths[path]) for path in patterns]

    @staticmethod
    def _pattern(path: str) -> re.Pattern[str]:
        names = _SEGMENT.findall(path)
        source = re.escape(path).replace(r"\{", "{").replace(r"\}", "}")
        for name in names:
            source = source.replace(f"{{{name}}}", f"(?P<{name}>{'.+' if name == 'symbol' else '[^/]+'})")
        return re.compile(source)

    def find(self, path: str, method: str = "GET") -> tuple[Endpoint, dict[str, str]]:
        """The endpoint of a raw path, and its path parameters decoded. A trailing slash does not matter.

        Raises:
            NotFound, MethodNotAllowed
        """
        methods, values = self._find(path)
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
            raise MethodNotAllowed(
                f"{method[:20]} {path[:200]}: only {', '.join(allowed)} is possible here",
                details={"method": method[:20], "allowed": allowed}, headers={"Allow": ", ".join(allowed)},
            )  # fmt: skip
        return endpoint, values

    def _find(self, path: str) -> tuple[Mapping[str, Endpoint], dict[str, str]]:
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/") or "/"
        methods = self._literal.get(path)
        if methods is not None:
            return methods, {}
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
