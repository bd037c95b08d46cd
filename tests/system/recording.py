"""A simulated exchange alone, and `tickring record` until its file holds what a test needs."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .tree import until

END_S = 60.0


@contextlib.contextmanager
def simulator(natives: Sequence[str], **config: Any) -> Iterator[dict[str, str]]:
    """A simulated exchange in a process of its own; its addresses."""
    config |= {"spot_ws_port": 0, "usdm_ws_port": 0, "rest_port": 0, "symbols": list(natives)}
    command = [sys.executable, "-m", "tickring.actors.simulator", "--with-parent", "--config-json", json.dumps(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def record(file: Path, symbols: Mapping[str, str], urls: Mapping[str, str]) -> dict[str, Any]:
    """Record a simulated spot market until every symbol is whole in the file; what the command says in the end.

    Args:
        symbols: by the exchange's names for them.
        urls: as the simulator tells them.
    """
    command = [sys.executable, "-m", "tickring", "record", str(file), "--symbols", ",".join(symbols.values()), "--json"]
    command += ["--ws-url", urls["spot_ws"], "--rest-url", urls["spot_rest"]]
    recorder = subprocess.Popen(command, cwd=file.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until("every symbol in the file", lambda: recorder.poll() is not None or is_whole(file, symbols))
        recorder.send_signal(signal.SIGINT)
        said, wrong = recorder.communicate(timeout=END_S)
    finally:
        recorder.kill()
        recorder.communicate()
    assert recorder.returncode == 0, wrong
    return json.loads(said)


def is_whole(file: Path, natives: Iterable[str]) -> bool:
    """Whether a file that is still written has trades and quotes of each symbol, its snapshot, and deltas behind it."""
    if not file.exists():
        return False
    text = zlib.decompressobj(wbits=31).decompress(file.read_bytes()).decode(errors="replace")
    for native in natives:
        _, snapshot, behind = text.partition(f"/depth?symbol={native}&")
        streams = [f'"stream":"{native.lower()}@{channel}' for channel in ("trade", "bookTicker", "depth")]
        if not snapshot or any(stream not in behind for stream in streams):
            return False
    return True
