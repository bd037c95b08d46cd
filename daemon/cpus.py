"""Which CPUs each actor is pinned to: as configured, else a core each for the hot ones if there are enough.

Hot are the feeds, where a wait for a core is latency of every record, and then the fronts. The others, and the
supervisor, share the rest. On fewer than four CPUs a core of one's own would only take it from somebody busier, so
everybody runs everywhere and the kernel's scheduler decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CPUS_FOR_PINNING_MIN = 4
CPUS_SHARED_MIN = 2  # never given away: writer, engine, supervisor and everything else live there
HOT_KINDS = ("feed", "topic", "front")  # in the order in which cores are handed out


def assign(
    actors: Sequence[tuple[str, str]], available: Sequence[int], explicit: Mapping[str, Sequence[int]], *, auto: bool
) -> dict[str, tuple[int, ...]]:
    """CPUs of each actor by name; `actors` are (name, kind), `explicit` has lists by name or kind (the name wins)."""
    cpus = sorted(available)
    fixed = {name: tuple(sorted(explicit.get(name, explicit.get(kind, ())))) for name, kind in actors}
    taken = {cpu for chosen in fixed.values() for cpu in chosen}
    free = [cpu for cpu in cpus if cpu not in taken] or cpus
    own: dict[str, tuple[int, ...]] = {}
    if auto and len(cpus) >= CPUS_FOR_PINNING_MIN:
        hot = [name for hot_kind in HOT_KINDS for name, kind in actors if kind == hot_kind and not fixed[name]]
        for name in hot[: max(0, len(free) - CPUS_SHARED_MIN)]:
            own[name] = (free.pop(),)
    shared = tuple(free) if auto else tuple(cpus)
    return {name: fixed[name] or own.get(name, shared) for name, _ in actors}
