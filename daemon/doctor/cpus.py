"""How fast the CPUs run, how deeply they sleep, and whether pinned processes have theirs to themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from .finding import Finding, Needs, cpu_list, ok, read, read_numbers, unknown, wrong

CPUS = "sys/devices/system/cpu"
DEEP_US = 10  # a state that takes longer to leave costs more than a record's way through the daemon may


def governor(root: Path) -> Finding:
    check = "CPU governor"
    paths = sorted((root / CPUS).glob("cpu[0-9]*/cpufreq/scaling_governor"))
    names = Counter(read(path.parent, path.name) or "?" for path in paths)
    if not names:
        return unknown(check, "no frequency scaling to be seen: a virtual machine's host decides")
    found = ", ".join(f"{name} on {count}" for name, count in sorted(names.items()))
    if set(names) != {"performance"}:
        mend = f"echo performance | tee /{CPUS}/cpu*/cpufreq/scaling_governor"
        return wrong(check, found, "a CPU that was idle begins each burst at a low frequency", mend)
    return ok(check, found)


def idle_states(needs: Needs, root: Path) -> Finding:
    """Driver, governor and deepest state. A limit that the daemon holds makes up for all of them."""
    check = "idle states"
    driver = read(root, f"{CPUS}/cpuidle/current_driver")
    policy = read(root, f"{CPUS}/cpuidle/current_governor") or read(root, f"{CPUS}/cpuidle/current_governor_ro")
    if not driver or driver == "none":
        return unknown(check, "no idle driver")
    found = f"driver {driver}, governor {policy or 'unknown'}"
    held = needs.wakeup_latency_us
    if policy == "haltpoll" and read_numbers(root, "sys/module/haltpoll/parameters/guest_halt_poll_ns") == [0]:
        found += ", guest_halt_poll_ns=0"
        if held != 0:  # this governor knows only all or nothing
            why = "an idle CPU stops at once, and the host has to wake it up for every record"
            poll = "echo 200000 > /sys/module/haltpoll/parameters/guest_halt_poll_ns"
            return wrong(check, found, why, f"set supervisor.wakeup_latency_us = 0   (or: {poll})")
    deepest_us, name = max(_states(root), default=(0, ""))
    if name:
        found += f", deepest {name} ({deepest_us} µs)"
    if deepest_us > DEEP_US and (held is None or held > DEEP_US):
        return wrong(check, found, "a sleeping CPU wakes up that much later", "set supervisor.wakeup_latency_us = 0")
    return ok(check, found + ("" if held is None else f", limited by supervisor.wakeup_latency_us = {held}"))


def _states(root: Path) -> list[tuple[int, str]]:
    """(exit latency in µs, name) of the first CPU's states that are not disabled."""
    states = []
    for path in (root / CPUS / "cpu0" / "cpuidle").glob("state[0-9]*"):
        latency = read_numbers(path, "latency")
        if len(latency) == 1 and read(path, "disable") != "1":
            states.append((latency[0], read(path, "name") or path.name))
    return states


def isolation(needs: Needs, root: Path) -> Finding:
    check = "isolated CPUs"
    pinned = {cpu for cpus in needs.pinned.values() for cpu in cpus}
    text = read(root, f"{CPUS}/isolated")
    if text is None:
        return unknown(check, "the kernel does not say")
    if not pinned:
        return ok(check, "[cpus] pins nothing")
    shared = sorted(pinned - cpu_list(text))
    if shared:
        cpus = ",".join(map(str, sorted(pinned)))
        mend = f"boot with isolcpus=domain,managed_irq,{cpus} nohz_full={cpus} rcu_nocbs={cpus}"
        found = f"of the pinned CPUs {cpus} not isolated: {','.join(map(str, shared))}"
        return wrong(check, found, "other processes and timer ticks take turns on them", mend)
    return ok(check, f"{text} hold the pinned actors")


def nodes(needs: Needs, root: Path) -> Finding:
    """Feeds and fronts share rings, so they belong to the memory of one NUMA node."""
    check = "NUMA"
    node_of = {}
    for path in (root / "sys/devices/system/node").glob("node[0-9]*"):
        node_of |= dict.fromkeys(cpu_list(read(path, "cpulist") or ""), path.name)
    if not node_of:
        return unknown(check, "the kernel does not say")
    count = len(set(node_of.values()))
    if count == 1:
        return ok(check, "one node")
    pinned = {cpu for cpus in needs.pinned.values() for cpu in cpus}
    used = sorted({node_of[cpu] for cpu in pinned if cpu in node_of})
    if len(used) > 1:
        mend = f"in [cpus], give all feeds and fronts CPUs of {used[0]}"
        found = f"pinned actors sit on {', '.join(used)}"
        return wrong(check, found, "rings are read across the link between the nodes", mend)
    if read_numbers(root, "proc/sys/kernel/numa_balancing") == [1]:
        why = "the kernel unmaps pages of the rings to see who uses them, and the next access is a fault"
        return wrong(check, f"{count} nodes, balancing on", why, "sysctl -w kernel.numa_balancing=0")
    return ok(check, f"{count} nodes, actors on {', '.join(used) or 'any'}")
