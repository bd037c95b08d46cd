"""Faults on demand: what goes wrong with an exchange, by name.

A fault is asked for with one JSON object, over the control endpoint (`POST /sim/faults`) or in the configuration
(`faults`): `fault` is its name, beside it stand its parameters, and two that every fault takes:

- `after_s`: not at once but so many seconds later (in the configuration: after the source has begun),
- `every_s`: and again each time so many seconds have passed.

Most faults last for a number of messages or until all are lifted with `DELETE /sim/faults`. To add one, write its
action and put it into `FAULTS`; the endpoint, the configuration and their checks need nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import fault_actions as act
from .config import Limits
from .errors import UnknownFault
from .fault_actions import Parameters

if TYPE_CHECKING:
    from .simulator import Simulator

logger = logging.getLogger(__name__)

WHEN = {"after_s": "seconds until it starts", "every_s": "seconds until it starts again, and again"}


@dataclass(frozen=True)
class Fault:
    """One entry of the registry. `parameters`: name -> what it means."""

    summary: str
    parameters: dict[str, str]
    start: Callable[[Simulator, Parameters], object]


def check_fault(request: Parameters) -> Fault:
    """Return the fault that a request names.

    Raises `UnknownFault` for a name or parameter that the registry does not have, and for a time that is none.
    """
    name = request.get("fault")
    fault = FAULTS.get(name) if isinstance(name, str) else None
    if fault is None:
        raise UnknownFault(f"no fault {name!r}; there are: {', '.join(sorted(FAULTS))}")
    unknown = request.keys() - fault.parameters.keys() - WHEN.keys() - {"fault"}
    if unknown:
        raise UnknownFault(
            f"fault {name!r} has no parameter {', '.join(sorted(unknown))}; it takes: {fault.parameters | WHEN}"
        )
    for key in WHEN.keys() & request.keys():
        if not isinstance(request[key], int | float) or request[key] < 0 or (key == "every_s" and not request[key]):
            raise UnknownFault(f"`{key}` is {request[key]!r}, expected a positive number of seconds")
    return fault


def start_fault(simulator: Simulator, request: Parameters) -> object:
    """Start the fault that a request asks for, or see to it that it starts later.

    Raises `UnknownFault` as `check_fault` does, and where the parameters name nothing that is there.
    """
    fault = check_fault(request)
    if "after_s" in request or "every_s" in request:
        delay = request.get("after_s", request.get("every_s", 0))
        _start_later(simulator, request, delay)
        return {"starts_in_s": delay}
    parameters = {key: value for key, value in request.items() if key != "fault"}
    result = fault.start(simulator, parameters)
    name = request["fault"]
    simulator.faults_started[name] = simulator.faults_started.get(name, 0) + 1
    return result


def _start_later(simulator: Simulator, request: Parameters, delay_s: float) -> None:
    plain = {key: value for key, value in request.items() if key not in WHEN}

    def start() -> None:
        simulator.planned_faults.remove(handle)
        try:
            hit = start_fault(simulator, plain)
            logger.info("fault=%s hit=%s", plain["fault"], hit)
        except (UnknownFault, ValueError) as error:  # e.g. nobody is subscribed just now
            simulator.faults_missed += 1
            logger.warning("fault=%s missed: %s", plain["fault"], error)
        if "every_s" in request:
            _start_later(simulator, request, request["every_s"])

    handle = simulator.call_later(delay_s, start)
    simulator.planned_faults.append(handle)


def lift_faults(simulator: Simulator) -> object:
    """End every fault that lasts, and forget those that were to come."""
    lifted = len(simulator.planned_faults)
    for handle in simulator.planned_faults:
        handle.cancel()
    simulator.planned_faults.clear()
    for hub in simulator.hubs.values():
        for stream in hub.streams.values():
            lifted += len(stream.filters)
            stream.filters.clear()
        lifted += bool(hub.silent_tiers)
        hub.silent_tiers.clear()
    for connection in simulator.connections():
        lifted += connection.muted
        connection.mute(False)
    for product, before in simulator.limits_before.items():
        lifted += 1
        for key in Limits.__struct_fields__:
            setattr(simulator.hubs[product].limits, key, getattr(before, key))
    simulator.limits_before.clear()
    lifted += simulator.rest_faults.pending
    simulator.rest_faults.clear()
    return {"lifted": lifted}


_CONNECTIONS = {
    "product": "spot or usdm; both when left out",
    "tier": "public or market",
    "connection": "number of one connection",
}
_STREAMS = {"product": "spot or usdm", "stream": "name of one stream", "symbol": "native symbol: all its depth streams"}
_COUNT = {"count": "how many, 1 when left out"}
_SYMBOL = {"product": "spot or usdm, spot when left out", "symbol": "native symbol"}

FAULTS: dict[str, Fault] = {
    # connections
    "close": Fault(
        "close connections, as at the end of their 24 hours",
        {**_CONNECTIONS, "code": "close code, 1001 when left out", "reason": "text of the close frame"},
        act.close,
    ),
    "reset": Fault(
        "end connections in the middle of a frame", {**_CONNECTIONS, "fin": "true: with FIN, else RST"}, act.reset
    ),
    "silence": Fault("half-open: pings are answered, no data comes", _CONNECTIONS, act.silence),
    "server_shutdown": Fault(
        "announce `serverShutdown`",
        {**_CONNECTIONS, "close_after_s": "seconds until the close; none when left out"},
        act.server_shutdown,
    ),
    "garbage": Fault(
        "send frames that are no message", {**_CONNECTIONS, **_COUNT, "payload": "text to send"}, act.garbage
    ),
    # streams
    "drop": Fault("leave out the next messages: a gap", {**_STREAMS, **_COUNT}, act.drop),
    "duplicate": Fault("send the next messages twice", {**_STREAMS, **_COUNT}, act.duplicate),
    "reorder": Fault("swap two neighbouring messages", {**_STREAMS, **_COUNT}, act.reorder),
    "break_chain": Fault(
        "change `pu` (USD-M) or `U` (spot) of the next depth messages", {**_STREAMS, **_COUNT}, act.break_chain
    ),
    "silent_stream": Fault("acknowledged, but nothing comes any more", _STREAMS, act.silent_stream),
    "silent_tier": Fault(
        "acknowledged, but nothing comes on any stream of a product or tier, from now on or from the first frame",
        {"product": "spot or usdm; both when left out", "tier": "USD-M: public or market; both when left out"},
        act.silent_tier,
    ),
    "merged_rows": Fault("put COIN-M rows (`st` 2) into USD-M's streams about all markets", {}, act.merged_rows),
    # REST
    "rest_status": Fault(
        "refuse the next requests: 403, 418, 429 or 5xx",
        {
            **_COUNT,
            "product": "spot or usdm",
            "status": "HTTP status, 429 when left out",
            "retry_after_s": "Retry-After",
        },
        act.rest_status,
    ),
    "stale_snapshot": Fault(
        "answer later depth requests with the book of now", {**_COUNT, **_SYMBOL}, act.stale_snapshot
    ),
    "old_snapshot": Fault(
        "answer depth requests with an update id older than the stream",
        {**_COUNT, **_SYMBOL, "behind": f"update ids, {act.SNAPSHOT_BEHIND} when left out"},
        act.old_snapshot,
    ),
    # limits
    "limits": Fault(
        "change limits while running: message rate, streams, connections, life, pings, weight, ban",
        {"product": "spot or usdm; both when left out", **dict.fromkeys(Limits.__struct_fields__, "as configured")},
        act.limits,
    ),
}
