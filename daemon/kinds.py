"""The kinds of actors: where each one lives, in which order they are drained, and who gets a listening socket.

A kind's module has `Config` (a msgspec struct), `async def main(ctx)` and, if it produces records,
`streams(name, config) -> list[StreamSpec]`. Modules are imported when they are first asked for: the configuration
check needs them all, `tickring tail` none.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec

from .errors import ExtraMissing


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    module: str  # relative to the package
    drain_rank: int  # lower ranks are stopped first; equal ranks together
    nice: int = 0  # what works in bulk lets those go first that somebody waits for, where they share a CPU
    listens: bool = False  # the supervisor opens a socket for `config.host`, `config.port` and passes it on
    table: str = ""  # of the configuration file; "" = the kind's name
    on_request: bool = False  # it runs only where the file has its table
    extra: str = "embedded"  # with which its libraries are installed

    def __post_init__(self) -> None:
        if not self.table:
            object.__setattr__(self, "table", self.name)

    def load(self) -> ModuleType:
        """Import the module. Raises ExtraMissing when a library that it needs is not installed."""
        try:
            return importlib.import_module(self.module, __package__)
        except ModuleNotFoundError as error:
            if error.name and error.name.startswith(__name__.partition(".")[0]):
                raise
            raise ExtraMissing(
                f"actor kind {self.name!r} needs the library {error.name!r}: pip install 'tickring[{self.extra}]'"
            ) from error

    @property
    def config_type(self) -> type[msgspec.Struct]:
        return self.load().Config

    @property
    def main(self) -> Callable[[Any], Awaitable[None]]:
        return self.load().main


# Producers stop first, so that what follows them can empty the rings (those that produce from other rings one rank
# later); then the writer; then the fronts tell their clients; last what the others still talk to.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("feed", "..actors.feed", drain_rank=0),
        Kind("keeper", "..actors.keeper", drain_rank=0, nice=5),
        Kind("topic", "..actors.topic", drain_rank=0, table="kafka", on_request=True, extra="kafka"),
        Kind("strategy", "..actors.strategy", drain_rank=0, nice=5, on_request=True, extra="demo"),
        Kind("portfolio", "..actors.portfolio", drain_rank=1),
        Kind("alerts", "..actors.alerts", drain_rank=1, nice=5),
        Kind("writer", "..actors.writer", drain_rank=2, nice=5),
        Kind("front", "..actors.front", drain_rank=3, listens=True),
        Kind("simulator", "..actors.simulator", drain_rank=4),
        Kind("broker", "..actors.broker", drain_rank=4, nice=5, extra="demo"),
        Kind("clickhouse", "..actors.clickhouse", drain_rank=4, nice=10, listens=True),
    )
}
