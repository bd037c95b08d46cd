"""Commands that show something: check, status, inspect, version; and those that send a word: stop, restart, reload."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from pathlib import Path
from typing import Any

from ..control import ask
from ..errors import EXIT_CONFIG, EXIT_OK, EXIT_SOFTWARE, ConfigError, InputMissing, SpaceShort
from ..rights import explained
from .output import print_json, print_table

RELOAD_TIMEOUT_S = 120.0  # the daemon answers when what it restarted runs again, or has had time enough
LIBRARIES = ("aiohttp", "chdb", "clickhouse-connect", "msgspec", "numpy", "picows", "uvloop")


def check(file: Path, *, as_json: bool) -> int:
    """Print every mistake of a configuration, or the plan it makes; returns the exit code.

    Rings that do not fit are no mistake of the file, and the machine may be another one: they are told of beside it.
    """
    from ..instance import check_space
    from ..loading import load
    from ..markets import streams_carried
    from ..plan import make_plan

    try:
        plan = make_plan(load(file), str(file))
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"ok": False, "file": str(file), "mistakes": error.mistakes})
        return EXIT_CONFIG
    warnings = []
    try:
        check_space(plan)
    except SpaceShort as short:
        warnings.append(f"`run` would refuse: {short}")
    except PermissionError as error:
        warnings.append(f"`run` would refuse: {explained(error)}")
    actors = [
        {
            "name": actor.name,
            "kind": actor.kind,
            "cpus": list(actor.cpus),
            "listen": f"{actor.address.host}:{actor.address.port}" if actor.address else "",
            "streams": [spec.record for spec in actor.streams],
            "keys": actor.keys,
            "channels": list(actor.config.channels) if actor.kind == "feed" else [],
            "subscriptions": streams_carried(actor.config) if actor.kind == "feed" else 0,
        }
        for actor in plan.actors
    ]
    if as_json:
        summary = {"ok": True, "file": str(file), "instance": plan.name, "folder": plan.folder, "data": plan.data}
        print_json({**summary, "memory_bytes": plan.memory_bytes, "warnings": warnings, "actors": actors})
        return EXIT_OK
    print(f"{file}: no mistakes. Instance {plan.name!r} in {plan.folder}, data in {plan.data}.")
    print(f"The rings take {plan.memory_bytes:,} bytes of shared memory.")
    for warning in warnings:
        print(f"tickring: {warning}", file=sys.stderr)
    columns = ["name", "kind", "cpus", "listen", "channels", "subscriptions", "streams", "keys"]
    rows = [[_cell(actor[column]) for column in columns] for actor in actors]
    print_table(columns, rows)
    return EXIT_OK


def _cell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def status(socket: Path, *, as_json: bool) -> None:
    answer = ask(socket, "status")
    if as_json:
        print_json(answer)
        return
    state = "stopping" if answer["stopping"] else "ready" if answer["ready"] else "not ready"
    about = f"process {answer['pid']}, up {answer['uptime_s']:,.0f} s, rings in {answer['folder']}"
    print(f"instance {answer['instance']!r} {state}, {about}")
    now_ns = time.time_ns()
    print_table(
        ["actor", "state", "for s", "pid", "restarts", "cpus", "listen", "ended last by"],
        [
            [
                actor["name"], actor["state"], f"{(now_ns - actor['since_ns']) / 1e9:.0f}", actor["pid"] or "-",
                actor["restarts"], _cell(actor["cpus"]), actor.get("listen", "-"), actor["reason"] or "-",
            ]
            for actor in answer["actors"]
        ],
    )  # fmt: skip


def stop(socket: Path) -> None:
    ask(socket, "stop")
    print("asked to stop: it drains its actors in order and ends")


def restart(socket: Path, actor: str) -> None:
    ask(socket, "restart", actor=actor)
    print(f"{actor}: asked to restart")


def reload(socket: Path, *, as_json: bool) -> int:
    """Have the daemon re-read its configuration and print what became of it; returns the exit code.

    Raises:
        Refused: the configuration holds mistakes, which are in the message, or cannot be carried out.
    """
    answer = ask(socket, "reload", timeout_s=RELOAD_TIMEOUT_S)
    if as_json:
        print_json(answer)
    else:
        for what in ("added", "restarted", "moved", "removed", "unchanged", "settings"):
            if answer[what]:
                print(f"{what:<10} {', '.join(answer[what])}")
        for setting in answer["needs_restart"]:
            print(f"not taken over, needs a restart of the daemon: {setting}")
        for name, state in answer["failed"].items():
            print(f"{name} does not run: {state}", file=sys.stderr)
    return EXIT_SOFTWARE if answer["failed"] else EXIT_OK


def inspect_target(target: str | None) -> Path | None:
    """TARGET as a path, or None if it is not one but the name of an instance."""
    if target is None or ("/" not in target and not Path(target).exists()):
        return None
    path = Path(target)
    if not path.exists():
        raise InputMissing(f"there is no {path}: name a file or a folder of shared memory, or an instance")
    return path


def inspect(where: Path | None, *, as_json: bool) -> None:
    """Print the layout table (without a place), one file, or every file of a folder."""
    from ...ringbuf.inspect import inspect_file, inspect_folder, layout_table

    layout = [dict(zip(("offset", "size", "field", "writer", "meaning"), row, strict=True)) for row in layout_table()]
    if where is None:
        if as_json:
            print_json(layout)
        else:
            print_table(list(layout[0]), [list(row.values()) for row in layout])
        return
    files = inspect_folder(where) if where.is_dir() else [inspect_file(where)]
    if as_json:
        print_json({"layout": layout, "files": files})
        return
    print_table(list(layout[0]), [list(row.values()) for row in layout], "layout of a stream")
    print()
    streams = [file for file in files if "publish" in file and "slot_size" in file]
    names = (
        "file",
        "slot_size",
        "capacity",
        "tail",
        "keys_max",
        "epoch_ns",
        "producer_pid",
        "claim",
        "publish",
        "oldest",
        "bytes_reserved",
    )
    if streams:
        print_table(names, [[stream[name] for name in names] for stream in streams], "streams")
    readers = [(stream["file"], reader) for stream in streams for reader in stream["readers"]]
    if readers:
        names = ("name", "kind", "pid", "alive", "doorbell", "cursor", "lag", "wake_at")
        print()
        print_table(
            ("file", *names), [[file, *[reader[name] for name in names]] for file, reader in readers], "readers"
        )
    for file in files:
        if file not in streams:
            facts = {
                name: len(value) if isinstance(value, list) else value for name, value in file.items() if name != "file"
            }
            print(f"{file['file']}: {', '.join(f'{name}={value}' for name, value in facts.items())}")


def version(*, as_json: bool) -> None:
    facts: dict[str, Any] = {
        "tickring": _version("tickring"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    facts |= {library: _version(library) for library in LIBRARIES}
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:<20}{value or 'not installed'}", file=sys.stdout)


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None
