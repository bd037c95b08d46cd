"""Listening sockets, opened by the supervisor and kept across restarts of the actors that accept on them.

A connection that arrives while its actor is being restarted waits in the backlog instead of being refused, and actors
may start in any order: whoever connects to a socket that is bound already is served as soon as its owner runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Sequence
from pathlib import Path

from .errors import FolderUnusable, PortTaken

BACKLOG = 1024


def open_listeners(what: str, host: str, port: int, count: int) -> list[socket.socket]:
    """`count` non-blocking sockets that listen on one address; port 0 takes any free one.

    First a bind without SO_REUSEPORT: with it, a second process of the same user would bind without an error and take
    half of the connections. Then one SO_REUSEPORT socket for each worker, between which the kernel spreads connections.

    Raises PortTaken, or FolderUnusable when the address itself cannot be used.
    """
    family, address = _resolve(what, host, port)
    probe = socket.socket(family, socket.SOCK_STREAM)
    sockets: list[socket.socket] = []
    try:
        # not the flag of two listeners: on Linux this only lets us bind while old connections linger in TIME_WAIT
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _bind(probe, what, host, port, address)
        probe.listen(1)  # bind alone succeeds beside a listener that set SO_REUSEADDR too
        bound = probe.getsockname()
        probe.close()
        sockets.extend(_listen_beside(family, bound) for _ in range(count))
    except BaseException as error:
        probe.close()
        for opened in sockets:
            opened.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise _taken(what, host, port) from None
        raise
    return sockets


def open_more(
    what: str, host: str, port: int, count: int, ours: Sequence[socket.socket]
) -> list[socket.socket]:  # fmt: skip
    """`count` sockets for further workers, beside those of ours that listen there; without any as `open_listeners`."""
    if not ours:
        return open_listeners(what, host, port, count)
    return [_listen_beside(ours[0].family, ours[0].getsockname()) for _ in range(count)]


def _listen_beside(family: int, address: tuple) -> socket.socket:
    worker = socket.socket(family, socket.SOCK_STREAM)
    try:
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind(address)
        worker.listen(BACKLOG)
        worker.setblocking(False)
    except BaseException:
        worker.close()
        raise
    return worker


def open_unix_listener(path: Path, mode: int) -> socket.socket:
    """A non-blocking listening unix socket; a file left by a dead owner is replaced (the instance lock is ours)."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(mode)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise FolderUnusable(
            f"cannot listen on the unix socket {path} ({len(str(path))} characters, at most 107 are possible): "
            f"{error.strerror or error}. Choose a shorter instance.folder, or make it writable."
        ) from None
    return listener


def _resolve(what: str, host: str, port: int) -> tuple[socket.AddressFamily, tuple]:
    try:
        # numeric or /etc/hosts names: no helper thread may be alive when actors are forked, and this call makes none
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise FolderUnusable(
            f"{what}: host {host!r} cannot be resolved ({error.strerror}); use a local address"
        ) from None
    return family, address


def _bind(sock: socket.socket, what: str, host: str, port: int, address: tuple) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _taken(what, host, port) from None
        raise FolderUnusable(
            f"{what} cannot listen on {host}:{port}: {error.strerror}. "
            f"Use an address of this machine (127.0.0.1 for local clients) and a port above 1023."
        ) from None


def _taken(what: str, host: str, port: int) -> PortTaken:
    owner = describe_listener(port)
    return PortTaken(
        f"{what} cannot listen on {host}:{port}: {owner or 'another process'} already does. "
        f"Stop that one, or choose another port."
    )


def describe_listener(port: int) -> str | None:
    """`process 4711 (python -m ...)` that listens on a TCP port, if we are allowed to see it."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as lines:
            next(lines)
            for line in lines:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return None
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in os.scandir(folder / "fd"):
                if os.readlink(descriptor.path) in inodes:
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    return f"process {folder.name} ({command[:100]})"
        except OSError:
            continue  # gone meanwhile, or another user's
    return None
