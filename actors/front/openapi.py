"""OpenAPI 3.1, derived from the declared endpoints and record types."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

from ...codecs.records import MARKET_RECORDS
from . import envelope
from .endpoints import JSON, Endpoint
from .paging import PAGINATION
from .params import Param

HEADERS: dict[str, Any] = {
    "X-Request-ID": {"description": "the request's id", "schema": {"type": "string", "format": "uuid"}},
    "X-Process-Time": {"description": "seconds spent on the answer", "schema": {"type": "number"}},
    "X-RateLimit-Limit": {"description": "calls in one window", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "calls left in this window", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "end of this window, epoch s", "schema": {"type": "integer"}},
}


def document(endpoints: Iterable[Endpoint], version: str) -> dict[str, Any]:
    """The whole description."""
    paths: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation(endpoint)
    records = {record.name: record.json_schema() for record in MARKET_RECORDS}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tickring", "version": version,
            "description": "A trading desk's recent state, from memory, merged with its history.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": {**records, "Error": envelope.ERROR_SCHEMA},
            "headers": HEADERS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
        "security": [{}, {"bearer": []}, {"apiKey": []}],
    }  # fmt: skip


def operation(endpoint: Endpoint) -> dict[str, Any]:
    name = "_".join(part.strip("{}") for part in endpoint.path.split("/") if part) or "root"
    if endpoint.method != "GET":
        name = f"{endpoint.method.lower()}_{name}"
    headers = {header: {"$ref": f"#/components/headers/{header}"} for header in HEADERS}
    errors = sorted({*endpoint.errors, 414, 429, 431})
    if not endpoint.public:
        errors = sorted({*errors, 401, 403})
    content = {_media_type(endpoint.content_type): {"schema": _success_schema(endpoint)}}
    content |= {_media_type(other): {"schema": {"type": "string"}} for other in endpoint.other_types}
    usual = str(endpoint.success)
    responses: dict[str, Any] = {
        usual: {"description": HTTPStatus(endpoint.success).phrase, "headers": headers, "content": content}
    }
    for status in endpoint.also:
        responses[str(status)] = {**responses[usual], "description": HTTPStatus(status).phrase}
    for status in errors:
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase, "headers": headers,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }  # fmt: skip
    described: dict[str, Any] = {
        "operationId": name.replace(".", "_").replace("-", "_"), "summary": endpoint.summary, "tags": [endpoint.tag],
        "parameters": [one for param in endpoint.params if param.where != "body" for one in param.openapi()],
        "responses": responses,
    }  # fmt: skip
    if body := [param for param in endpoint.params if param.where == "body"]:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": _body_schema(body)}}}
    if endpoint.public:
        described["security"] = [{}]
    return described


def _body_schema(params: Sequence[Param]) -> dict[str, Any]:
    described = {param.name: param.openapi()[0] for param in params}
    properties = {name: {**one["schema"], "description": one["description"]} for name, one in described.items()}
    return {
        "type": "object", "properties": properties, "required": [param.name for param in params if param.required],
    }  # fmt: skip


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0]


def _success_schema(endpoint: Endpoint) -> dict[str, Any]:
    if not endpoint.enveloped:
        return dict(endpoint.data) or {"type": "object" if endpoint.content_type == JSON else "string"}
    properties: dict[str, Any] = {**envelope.SCHEMA, "data": dict(endpoint.data)}
    if endpoint.metadata:
        properties["metadata"] = {"type": "object", "properties": dict(endpoint.metadata)}
    if any(param.name == "page" for param in endpoint.params):
        properties["pagination"] = PAGINATION
    properties["count"] = {"type": ["integer", "null"], "description": "total matches"}
    return {"type": "object", "properties": properties, "required": [*envelope.SCHEMA, "data"]}
