"""A supervisor over tiny actors, as a process of its own: `python harness.py '<json>'`.

The actors do what a real one may do: work, hang, fail to boot, crash, ignore SIGTERM, accept connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec

from tickring.daemon import logs
from tickring.daemon.config import SupervisorConfig
from tickring.daemon.errors import DaemonError, exit_code_of
from tickring.daemon.plan import ActorPlan, Address, Plan
from tickring.daemon.supervisor import Supervisor
from tickring.daemon.takeover import Predecessor, telling_why
from tickring.ringbuf.errors import TickringError
from tickring.ringbuf.layout import StreamSpec


def note(ctx, text: str) -> None:
    with open(ctx.data / "notes", "a") as notes:
        notes.write(f"{ctx.name} {text}\n")


async def work(ctx) -> None:
    note(ctx, f"start {os.getpid()}")
    ctx.running()
    await ctx.beat_until_stopped()
    await asyncio.sleep(ctx.config.get("drain_s", 0))
    note(ctx, "stop")


async def hang(ctx) -> None:
    note(ctx, f"start {os.getpid()}")
    ctx.running()
    if not (ctx.data / "hung").exists():
        (ctx.data / "hung").touch()
        time.sleep(600)  # noqa: ASYNC251 - a hang is the point
    await ctx.beat_until_stopped()


async def cannot_boot(ctx) -> None:
    note(ctx, "start")
    raise TickringError("store /tmp/store is locked by process 1: stop that one")


async def crash(ctx) -> None:
    note(ctx, "start")
    ctx.running()
    await asyncio.sleep(ctx.config.get("after_s", 0.05))
    raise RuntimeError("boom")


async def ignore_stop(ctx) -> None:
    ctx.running()
    while True:
        ctx.beat()
        await asyncio.sleep(0.1)


async def serve(ctx) -> None:
    async def answer(reader, writer) -> None:
        writer.write(f"{ctx.name} {os.getpid()}\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, sock=ctx.listen)
    ctx.running()
    await ctx.beat_until_stopped()
    server.close()


async def descriptors(ctx) -> None:
    kept = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kept[int(link.name)] = os.readlink(link)
    (ctx.data / "descriptors").write_text(json.dumps({"kept": kept, "bells": list(ctx.doorbells)}))
    await work(ctx)


MAINS = (work, hang, cannot_boot, crash, ignore_stop, serve, descriptors)
BEHAVIOURS = {function.__name__: function for function in MAINS}


def make_plan(spec: dict) -> Plan:
    actors = []
    for index, actor in enumerate(spec["actors"]):
        streams = ()
        if actor.get("streams"):
            capacity, keys_max = actor.get("capacity", 1024), actor.get("keys_max", 64)
            records = actor.get("records", ("trade", "quote"))
            streams = tuple(StreamSpec(actor["name"], record, 64, capacity, 4, keys_max, 1) for record in records)
        actors.append(
            ActorPlan(
                name=actor["name"],
                kind=actor.get("kind", "fake"),
                load=lambda main=BEHAVIOURS[actor["main"]]: main,
                config={name: value for name, value in actor.items() if name not in ("cpus", "after", "port")},
                doorbell=index,
                cpus=tuple(actor.get("cpus", ())),
                drain_rank=actor.get("rank", 0),
                address=Address(actor["group"], "127.0.0.1", actor.get("port", spec.get("port", 0)))
                if "group" in actor
                else None,
                after=tuple(actor.get("after", ())),
                streams=streams,
                keys=4,
            )
        )
    return Plan(
        name="test",
        folder=Path(spec["folder"]),
        data=Path(spec["data"]),
        actors=tuple(actors),
        supervisor=msgspec.convert(spec.get("supervisor", {}), SupervisorConfig),
        deferred=tuple(spec.get("deferred", ())),
    )


def hold(spec: dict, name: str) -> None:
    """Wait while a file of that name is there."""
    while (Path(spec["data"]) / name).exists():
        time.sleep(0.01)


def main() -> int:
    spec = json.loads(sys.argv[1])
    logs.setup("DEBUG", "text")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    next_spec = Path(spec["data"]) / "next.json"
    try:
        with telling_why():
            if spec.get("take_over"):
                spec |= json.loads(next_spec.read_text())
                predecessor = Predecessor(Path(spec["folder"]))
                note(SimpleNamespace(name="successor", data=next_spec.parent), f"start {os.getpid()}")
                hold(spec, "hold_before")
            else:
                predecessor = None
            supervisor = Supervisor(
                make_plan(spec),
                leave_nothing=spec.get("leave_nothing", False),
                wakeup_device=Path(spec.get("wakeup_device", "/dev/null")),
                replan=lambda: make_plan(json.loads(next_spec.read_text())),
                predecessor=predecessor,
                successor=[sys.executable, __file__, json.dumps(spec | {"take_over": True})],
            )
            return asyncio.run(supervisor.run())
    except DaemonError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    sys.exit(main())
