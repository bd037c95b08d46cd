"""What changes between the plan that runs and a new one, so that only the actors concerned are touched."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from .errors import ConfigError, Mistake
from .plan import ActorPlan, Plan

_FIXED = ("name", "folder", "data", "group")


@dataclass(frozen=True, slots=True)
class Changes:
    """Actors by what happens to them; `added` and `changed` carry their doorbell numbers."""

    added: tuple[ActorPlan, ...]
    changed: tuple[ActorPlan, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        parts = []
        for what, names in (
            ("added", [actor.name for actor in self.added]),
            ("changed", [actor.name for actor in self.changed]),
            ("removed", self.removed),
        ):
            if names:
                parts.append(f"{what}: {', '.join(names)}")
        return "; ".join(parts) or "nothing changed"


def compare(old: Plan, new: Plan, doorbells: int, lent: Collection[int]) -> Changes:
    """The changes from `old` to `new`; doorbells of added actors come from those that nobody has.

    Raises:
        ConfigError: a change that needs a restart of the whole daemon.
    """
    mistakes = [
        Mistake(
            f"instance.{name}",
            f"cannot change while the daemon runs (it is {getattr(old, name)}): restart it",
            str(getattr(new, name)),
        )
        for name in _FIXED
        if getattr(old, name) != getattr(new, name)
    ]
    before = {actor.name: actor for actor in old.actors}
    after = {actor.name: actor for actor in new.actors}
    changed = []
    for name in before.keys() & after.keys():
        actor = dataclasses.replace(after[name], doorbell=before[name].doorbell)
        if _same(before[name], actor):
            continue
        if before[name].streams != actor.streams or before[name].address != actor.address:
            mistakes.append(
                Mistake(name, "its rings or its port cannot change while others use them: restart the daemon")
            )
        changed.append(actor)
    removed = tuple(sorted(before.keys() - after.keys()))
    taken = {actor.doorbell for actor in old.actors} | set(lent)
    free = iter([number for number in range(doorbells) if number not in taken])
    added = []
    for name in [actor.name for actor in new.actors if actor.name not in before]:
        number = next(free, None)
        if number is None:
            mistakes.append(Mistake(name, f"no doorbell is left of {doorbells}: restart the daemon"))
            break
        if after[name].address is not None:
            mistakes.append(Mistake(name, "a new listening actor needs a restart of the daemon"))
        added.append(dataclasses.replace(after[name], doorbell=number))
    if mistakes:
        raise ConfigError("reload", mistakes)
    return Changes(tuple(added), tuple(sorted(changed, key=lambda actor: actor.name)), removed)


def _same(old: ActorPlan, new: ActorPlan) -> bool:
    names = {field.name for field in dataclasses.fields(ActorPlan)} - {"load", "prepare"}  # functions of the plan
    return all(getattr(old, name) == getattr(new, name) for name in names)


def merged(old: Plan, new: Plan, changes: Changes) -> Plan:
    """The plan that runs after the changes: the new one, with the doorbells that its actors really have."""
    doorbells = {actor.name: actor.doorbell for actor in (*old.actors, *changes.added)}
    actors = tuple(dataclasses.replace(actor, doorbell=doorbells[actor.name]) for actor in new.actors)
    return dataclasses.replace(new, actors=actors)
