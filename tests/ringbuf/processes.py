"""Real processes for the tests of shared memory: forked, checked, killed."""

from __future__ import annotations

import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable

import numpy as np
import pytest

from tickring.ringbuf import StreamSpec, StreamWriter

ROW_DTYPE = np.dtype([
    ("nth", "<u8"), ("ts_recv_ns", "<i8"), ("ts_event_ns", "<i8"), ("key_id", "<u4"), ("flags", "<u4"),
    ("a", "<u8"), ("b", "<f8"), ("c", "<u8"), ("d", "<f8"),
])  # fmt: skip
ROW_FORMAT = "<QqqIIQdQd"
assert ROW_DTYPE.itemsize == 64


def spec_of(
    capacity: int = 64, tail: int = 8, keys_max: int = 8, producer: str = "feed", fingerprint: int = 7
) -> StreamSpec:
    return StreamSpec(producer, "rec", 64, capacity, tail, keys_max, fingerprint)


def values_of(sequence: int) -> tuple[int, float, int, float]:
    """What the record of a sequence must hold, so that any mixture of two records shows."""
    return sequence, sequence * 0.5, sequence ^ 0xFFFF_FFFF, float(-sequence)


def assert_whole(rows: np.ndarray) -> None:
    """Every row holds the values of one sequence, all four of them."""
    a = rows["a"]
    assert (rows["b"] == a * 0.5).all()
    assert (rows["c"] == a ^ np.uint64(0xFFFF_FFFF)).all()
    assert (rows["d"] == -(a.astype(np.float64))).all()


def packed_run(writer: StreamWriter, key: int, first: int, n: int) -> bytearray:
    """`n` packed records of one key, for sequences from `first` on, numbered from the key's count on."""
    nth = writer.counts[key]
    return bytearray().join(struct.pack(ROW_FORMAT, nth + i, 1, 2, key, 0, *values_of(first + i)) for i in range(n))


def fork(child: Callable[[], None]) -> int:
    """Run `child` in a forked process; exit code 0 = returned, 1 = raised (printed)."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        child()
        code = 0
    except BaseException:  # noqa: BLE001 - reported through the exit code
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def join(pid: int) -> int:
    """Exit code of a forked process; minus the signal's number when one ended it."""
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def join_all(pids: list[int]) -> None:
    codes = [join(pid) for pid in pids]
    if any(codes):
        pytest.fail(f"child processes ended with {codes}, see their tracebacks above")
