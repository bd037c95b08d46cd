from __future__ import annotations

import json

from tickring.daemon.overview import fitting


def test_statuses_of_many_actors_keep_what_nothing_else_tells_within_their_room():
    status = {
        "state": "running",
        "pid": 4711,
        "restarts": 0,
        "reason": "",
        "cpus": [0, 1],
        "since_ns": 1795269386153353253,
    }
    few = {f"feed-{index}": status for index in range(3)}
    assert fitting(few, 4000) == few
    some = {f"feed-{index}": status for index in range(40)}
    assert set(fitting(some, 4000)["feed-0"]) == {"state", "restarts", "reason"}
    many = {f"feed-{index}": status for index in range(200)}
    many["feed-7"] = status | {"state": "fatal", "reason": "x" * 1000}
    shown = fitting(many, 4000)
    assert list(shown) == ["feed-7"] and shown["feed-7"]["state"] == "fatal"
    assert len(json.dumps(shown)) < 4000
    assert fitting(dict.fromkeys(many, many["feed-7"]), 4000) == {}
