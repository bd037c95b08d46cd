"""The command `storage status`: what history holds, what waits for it, and what it lacks."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from ...actors import gaps
from ...actors.control import CONTROL_SOCKET
from ...actors.writer.follower import DURABLE_LINE, STORED_LINE
from ...ringbuf import RingError, page_filename, read_page
from ...ringbuf.inspect import inspect_stream
from ...storage.client import Client, Server
from ...storage.errors import StorageError
from ...storage.gaps import GapTotal, gap_totals, read_gaps
from ...storage.offsets import DESK_SPOOL
from ...storage.overview import table_statuses
from ...storage.spoolhead import spool_bytes
from ..control import ask
from ..errors import EXIT_OK, EXIT_UNAVAILABLE, NotRunning
from .output import print_json, print_table

WRITER = "writer"
TIMEOUT_S = 2.0  # for each answer of ClickHouse
MIB = 1 << 20
NOT_RECEIVED, NOT_CONNECTED = "not_received", "not_connected"  # of the feeds' ledgers, beside the writer's reasons


def status(folder: Path, config_file: Path | None, *, as_json: bool) -> int:
    """Print it; returns the exit code: 69 when ClickHouse does not answer, whose part is then missing.

    Args:
        folder: of the instance in shared memory.
        config_file: where the password of ClickHouse stands, if it stands in the configuration and not in a file.
    """
    answer = ask(folder / CONTROL_SOCKET, "status")
    try:
        page = read_page(folder / page_filename(WRITER))
    except (RingError, OSError) as error:
        raise NotRunning(f"instance {answer['instance']!r} has no writer: {error}") from None
    facts = _facts(folder, Path(answer["data"]) / WRITER, dict(page.detail))
    server = server_of(facts["clickhouse"], config_file)
    try:
        facts["tables"] = [asdict(table) for table in asyncio.run(_tables(server))]
    except StorageError as error:
        facts["tables"], facts["clickhouse"]["error"] = None, str(error)
    if as_json:
        print_json({"instance": answer["instance"], **facts})
    else:
        _print(facts)
    return EXIT_OK if facts["tables"] is not None else EXIT_UNAVAILABLE


def server_of(stated: dict[str, Any], config_file: Path | None) -> Server:
    """The server as the writer has it, which keeps a password of the configuration to itself."""
    if config_file is not None:
        from ..loading import load
        from ..plan import clickhouse_server

        return clickhouse_server(load(config_file))
    return Server(**{name: stated.get(name, "") for name in ("url", "user", "database", "password_file")})


async def _tables(server: Server) -> list[Any]:
    client = Client(msgspec.structs.replace(server, timeout_s=TIMEOUT_S))
    try:
        return await table_statuses(client, server.database)
    finally:
        await client.close()


def _missed(data: Path) -> list[GapTotal]:
    """What never came to the feeds, by feed and kind; `rows` of books and of outages are not known."""
    totals = []
    for path in sorted((data / gaps.GAPS_FOLDER).glob("*.jsonl")):
        by_kind: dict[str, list[gaps.Gap]] = {}
        for gap in gaps.read_gaps(path):
            by_kind.setdefault(gap.kind, []).append(gap)
        for kind, found in by_kind.items():
            rows = 0 if kind == "book" else sum(gap.last_id - gap.first_id + 1 for gap in found)
            totals.append(_total(f"{path.stem}.{kind}", NOT_RECEIVED, [gap.to_ns for gap in found], rows))
    for path in sorted((data / gaps.OUTAGES_FOLDER).glob("*.jsonl")):
        outages = [one for one in gaps.read_outages(path) if one.from_ns != one.to_ns]
        if outages:
            total = _total(path.stem, NOT_CONNECTED, [one.to_ns or one.from_ns for one in outages], 0)
            total.open = sum(not one.to_ns for one in outages)
            totals.append(total)
    return totals


def _total(stream: str, reason: str, noticed_ns: list[int], rows: int) -> GapTotal:
    return GapTotal(
        stream, reason, len(noticed_ns), rows, first_noticed_ns=min(noticed_ns), last_noticed_ns=max(noticed_ns)
    )


def _facts(folder: Path, data: Path, detail: dict[str, Any]) -> dict[str, Any]:
    """What needs no ClickHouse: from the writer's page, its folder, the feeds' ledgers, and the rings."""
    return {
        "clickhouse": dict(detail.get("clickhouse", {})),
        "desk_clickhouse": detail.get("desk", {}).get("clickhouse"),  # None: the desk has stored nothing yet
        "tables": None,
        "spool": _spool(data / "spool", detail),
        "desk_spool": _spool(data / DESK_SPOOL, detail.get("desk", {})),
        "cursors": _cursors(folder),
        "gaps": [asdict(total) for total in (*gap_totals(read_gaps(data)), *_missed(data.parent))],
    }


def _spool(folder: Path, detail: dict[str, Any]) -> dict[str, Any]:
    return {**detail.get("spool", {}), "folder": str(folder), "bytes": spool_bytes(folder)}


def _cursors(folder: Path) -> list[dict[str, Any]]:
    """How far each ring is safe (in ClickHouse or in the spool) and stored (in ClickHouse), and the rows behind."""
    found = []
    for path in sorted(folder.glob("*.ring")):
        try:
            stream = inspect_stream(path)
        except (RingError, OSError):
            continue  # made anew just now
        lines = {line["name"]: line for line in stream["readers"]}
        safe, stored = lines.get(DURABLE_LINE), lines.get(STORED_LINE)
        if safe is not None:
            found.append({
                "stream": path.stem, "epoch": stream["epoch_ns"], "published": stream["publish"],
                "safe": safe["cursor"], "lag_rows": safe["lag"], "alive": safe["alive"],
                "stored": stored["cursor"] if stored else None, "not_stored_rows": stored["lag"] if stored else None,
            })  # fmt: skip
    return found


def _print(facts: dict[str, Any]) -> None:
    clickhouse = facts["clickhouse"]
    print(f"clickhouse {clickhouse.get('url')}, database {clickhouse.get('database')}: {_state(clickhouse)}")
    if facts["desk_clickhouse"] is not None:
        print(f"the desk's events: {_state(facts['desk_clickhouse'])}")
    if facts["tables"] is None:
        print(f"tables are not known: {clickhouse['error']}")
    elif facts["tables"]:
        columns = ("table", "rows", "MiB", "uncompressed", "partitions", "parts", "oldest", "newest", "kept")
        print_table(columns, [
            [
                table["table"], f"{table['rows']:,}", _mib(table["bytes_compressed"]),
                _mib(table["bytes_uncompressed"]), table["partitions"], table["parts"], _time(table["oldest_ns"]),
                _time(table["newest_ns"]), _kept(table["ttl"]),
            ]
            for table in facts["tables"]
        ], "tables")  # fmt: skip
    print()
    for spool in (facts["spool"], facts["desk_spool"]):
        print(f"spool {spool['folder']}: {_mib(spool['bytes'])} of {_mib(spool.get('bytes_max', 0))} MiB, "
              f"{spool.get('batches', 0)} batches wait")  # fmt: skip
        if oldest := spool.get("oldest"):
            print(f"oldest waiting batch: {oldest['rows']:,} rows of {oldest['stream']}, "
                  f"received {_time(oldest['ts_first_ns'])}")  # fmt: skip
    for title, rows in (("cursors", facts["cursors"]), ("gaps", facts["gaps"])):
        print()
        if rows:
            print_table(list(rows[0]), [[_cell(name, value) for name, value in row.items()] for row in rows], title)
        else:
            print(f"{title}: none")


def _state(clickhouse: dict[str, Any]) -> str:
    """Of one way to ClickHouse, as the writer's page tells of it."""
    reason = clickhouse.get("reason") or "starting"
    if clickhouse.get("up"):
        return "takes rows"
    return reason if clickhouse.get("catching_up") else f"away: {reason}"


def _cell(name: str, value: object) -> str:
    if name.endswith("_ns") and isinstance(value, int):
        return _time(value)
    return "-" if value is None else str(value)


def _kept(ttl: str) -> str:
    """`90 d`, or the least and the most where it depends on the row."""
    days = sorted(int(number) for number in re.findall(r"\b\d+\b", ttl.partition("toIntervalDay")[2]))
    if not days:
        return ttl or "for ever"
    return f"{days[0]} d" if len(days) == 1 else f"{days[0]} to {days[-1]} d"


def _mib(size: int) -> str:
    return f"{size / MIB:,.1f}"


def _time(ts_ns: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ts_ns / 1e9)) if ts_ns else "-"
