from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tickring.daemon.config import SupervisorConfig
from tickring.daemon.drain import KILL_WAIT_S

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "tickring.service"
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed: the unit is not verified")


@pytest.fixture
def unit(tmp_path) -> Path:
    """The unit with an executable that is there; verification looks for it."""
    copy = tmp_path / "tickring.service"
    copy.write_text(UNIT.read_text().replace("/opt/tickring/bin/tickring", sys.executable))
    return copy


@needs_systemd
def test_unit_passes_systemds_own_verification(unit):
    result = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True)
    assert (result.returncode, result.stderr.strip()) == (0, "")


@needs_systemd
def test_unit_is_hardened(unit):
    command = [ANALYZE, "security", "--offline=true", "--threshold=25", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-300:]


def test_unit_is_a_notifying_service_with_a_watchdog_that_stops_in_order():
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT)
    service = dict(parser["Service"])
    assert service["Type"] == "notify"
    assert service["KillMode"] == "mixed"
    assert service["WatchdogSec"]
    assert "78" in service["RestartPreventExitStatus"].split()
    assert service["ExecReload"].endswith("-HUP $MAINPID")
    assert service["DeviceAllow"] == "/dev/cpu_dma_latency w", "for supervisor.wakeup_latency_us"
    drain_s = SupervisorConfig().drain_timeout_s
    assert int(service["TimeoutStopSec"].removesuffix("s")) > drain_s + KILL_WAIT_S
