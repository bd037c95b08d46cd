"""Paths of other services under which tokens and keys are given out: what the front says there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .front_rig import FrontThread


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontThread]:
    with FrontThread(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/auth/login"), ("POST", "/auth/login"), ("POST", "/login"), ("POST", "/api/v1/auth/refresh"),
        ("POST", "/api/v1/auth/api-keys"), ("DELETE", "/api/v1/auth/api-keys/key-1"),
    ],
)  # fmt: skip
def test_tokens_asked_for_are_refused_with_what_to_do_instead(front: FrontThread, method: str, path: str) -> None:
    answer = front.get(path, method=method)
    assert answer.status == 501 and answer.json["error"]["code"] == answer.json["error_code"] == "NOT_SUPPORTED"
    assert "without one" in answer.json["detail"] and answer.json["data"] is None
    described = front.get("/openapi.json").json["paths"][path.replace("key-1", "{key_id}")][method.lower()]
    assert "501" in described["responses"]


def test_tokens_are_not_read_from_a_path(front: FrontThread) -> None:
    answer = front.get("/api/v1/auth/login")
    assert answer.status == 405 and answer.headers["allow"] == "POST"
