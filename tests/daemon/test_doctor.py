from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tickring.daemon.doctor import Needs, Verdict, clock, cpus, limits, memory, settings, wakeup

WRONG, OK, UNKNOWN = Verdict.WRONG, Verdict.OK, Verdict.UNKNOWN
CPU = "sys/devices/system/cpu"


def tree(root: Path, files: dict[str, str]) -> Path:
    """A folder that looks like /proc and /sys."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_every_check_without_any_file_is_unknown_or_ok_and_never_raises(tmp_path):
    for finding in settings(Needs(folder=tmp_path / "none", data=tmp_path), tmp_path):
        if finding.check not in ("clock", "membarrier"):  # asked of the kernel itself
            assert finding.verdict is UNKNOWN or finding.check == "disk", finding


def test_every_check_on_files_full_of_rubbish_never_raises(tmp_path):
    names = [
        "proc/self/mounts", "proc/self/limits", "proc/swaps", "proc/sys/vm/swappiness", "proc/sys/kernel/osrelease",
        "proc/sys/net/core/somaxconn", "proc/sys/net/ipv4/tcp_rmem", "proc/sys/net/ipv4/tcp_wmem",
        "sys/kernel/mm/transparent_hugepage/enabled", f"{CPU}/cpu0/cpufreq/scaling_governor", f"{CPU}/isolated",
        f"{CPU}/cpuidle/current_driver", f"{CPU}/cpuidle/current_governor", f"{CPU}/cpu0/cpuidle/state0/latency",
        "sys/devices/system/node/node0/cpulist", "sys/devices/system/clocksource/clocksource0/current_clocksource",
    ]  # fmt: skip
    for rubbish in ("", "-", "x y z\n\0", "9" * 30, "1-2-3,,a-b"):
        tree(tmp_path, dict.fromkeys(names, rubbish))
        assert len(settings(Needs(pinned={"feed": (0,)}), tmp_path)) == 15


def test_shared_memory_too_small_names_the_size_that_is_enough(tmp_path, shm):
    stat = os.statvfs(shm)
    size = stat.f_blocks * stat.f_frsize
    root = tree(tmp_path, {"proc/self/mounts": "tmpfs /dev/shm tmpfs rw 0 0\n/dev/sda / ext4 rw 0 0"})
    assert memory.shared_memory(Needs(folder=shm, memory_bytes=1), root).verdict is OK
    assert memory.shared_memory(Needs(folder=shm), root).verdict is UNKNOWN
    found = memory.shared_memory(Needs(folder=shm, memory_bytes=size + (1 << 20)), root)
    assert found.verdict is WRONG and found.mend.startswith("mount -o remount,size=")
    assert int(found.mend.partition("size=")[2].partition("m")[0]) << 20 >= size + (1 << 20)
    assert memory.shared_memory(Needs(folder=shm, memory_bytes=size, held_bytes=size), root).verdict is OK


def test_shared_memory_on_a_disk_is_wrong(tmp_path):
    root = tree(tmp_path / "root", {"proc/self/mounts": f"tmpfs /dev/shm tmpfs rw\n/dev/sda {tmp_path} ext4 rw"})
    found = memory.shared_memory(Needs(folder=tmp_path, memory_bytes=1), root)
    assert found.verdict is WRONG and "on ext4" in found.found


def test_disk_smaller_than_the_spool_may_grow_is_wrong(tmp_path):
    assert memory.disk(Needs(data=tmp_path / "not" / "yet", disk_bytes=1)).verdict is OK
    assert memory.disk(Needs(data=tmp_path, disk_bytes=1 << 60)).verdict is WRONG


@pytest.mark.parametrize(
    ("files", "check", "verdict"),
    [
        ({"sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never"}, memory.huge_pages, WRONG),
        ({"sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never"}, memory.huge_pages, OK),
        ({"proc/swaps": "Filename Type\n/dev/sda2 partition", "proc/sys/vm/swappiness": "60"}, memory.swap, WRONG),
        ({"proc/swaps": "Filename Type\n/dev/sda2 partition", "proc/sys/vm/swappiness": "1"}, memory.swap, OK),
        ({"proc/swaps": "Filename Type", "proc/sys/vm/swappiness": "60"}, memory.swap, OK),
        ({"proc/sys/kernel/osrelease": "6.1.0-26-amd64"}, limits.kernel, WRONG),
        ({"proc/sys/kernel/osrelease": "6.12.1"}, limits.kernel, OK),
        ({"proc/sys/kernel/osrelease": "7.0"}, limits.kernel, OK),
        ({"proc/sys/net/core/somaxconn": "128"}, limits.backlog, WRONG),
        ({"proc/sys/net/core/somaxconn": "4096"}, limits.backlog, OK),
        ({f"{CPU}/cpu0/cpufreq/scaling_governor": "performance"}, cpus.governor, OK),
        (
            {f"{CPU}/cpu{n}/cpufreq/scaling_governor": name for n, name in enumerate(("performance", "powersave"))},
            cpus.governor,
            WRONG,
        ),
    ],
)
def test_setting_is_judged(tmp_path, files, check, verdict):
    found = check(tree(tmp_path, files))
    assert found.verdict is verdict
    assert bool(found.why) == bool(found.mend) == (verdict is WRONG)


def test_clock_is_judged_by_what_the_kernel_says():
    clocks = clock.KernelClock
    assert clock.synchronised(None).verdict is UNKNOWN
    assert clock.synchronised(clocks(False, 0, 16)).mend.startswith("apt-get install chrony")
    assert clock.synchronised(clocks(True, 0.2e-3, 0.01)).found.startswith("synchronised, offset +0.200 ms")
    assert clock.synchronised(clocks(True, -0.05, 0.1)).verdict is WRONG
    assert clock.read_kernel_clock() is not None


def test_slow_clock_source_names_the_fast_one_that_is_there(tmp_path):
    folder = "sys/devices/system/clocksource/clocksource0"
    slow = {f"{folder}/current_clocksource": "hpet", f"{folder}/available_clocksource": "tsc hpet acpi_pm"}
    assert clock.source(tree(tmp_path, slow)).mend == f"echo tsc > /{folder}/current_clocksource"
    assert clock.source(tree(tmp_path, {f"{folder}/current_clocksource": "tsc"})).verdict is OK


def test_file_limit_of_the_daemon_that_runs_counts(tmp_path):
    line = "Max open files            {}                 4096                 files"
    root = tree(tmp_path, {"proc/self/limits": line.format(1024), "proc/77/limits": line.format("unlimited")})
    assert limits.open_files(Needs(files=2000), root).verdict is WRONG
    assert limits.open_files(Needs(files=2000, pid=77), root).verdict is OK


def test_socket_buffers_too_small_are_raised_and_the_other_numbers_kept(tmp_path):
    ipv4 = "proc/sys/net/ipv4"
    root = tree(tmp_path, {f"{ipv4}/tcp_rmem": "4096\t131072\t1000000", f"{ipv4}/tcp_wmem": "4096\t16384\t4194304"})
    assert limits.socket_buffers(root).mend == "sysctl -w net.ipv4.tcp_rmem='4096 131072 4194304'"


def test_idle_states_that_sleep_deeply_are_wrong_unless_a_limit_is_configured(tmp_path):
    files = {f"{CPU}/cpuidle/current_driver": "intel_idle", f"{CPU}/cpuidle/current_governor": "menu"}
    for number, (name, latency) in enumerate((("POLL", 0), ("C1", 2), ("C6", 133))):
        files |= {f"{CPU}/cpu0/cpuidle/state{number}/{what}": str(value)
                  for what, value in (("name", name), ("latency", latency), ("disable", 0))}  # fmt: skip
    root = tree(tmp_path, files)
    assert "deepest C6 (133 µs)" in cpus.idle_states(Needs(), root).found
    assert cpus.idle_states(Needs(), root).verdict is WRONG
    assert cpus.idle_states(Needs(wakeup_latency_us=50), root).verdict is WRONG
    assert cpus.idle_states(Needs(wakeup_latency_us=2), root).verdict is OK
    tree(tmp_path, {f"{CPU}/cpu0/cpuidle/state2/disable": "1"})
    assert cpus.idle_states(Needs(), root).verdict is OK


def test_guest_that_never_polls_is_wrong_unless_the_limit_is_zero(tmp_path):
    files = {f"{CPU}/cpuidle/current_driver": "haltpoll", f"{CPU}/cpuidle/current_governor": "haltpoll"}
    root = tree(tmp_path, files | {"sys/module/haltpoll/parameters/guest_halt_poll_ns": "0"})
    assert "guest_halt_poll_ns" in cpus.idle_states(Needs(), root).mend
    assert cpus.idle_states(Needs(wakeup_latency_us=5), root).verdict is WRONG
    assert cpus.idle_states(Needs(wakeup_latency_us=0), root).verdict is OK


def test_pinned_cpus_are_to_be_isolated_and_on_one_node(tmp_path):
    files = {f"{CPU}/isolated": "2", "sys/devices/system/node/node0/cpulist": "0-1",
             "sys/devices/system/node/node1/cpulist": "2-3", "proc/sys/kernel/numa_balancing": "0"}  # fmt: skip
    root = tree(tmp_path, files)
    pinned = Needs(pinned={"feed-a": (2,), "front-0": (3,)})
    assert "isolcpus=domain,managed_irq,2,3" in cpus.isolation(pinned, root).mend
    assert cpus.isolation(Needs(pinned={"feed-a": (2,)}), root).verdict is OK
    assert cpus.isolation(Needs(), root).verdict is OK
    assert cpus.nodes(pinned, root).verdict is OK
    assert cpus.nodes(Needs(pinned={"feed-a": (0,), "front-0": (3,)}), root).verdict is WRONG
    tree(tmp_path, {"proc/sys/kernel/numa_balancing": "1"})
    assert cpus.nodes(pinned, root).mend == "sysctl -w kernel.numa_balancing=0"


def test_wakeup_cost_is_judged_as_the_daemon_will_find_it():
    asked = Needs(wakeup_latency_us=0)
    assert wakeup.cost(60, 8, Needs()).mend.startswith("set supervisor.wakeup_latency_us = 0")
    assert wakeup.cost(60, 8, asked).verdict is OK
    assert wakeup.cost(60, 60, asked).verdict is WRONG
    assert wakeup.cost(8, None, Needs()).verdict is OK
    refused = PermissionError(13, "Permission denied")
    assert wakeup.permission(refused, Needs()).verdict is UNKNOWN
    assert "udevadm" in wakeup.permission(refused, asked).mend
    assert wakeup.permission(None, asked).verdict is OK


def test_measured_wakeup_is_a_time_and_leaves_no_process_and_no_pinning():
    def children() -> set[str]:
        return set(Path("/proc/thread-self/children").read_text().split())

    before, there = os.sched_getaffinity(0), children()
    assert 0 < wakeup.measure_us(20) < 1e6
    assert os.sched_getaffinity(0) == before
    assert children() <= there


def test_doctor_prints_findings_and_ends_with_their_verdict(tmp_path, shm):
    file = tmp_path / "tickring.toml"
    file.write_text(
        f'[instance]\nname = "ill"\nfolder = "{shm}"\ndata = "{tmp_path}"\n'
        '[exchanges.binance.spot]\nsymbols = ["BTC-USDT"]\n'
    )
    command = [sys.executable, "-m", "tickring", "doctor", "-c", str(file)]
    result = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=60)
    answer = json.loads(result.stdout)
    by_check = {finding["check"]: finding for finding in answer["findings"]}
    assert by_check["shared memory"]["verdict"] in ("ok", "wrong")
    wrong = [finding for finding in answer["findings"] if finding["verdict"] == "wrong"]
    assert all(finding["why"] and finding["mend"] for finding in wrong)
    assert (answer["ok"], result.returncode) == (not wrong, 1 if wrong else 0)
    text = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert all(f"mend: {finding['mend']}" in text for finding in wrong if finding["check"] != "wake-up")
