"""Rows of the exchange's REST history: told from those of streams, found again, and taken away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tickring.codecs.record import Flag
from tickring.codecs.records import FUNDING, KLINE
from tickring.storage.backfill import BACKFILL_EPOCH, delete_bars, held_bars, insert_rows, last_settlements
from tickring.storage.client import Client, Server
from tickring.storage.errors import Refused
from tickring.storage.schema import SchemaOptions, ensure_schema, qualified_table

MINUTE = 60_000
AT = 1_790_000_000_000 // MINUTE * MINUTE
KEY = {
    "exchange": "binance", "market_type": "perpetual", "symbol": "BTC-USDT", "instrument": "BTC-USDT-PERP",
    "interval": "1m",
}  # fmt: skip


def bars(first: int, stop: int, flags: int = int(Flag.CLOSED)) -> np.ndarray:
    """Bars number `first` to `stop` after `AT`."""
    rows = np.zeros(stop - first, KLINE.dtype)
    rows["open_ts"] = rows["nth"] = AT + np.arange(first, stop) * MINUTE
    rows["ts_recv_ns"] = AT * 1_000_000 + 10**15
    rows["ts_event_ns"] = (rows["open_ts"] + MINUTE) * 1_000_000
    rows["flags"] = flags
    return rows


@pytest.mark.parametrize("interval", ["1m", "5m' OR 1 = 1 --", "\\'"])
def test_bars_of_one_temporary_range_go_alone(with_client: Callable[..., Any], server: Server, interval: str) -> None:
    key, other = {**KEY, "interval": interval}, {**KEY, "instrument": "ETH-USDT-PERP"}

    async def work(client: Client) -> None:
        database = server.database
        await ensure_schema(client, [KLINE, FUNDING], SchemaOptions(database=database, retention_days={"kline": 0}))

        async def held(temporary: bool) -> list[int]:
            found = await held_bars(client, database, key, AT, AT + 100 * MINUTE, temporary=temporary)
            return sorted((found - AT) // MINUTE)

        for epoch, rows in (
            (5, bars(0, 3)),  # of a stream
            (5, bars(50, 52, int(Flag.CLOSED | Flag.PARTIAL))),
            (BACKFILL_EPOCH, bars(3, 6)),
            (BACKFILL_EPOCH + 1, bars(6, 9)),
            (BACKFILL_EPOCH + 2, bars(8, 12)),
        ):
            await insert_rows(client, database, KLINE, rows, key, epoch)
        await insert_rows(client, database, KLINE, bars(6, 9), other, BACKFILL_EPOCH + 1)
        assert await held(temporary=True) == list(range(12)) and await held(temporary=False) == list(range(6))
        await delete_bars(client, database, key, BACKFILL_EPOCH + 1)
        assert await held(temporary=True) == [*range(6), *range(8, 12)]
        [(left,)] = await client.rows(f"SELECT count() FROM {qualified_table(database, KLINE)}")
        assert left == 3 + 2 + 3 + 4 + 3
        await delete_bars(client, database, key, BACKFILL_EPOCH + 1)  # again, after an answer that was lost

    with_client(work)


def test_last_settlements_are_those_of_the_history_alone(with_client: Callable[..., Any], server: Server) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(Refused):
            await last_settlements(client, server.database)  # the writer has not made the tables yet
        await ensure_schema(client, [FUNDING], SchemaOptions(database=server.database))
        assert await last_settlements(client, server.database) == {}
        rows = np.zeros(3, FUNDING.dtype)
        rows["nth"] = AT + np.arange(3) * 28_800_000
        rows["ts_event_ns"] = rows["nth"].astype(np.int64) * 1_000_000
        rows["ts_recv_ns"] = rows["ts_event_ns"][-1]
        await insert_rows(client, server.database, FUNDING, rows, KEY, BACKFILL_EPOCH)
        await insert_rows(client, server.database, FUNDING, rows[:2], KEY, BACKFILL_EPOCH)
        rows["nth"] += 10**12
        await insert_rows(client, server.database, FUNDING, rows, KEY, 7)
        found = await last_settlements(client, server.database)
        assert found == {("binance", "BTC-USDT-PERP"): [AT + 2 * 28_800_000, AT + 28_800_000]}

    with_client(work)


def test_delete_of_what_is_no_temporary_range_is_a_bug_of_ours(with_client: Callable[..., Any], server: Server) -> None:
    async def work(client: Client) -> None:
        with pytest.raises(AssertionError, match="temporary range"):
            await delete_bars(client, server.database, KEY, BACKFILL_EPOCH)

    with_client(work)
