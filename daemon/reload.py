"""What changes between the plan that runs and a new one, so that only the actors concerned are touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import msgspec

from .config import Instance, Settings
from .errors import ConfigError, Mistake
from .plan import ActorPlan, Plan

_RESTARTS = ("kind", "config", "nice", "address", "streams")  # what a process has from its start on


@dataclass(frozen=True, slots=True)
class Changes:
    """Actors by what happens to them; those that are started anew carry their doorbell numbers."""

    added: tuple[ActorPlan, ...]
    restarted: tuple[ActorPlan, ...]
    moved: tuple[ActorPlan, ...]  # only to other CPUs, which needs no restart
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]
    settings: tuple[str, ...]  # of the daemon itself that are taken over
    needs_restart: tuple[str, ...]  # settings that only another daemon can carry out; they stay as they were

    def to_dict(self) -> dict[str, list[str]]:
        """Names, as the control socket answers."""
        return {
            "added": [actor.name for actor in self.added],
            "restarted": [actor.name for actor in self.restarted],
            "moved": [actor.name for actor in self.moved],
            "removed": list(self.removed),
            "unchanged": list(self.unchanged),
            "settings": list(self.settings),
            "needs_restart": list(self.needs_restart),
        }

    def __str__(self) -> str:
        return describe(self.to_dict()) or "nothing changed"


def describe(changes: dict[str, Any]) -> str:
    """`added: feed-1; restarted: feed-0, writer`, without those that stay."""
    said = {name.replace("_", " "): names for name, names in changes.items() if names and name != "unchanged"}
    return "; ".join(f"{name}: {', '.join(names)}" for name, names in said.items())


def compare(old: Plan, new: Plan, doorbells: int, lent: Collection[int]) -> Changes:
    """The changes from `old` to `new`; doorbells of added actors come from those that nobody has.

    Raises:
        ConfigError: there are not enough doorbells, which are made when the daemon starts.
    """
    assert (old.name, old.folder, old.data) == (new.name, new.folder, new.data), "an instance keeps its identity"
    before = {actor.name: actor for actor in old.actors}
    taken = {actor.doorbell for actor in old.actors} | set(lent)
    free = iter([number for number in range(doorbells) if number not in taken])
    added, restarted, moved, unchanged = [], [], [], []
    for actor in new.actors:
        was = before.get(actor.name)
        number = next(free, None) if was is None else was.doorbell
        if number is None:
            raise ConfigError(
                "reload", [Mistake(actor.name, f"no doorbell is left of {doorbells}: restart the daemon")]
            )
        now = dataclasses.replace(actor, doorbell=number)
        if was is None:
            added.append(now)
        elif any(getattr(was, name) != getattr(now, name) for name in _RESTARTS):
            restarted.append(now)
        elif was.cpus != now.cpus:
            moved.append(now)
        else:
            unchanged.append(now.name)
    return Changes(
        tuple(added), tuple(restarted), tuple(moved),
        removed=tuple(sorted(before.keys() - {actor.name for actor in new.actors})),
        unchanged=tuple(unchanged),
        settings=tuple(name for name in ("supervisor", "log") if getattr(old, name) != getattr(new, name)),
        needs_restart=(*new.deferred, *(("log (of actors that run)",) if old.log != new.log else ())),
    )  # fmt: skip


def merged(old: Plan, new: Plan, changes: Changes) -> Plan:
    """The plan that runs after the changes: the new one, with the doorbells that its actors really have."""
    doorbells = {actor.name: actor.doorbell for actor in (*old.actors, *changes.added)}
    actors = tuple(dataclasses.replace(actor, doorbell=doorbells[actor.name]) for actor in new.actors)
    return dataclasses.replace(new, actors=actors)


def keep_instance(new: Settings, running: Settings) -> tuple[Settings, tuple[str, ...]]:
    """`new` with the identity of the instance that runs, and the settings that it therefore does not have."""
    names = Instance.__struct_fields__
    differing = [name for name in names if getattr(new.instance, name) != getattr(running.instance, name)]
    kept = msgspec.structs.replace(new, instance=running.instance)
    return kept, tuple(f"instance.{name}" for name in differing)
