"""A feed whose rings are gone: what it missed meanwhile is a gap with known ends, or the writer's to name."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from tickring.actors.feed.keys import load_instruments
from tickring.actors.feed.newest import NewestIds
from tickring.actors.gaps import Gap, gaps_path, read_gaps
from tickring.codecs.chain import Chain

from .feeding import SYMBOLS, Running, exchange, feed_config, feeding, until

NAME = "feed-test"


@pytest.mark.parametrize("removed", [True, False])
def test_feed_ended_in_order_names_what_it_missed_whether_its_rings_are_there_or_not(
    shm: Path, tmp_path: Path, removed: bool
) -> None:
    async def work() -> None:
        async with exchange() as simulator:
            config = feed_config(simulator, "market")
            async with feeding(shm, tmp_path, config) as running:
                await until(lambda: all(len(ids) > 20 for ids in ids_of(running).values()), "trades of each symbol")
            last = {name: ids[-1] for name, ids in ids_of(Running(shm, NAME)).items()}
            if removed:
                for path in shm.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            # the market goes on, and is listened to, so that there is something to miss
            (shm / "other").mkdir()
            async with feeding(shm / "other", tmp_path / "other", config, "feed-other") as other:
                await until(lambda: all(len(ids) > 5 for ids in ids_of(other).values()), "trades that nobody stores")
            async with feeding(shm, tmp_path, config) as running:
                await until(
                    lambda: (
                        all(any(n > last[name] + 5 for n in ids) for name, ids in ids_of(running).items())
                        and gaps(tmp_path)
                    ),
                    "trades after the gap",
                )
                await until(lambda: len(gaps(tmp_path)) == len(SYMBOLS), "a gap of each symbol")
                held = ids_of(running)
            for gap in gaps(tmp_path):
                after = [number for number in held[gap.instrument] if number > last[gap.instrument]]
                assert (gap.first_id, gap.last_id) == (last[gap.instrument] + 1, min(after) - 1)

    asyncio.run(work())


def ids_of(running: Running) -> dict[str, list[int]]:
    """Ids of the trades in the ring by instrument; every symbol has an entry."""
    running.reader("trade").keys.refresh()
    rows = running.rows("trade")
    keys = {key.key_id: key.attributes["instrument"] for key in running.reader("trade").keys}
    found: dict[str, list[int]] = {f"{symbol[:3]}-USDT-PERP": [] for symbol in SYMBOLS}
    for row in rows[np.isin(rows["key_id"], list(keys))]:
        found[keys[int(row["key_id"])]].append(int(row["trade_id"]))
    return found


def gaps(data: Path) -> list[Gap]:
    return read_gaps(gaps_path(data, NAME))


def test_newest_ids_after_an_orderly_end_count_for_other_rings(tmp_path: Path) -> None:
    first = NewestIds(tmp_path, "feed-x", 1)
    first.put("BTC-USDT", "trade", [7, 8])
    first.end()
    assert NewestIds(tmp_path, "feed-x", 2).behind("BTC-USDT", "trade", []) == [7, 8]
    assert NewestIds(tmp_path, "feed-x", 2).behind("BTC-USDT", "trade", []) == [7, 8]  # killed, and its rings are there


def test_newest_ids_of_a_life_that_was_killed_do_not_count_for_other_rings(tmp_path: Path) -> None:
    first = NewestIds(tmp_path, "feed-x", 1)
    first.put("BTC-USDT", "trade", [7, 8])
    first.end()
    NewestIds(tmp_path, "feed-x", 1)
    assert NewestIds(tmp_path, "feed-x", 2).behind("BTC-USDT", "trade", []) == []


def test_gap_that_a_life_with_one_trade_left_undecided_is_found_by_the_next(tmp_path: Path) -> None:
    first = NewestIds(tmp_path, "feed-x", 1)
    first.put("BTC-USDT", "trade", [7, 8])
    first.end()
    NewestIds(tmp_path, "feed-x", 2)  # had trade 20 in its new rings, and was killed
    found: list[tuple[int, int]] = []
    chain = Chain()
    for number in NewestIds(tmp_path, "feed-x", 2).behind("BTC-USDT", "trade", [20]):
        chain.judge(number, False, lambda *gap: pytest.fail(f"{gap} is not certain"))
    for number in (21, 22):
        chain.judge(number, False, lambda *gap: found.append(gap))
    assert found == [(9, 19)]


def test_newest_ids_that_the_rings_have_are_taken_in_once(tmp_path: Path) -> None:
    first = NewestIds(tmp_path, "feed-x", 1)
    first.put("BTC-USDT", "trade", [7, 8])
    first.end()
    assert NewestIds(tmp_path, "feed-x", 1).behind("BTC-USDT", "trade", [6, 7, 8, 9]) == [6, 7, 8, 9]


@pytest.mark.parametrize("text", [b"[", b'[{"exchange":"\xff"}]'], ids=["cut", "no-utf8"])
def test_instruments_of_a_damaged_file_are_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "instruments.json").write_bytes(text)
    assert load_instruments(tmp_path / "instruments.json") == []


@pytest.mark.parametrize("text", [b"{", b'{"epoch":1,"ended":true,"ids":{"\xff":[]}}'], ids=["cut", "no-utf8"])
def test_newest_ids_of_a_damaged_file_are_none(tmp_path: Path, text: bytes) -> None:
    NewestIds(tmp_path, "feed-x", 1).end()
    (tmp_path / "newest" / "feed-x.json").write_bytes(text)
    assert NewestIds(tmp_path, "feed-x", 1).behind("BTC-USDT", "trade", []) == []
