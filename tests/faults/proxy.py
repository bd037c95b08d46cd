"""The network between the daemon and the exchange: a TCP proxy that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Mapping

CHUNK = 1 << 16


class Network(threading.Thread):
    """Forwards connections from ports of its own to ports of the exchange.

    Args:
        routes: name -> port of the exchange on loopback. `ports` has ours by the same names.
        ports: those of ours that must be certain ones; the others are free ones.
    """

    def __init__(self, routes: Mapping[str, int], ports: Mapping[str, int] | None = None) -> None:
        super().__init__(name="network", daemon=True)
        self._routes, self._wanted = dict(routes), ports or {}
        self.ports: dict[str, int] = {}
        self.accepted = 0
        self._up = threading.Event()

    def __enter__(self) -> Network:
        self.start()
        assert self._up.wait(10), "the proxy's event loop did not start"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self.join(10)

    # -- damage, from any thread

    def cut(self) -> None:
        """End every connection with RST, and every new one, until `mend`."""
        self._loop.call_soon_threadsafe(self._cut)

    def swallow(self) -> None:
        """Carry nothing any more while every connection stays open and new ones are taken, until `mend`."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._mend)

    # -- in the loop

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._is_cut = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        servers = []
        for name, port in self._routes.items():
            server = await asyncio.start_server(
                lambda r, w, port=port: self._connected(r, w, port), "127.0.0.1", self._wanted.get(name, 0)
            )
            self.ports[name] = server.sockets[0].getsockname()[1]
            servers.append(server)
        self._up.set()
        await self._ending.wait()
        for server in servers:
            server.close()
        self._abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut(self) -> None:
        self._is_cut = True
        self._abort()

    def _mend(self) -> None:
        self._is_cut = False
        self._flowing.set()

    def _abort(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        if self._is_cut:
            _reset(writer)
            return
        self.accepted += 1
        self._tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            there, far = await asyncio.open_connection("127.0.0.1", port)
            self._writers.add(far)
            await asyncio.gather(self._carry(reader, far), self._carry(there, writer))
        except (OSError, asyncio.CancelledError):  # asyncio logs a callback that was cancelled
            pass
        finally:
            self._tasks.discard(task)  # type: ignore[arg-type]
            for each in (writer, far):
                if each is not None:
                    self._writers.discard(each)
                    each.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
