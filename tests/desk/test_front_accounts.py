"""Whose accounts a token shows over REST."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tickring.actors.front.auth import Identity

from ..actors.front_rig import FrontThread
from .desk_rig import Topic
from .test_front_fills import a_fill

MINE = {"X-API-Key": "mine"}


class Tokens:
    required = True

    async def identify(self, token: str) -> Identity | None:
        known = {"mine": Identity("me", ("read", "write"), frozenset({"acct-7"})), "desk": Identity("desk")}
        return known.get(token)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[FrontThread]:
    topic = Topic(tmp_path, "exec.reports.v1")
    topic.fill(a_fill(1))
    topic.fill(a_fill(2, account_id="acct-7"))
    with FrontThread(tmp_path, Tokens()) as running:
        yield running
    topic.close()


def test_token_of_some_accounts_shows_these_alone(front: FrontThread) -> None:
    for _ in range(2):  # also once the request is prepared, by whomever
        assert len(front.get("/api/v1/fills?account_id=*", {"X-API-Key": "desk"}).json["data"]) == 2
        assert front.get("/api/v1/fills?account_id=acct-7", {"X-API-Key": "desk"}).status == 200
        answer = front.get("/api/v1/fills?account_id=acct-7", MINE)
        assert [fill["fill_id"] for fill in answer.json["data"]] == ["f-2"]
        for query in ("", "?account_id=default", "?account_id=*", "?account_id=all"):
            refused = front.get(f"/api/v1/fills{query}", MINE)
            assert refused.status == 403 and refused.json["error_code"] == "FORBIDDEN", query


@pytest.mark.parametrize(
    "path",
    ["/api/v1/fills/f-1", "/api/v1/alerts", "/api/v1/alerts/rules", "/api/v1/summary", "/api/v1/risk", "/api/fills",
     "/api/pnl", "/api/positions/current", "/api/performance"],
)  # fmt: skip
def test_what_tells_of_all_accounts_is_not_for_a_token_of_some(front: FrontThread, path: str) -> None:
    assert front.get(path, MINE).status == 403
    assert front.get(path, {"X-API-Key": "desk"}).status in (200, 503)
    assert front.get(path).status == 401


def test_token_of_some_accounts_sees_the_market_and_its_own_fill(front: FrontThread) -> None:
    assert front.get("/api/v1/instruments", MINE).status == 200
    assert front.get("/api/v1/fills/f-2?account_id=acct-7", MINE).status == 200
    assert front.get("/api/v1/alerts/al-1/resolve", MINE, "POST").status == 403
