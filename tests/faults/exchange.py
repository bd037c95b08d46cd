"""The exchange of a campaign: a simulator in a process of its own, outside the daemon, that can be brought to a stand.

Prints its URLs as one line of JSON. The line ``freeze`` on standard input ends the market, answered with ``frozen``:
from then on the streams have told everything that the books hold. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import sys

import msgspec
import uvloop

from tickring.actors.simulator import Config, Simulator


async def main(config: Config) -> None:
    simulator = Simulator(config)
    await simulator.start()
    print(json.dumps(simulator.urls), flush=True)
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line == "freeze\n":
                await simulator.freeze()
                print("frozen", flush=True)
    finally:
        await simulator.stop()


if __name__ == "__main__":
    uvloop.run(main(msgspec.json.decode(sys.argv[1], type=Config)))
