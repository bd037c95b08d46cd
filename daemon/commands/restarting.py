"""The command `tickring restart` without an actor: a new daemon takes the instance over from the running one."""

from __future__ import annotations

import time
from pathlib import Path

from ..control import ask
from ..errors import ActorFailed, NotReady, NotRunning

ASK_TIMEOUT_S = 90.0  # the new daemon imports and plans; takeover.READY_TO_ASK_S is the limit
READY_TIMEOUT_S = 120.0
LOOK_S = 0.05


def restart_daemon(socket: Path) -> None:
    """Start a new daemon that takes over; return when all its actors run.

    Raises:
        Refused: it could not take over, the running one goes on; the message says why.
        ActorFailed: it ended before it was ready.
        NotReady: it is not ready in time.
    """
    began = time.monotonic()
    pid = ask(socket, "take_over", timeout_s=ASK_TIMEOUT_S)["pid"]
    while time.monotonic() - began < ASK_TIMEOUT_S + READY_TIMEOUT_S:
        try:
            answer = ask(socket, "status")
        except NotRunning:
            answer = {"pid": 0}
        if answer["pid"] == pid and answer["ready"]:
            print(f"process {pid} has taken over, ready after {time.monotonic() - began:.1f} s")
            return
        if not _is_alive(pid):
            rest = "the one before it goes on" if answer["pid"] not in (0, pid) else "its log says why"
            raise ActorFailed(f"the new daemon, process {pid}, ended before it was ready: {rest}")
        time.sleep(LOOK_S)
    raise NotReady(f"process {pid} has taken over, but is not ready: look at `tickring status`")


def _is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which the old daemon has not collected yet, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False
