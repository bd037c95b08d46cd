"""A supervisor over tiny actors, as a process of its own: `python harness.py '<json>'`.

`python harness.py serve` starts one after the other by `fork`: most of a short test is the imports of an interpreter.

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
import traceback
from pathlib import Path
from types import SimpleNamespace

import msgspec

from tickring.daemon import logs, reloading, supervisor
from tickring.daemon.config import SupervisorConfig
from tickring.daemon.errors import DaemonError, exit_code_of
from tickring.daemon.plan import ActorPlan, Address, Plan
from tickring.daemon.takeover import Predecessor, telling_why
from tickring.ringbuf.errors import TickringError
from tickring.ringbuf.layout import StreamSpec

WAIT_S = 60.0  # in place of the limits after which the supervisor no longer waits for others: here they are tested


def note(ctx, text: str) -> None:
    with open(ctx.data / "notes", "a") as notes:
        notes.write(f"{ctx.name} {text}\n")


async def work(ctx) -> None:
    note(ctx, f"start {os.getpid()}")
    ctx.running()
    await ctx.beat_until_stopped()
    await asyncio.sleep(ctx.config.get("drain_s", 0))
    held_by = ctx.config.get("drains_while")
    while held_by and (ctx.data / held_by).exists():  # noqa: ASYNC110 - the test is another process
        await asyncio.sleep(0.01)
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
    while not (ctx.data / "crash").exists():
        ctx.beat()
        await asyncio.sleep(0.01)
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


def serve_forks() -> None:
    """Answer each line of standard input: with the pid of a supervisor, or with the exit code of one, if it has ended.

    A supervisor that has ended keeps its pid until somebody asks for its code.
    """
    supervisor.child.preload()
    for line in sys.stdin:
        asked = json.loads(line)
        if "ended" in asked:
            pid, status = os.waitpid(asked["ended"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        elif pid := os.fork():
            print(pid, flush=True)
        else:
            os._exit(run_forked(asked))


def run_forked(asked: dict) -> int:
    """Be a supervisor as `subprocess` would have started it; its exit code."""
    try:
        null, log = os.open(os.devnull, os.O_RDWR), os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number, fd in enumerate((null, null, log)):  # the pipes belong to the one who forks
            os.dup2(fd, number)
        os.closerange(3, max(null, log) + 1)
        os.environ |= asked["environment"]
        return main(asked["spec"])
    except BaseException:  # noqa: BLE001 - nothing may unwind into the frames of the one who forks
        traceback.print_exc()
        return 1
    finally:
        sys.stderr.flush()


def main(spec: dict) -> int:
    logs.setup("DEBUG", "text")
    supervisor.START_ORDER_WAIT_S = supervisor.RINGS_READ_WAIT_S = reloading.RINGS_READ_WAIT_S = WAIT_S
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
            daemon = supervisor.Supervisor(
                make_plan(spec),
                leave_nothing=spec.get("leave_nothing", False),
                wakeup_device=Path(spec.get("wakeup_device", "/dev/null")),
                replan=lambda: make_plan(json.loads(next_spec.read_text())),
                predecessor=predecessor,
                successor=[sys.executable, __file__, json.dumps(spec | {"take_over": True})],
            )
            return asyncio.run(daemon.run())
    except DaemonError as error:
        print(f"error: {error}", file=sys.stderr)
        return exit_code_of(error)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve_forks()
    else:
        sys.exit(main(json.loads(sys.argv[1])))
