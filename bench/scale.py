"""What a message costs where there is more of everything: 2,000 symbols beside 10, a ring of 2^22 slots beside 2^16.

The feed's path behind the socket, as in `decode.py`: decoder with all its checks, ring, tail, doorbell check. CPU time,
best of interleaved rounds. Symbols come as on a market, the n-th with a share of 1/n, which is what has a limit; and
evenly, where nearly every message meets a route and a tail that the CPU's caches do not hold. The rings are new: the
large one is written for the first time all along.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from decode import FIRST_ID, READ, make_decoder, name_of
from harness import Line, interleaved

FRAMES = 10_000  # in a round: few, so that they stay in the caches like what a socket just brought
FEW, MANY, MANY_MAX = 10, 2000, 1.35  # symbols, and what many may cost beside few
SMALL, LARGE, LARGE_MAX = 1 << 16, 1 << 22, 1.10  # slots, and what the large ring may cost beside the small one
RING_SYMBOLS = 20


def frames_of(keys: int, n: int, *, even: bool) -> list[bytes]:
    """`n` combined aggTrade frames over `keys` symbols, ids contiguous for each symbol."""
    chance = random.Random(1)
    weights = [1.0 if even else 1 / (rank + 1) for rank in range(keys)]
    names = [name_of(key) for key in range(keys)]
    chance.shuffle(names)  # a symbol's row says nothing of how busy it is
    ids = dict.fromkeys(names, 0)
    frames = []
    for i, name in enumerate(chance.choices(names, weights, k=n)):
        ids[name] += 1
        number, now = 10 * FIRST_ID + ids[name], 1_790_000_000_000 + i
        maker = "true" if chance.random() < 0.5 else "false"
        frames.append(
            f'{{"stream":"{name.lower()}usdt@aggTrade","data":{{"e":"aggTrade","E":{now},"s":"{name}USDT","a":{number},'
            f'"p":"{chance.uniform(100, 70000):.2f}","q":"{chance.uniform(0.001, 9):.5f}","f":{number * 3},'
            f'"l":{number * 3 + 2},"T":{now - 1},"m":{maker},"M":true}}}}'.encode()
        )
    return frames


def feed_path(stack: ExitStack, keys: int, frames: list[bytes], capacity: int = 1 << 17) -> Callable[[], None]:
    """A function that takes all frames from bytes to tail, into a stream of its own."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tickring-bench-", dir="/dev/shm")))
    decoder, sink, writer, reader = make_decoder(folder, keys, capacity)
    stack.callback(writer.close)
    stack.callback(reader.close)
    reads = [frames[i : i + READ] for i in range(0, len(frames), READ)]
    on_frames, flush, now = decoder.on_frames, sink.flush, time.time_ns()

    def run() -> None:
        for route in decoder.routes():
            route.aggregates.following = 10 * FIRST_ID + 1  # the same ids again
        for some in reads:
            on_frames(some, now)
            flush()

    before = writer.sequence
    run()
    assert writer.sequence - before == len(frames), f"{writer.sequence - before} records of {len(frames)} frames"
    return run


def compared(
    what: str,
    few: tuple[str, Callable[[], None]],
    many: tuple[str, Callable[[], None]],
    limit: float | None,
    rounds: int,
) -> Line:
    best = interleaved({"few": few[1], "many": many[1]}, rounds=rounds)
    detail = ", ".join(
        f"{name} {best[key] / FRAMES * 1e9:.0f} ns a message" for key, (name, _) in (("few", few), ("many", many))
    )
    return Line(what, best["many"] / best["few"], "x", limit, detail=detail)


def run(quick: bool = False) -> list[Line]:
    rounds, lines = 30 if quick else 90, []
    for how, even, limit in (("as on a market", False, MANY_MAX), ("evenly", True, None)):
        with ExitStack() as stack:
            few, many = (
                (f"{keys:,} symbols", feed_path(stack, keys, frames_of(keys, FRAMES, even=even)))
                for keys in (FEW, MANY)
            )
            lines.append(
                compared(f"cost of a message, {MANY:,} symbols to {FEW}, busy {how}", few, many, limit, rounds)
            )
    with ExitStack() as stack:
        frames = frames_of(RING_SYMBOLS, FRAMES, even=False)
        small, large = (
            (f"{capacity:,} slots", feed_path(stack, RING_SYMBOLS, frames, capacity)) for capacity in (SMALL, LARGE)
        )
        lines.append(compared("cost of a message, ring of 2^22 slots to 2^16", small, large, LARGE_MAX, rounds))
    return lines


if __name__ == "__main__":
    for line in run():
        print(f"{line.name:60} {line.value:.2f} {line.unit} (limit {line.limit}) {line.verdict}  {line.detail}")
