"""Run a simulator by itself: `python -m tickring.actors.simulator --config-json '{"source": "paced"}'`.

Prints its URLs as one line of JSON once it listens, and runs until SIGTERM or SIGINT, or until its standard input
closes if `--with-parent` is given.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys

import msgspec
import uvloop

from ...ringbuf.errors import TickringError
from .config import Config
from .simulator import Simulator


async def _run(config: Config, with_parent: bool) -> None:
    simulator = Simulator(config)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await simulator.start()
    print(json.dumps(simulator.urls), flush=True)
    if with_parent:
        stdin = sys.stdin.fileno()
        loop.add_reader(stdin, lambda: None if os.read(stdin, 4096) else stop.set())
    try:
        while not stop.is_set():
            simulator.check()
            try:
                await asyncio.wait_for(stop.wait(), 0.25)
            except TimeoutError:
                continue
    finally:
        await simulator.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tickring.actors.simulator", description=__doc__)
    parser.add_argument("--config-json", default="{}", help="the simulator's configuration as one JSON object")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args()
    try:
        config = msgspec.json.decode(arguments.config_json, type=Config)
        uvloop.run(_run(config, arguments.with_parent))
    except (msgspec.ValidationError, msgspec.DecodeError, TickringError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
