"""Control endpoints of the simulator, under `/sim` on the REST port. They cost no weight.

| request | answer |
|---|---|
| `GET /sim/status` | source and its progress, totals, connections, request weights, faults so far |
| `GET /sim/streams` | for each stream: frames sent, kept back, first and last id, subscribers |
| `GET /sim/connections` | open connections with their subscriptions |
| `GET /sim/sent?product=&stream=` | payloads sent on a stream, one a line (needs `ledger_frames_max`) |
| `GET /sim/answered?product=&path=&symbol=` | bodies answered on a path (`depth`), one a line (`ledger_answers_max`) |
| `GET /sim/stamps?product=&stream=` | little-endian int64 pairs of id and send time in UNIX ns (source `paced`) |
| `GET /sim/book?product=&symbol=` | the whole book now, as a depth body |
| `POST /sim/start` | begin now, whatever `start` says |
| `GET`, `POST`, `DELETE /sim/faults` | list the faults; start one: `{"fault": name, ...}`, see `faults`; lift all |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from .errors import UnknownFault
from .faults import FAULTS, lift_faults, start_fault
from .hub import Stream

if TYPE_CHECKING:
    from .simulator import Simulator

_encode = msgspec.json.Encoder().encode


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=_encode(value), status=status, content_type="application/json")


class ControlServer:
    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/sim/status", self._status),
            web.get("/sim/streams", self._streams),
            web.get("/sim/connections", self._connections),
            web.get("/sim/sent", self._sent),
            web.get("/sim/answered", self._answered),
            web.get("/sim/stamps", self._stamps),
            web.get("/sim/book", self._book),
            web.post("/sim/start", self._start),
            web.get("/sim/faults", self._list_faults),
            web.post("/sim/faults", self._start_fault),
            web.delete("/sim/faults", self._lift_faults),
        ]

    async def _status(self, request: web.Request) -> web.Response:
        return _json(self._simulator.status())

    async def _streams(self, request: web.Request) -> web.Response:
        rows = {}
        for product, hub in self._simulator.hubs.items():
            for name, stream in hub.streams.items():
                rows[f"{product}:{name}"] = {
                    "frames": stream.frames, "withheld": stream.withheld, "first_id": stream.first_id,
                    "last_id": stream.last_id, "subscribers": len(stream.raw) + len(stream.combined),
                }  # fmt: skip
        return _json(rows)

    async def _connections(self, request: web.Request) -> web.Response:
        return _json(
            [
                {
                    "connection": each.number,
                    "product": each.hub.product,
                    "tier": each.tier,
                    "combined": each.combined,
                    "streams": list(each.subscribed),
                    "attached": sum(each.subscribed.values()),
                    "muted": each.muted,
                    "paused": each.paused,
                    "backlog_bytes": each.backlog,
                    "frames_sent": each.frames_sent,
                    "bytes_sent": each.bytes_sent,
                    "withheld": each.withheld,
                    "messages_received": each.messages_received,
                }
                for each in self._simulator.connections()
            ]
        )

    def _find(self, request: web.Request) -> Stream:
        hub = self._simulator.hubs.get(request.query.get("product", ""))
        stream = hub.streams.get(request.query.get("stream", "")) if hub is not None else None
        if stream is None:
            raise web.HTTPNotFound(text="no such stream: give `product` (spot, usdm) and the `stream` as subscribed\n")
        return stream

    async def _sent(self, request: web.Request) -> web.Response:
        stream = self._find(request)
        if stream.sent is None:
            raise web.HTTPConflict(text="nothing is kept: set ledger_frames_max\n")
        headers = {"X-Frames": str(stream.frames), "X-Complete": str(int(len(stream.sent) == stream.frames))}
        body = b"".join(payload + b"\n" for payload in stream.sent)
        return web.Response(body=body, headers=headers, content_type="application/x-ndjson")

    async def _answered(self, request: web.Request) -> web.Response:
        told = tuple(request.query.get(name, "") for name in ("product", "path", "symbol"))
        kept = self._simulator.rest.answered.get(told, ())  # pyright: ignore[reportArgumentType, reportCallIssue]
        complete = len(kept) < self._simulator.config.ledger_answers_max
        body = b"".join(answer + b"\n" for answer in kept)
        return web.Response(body=body, headers={"X-Complete": str(int(complete))}, content_type="application/x-ndjson")

    async def _stamps(self, request: web.Request) -> web.Response:
        stamps = getattr(self._simulator.source, "stamps", {}).get(self._find(request))
        return web.Response(body=stamps.tobytes() if stamps else b"", content_type="application/octet-stream")

    async def _book(self, request: web.Request) -> web.Response:
        body = self._simulator.source.depth(request.query.get("product", ""), request.query.get("symbol", ""), 1 << 30)
        if body is None:
            raise web.HTTPNotFound(text="no such symbol\n")
        return web.Response(body=body, content_type="application/json")

    async def _start(self, request: web.Request) -> web.Response:
        self._simulator.source.start_command.set()
        return _json({"started": True})

    async def _list_faults(self, request: web.Request) -> web.Response:
        return _json(
            {name: {"summary": fault.summary, "parameters": fault.parameters} for name, fault in FAULTS.items()}
        )

    async def _start_fault(self, request: web.Request) -> web.Response:
        try:
            wanted = msgspec.json.decode(await request.read(), type=dict)
            return _json(start_fault(self._simulator, wanted))
        except (msgspec.DecodeError, UnknownFault, ValueError) as error:
            return _json({"error": str(error)}, 400)

    async def _lift_faults(self, request: web.Request) -> web.Response:
        return _json(lift_faults(self._simulator))
