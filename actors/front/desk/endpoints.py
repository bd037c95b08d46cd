"""Every endpoint of the desk."""

from __future__ import annotations

from ..endpoints import Endpoint
from ..state import FrontState
from .alert_commands import alert_command_endpoints
from .alerts import alert_endpoints
from .fills import fill_endpoints
from .health import health_endpoints
from .performance import performance_endpoints
from .pnl import pnl_endpoints
from .positions import position_endpoints
from .risk import risk_endpoints


def desk_endpoints(state: FrontState) -> list[Endpoint]:
    """Canonical paths, and those that other services had before us."""
    return [
        *fill_endpoints(state), *pnl_endpoints(state), *position_endpoints(state), *risk_endpoints(state),
        *performance_endpoints(state), *alert_endpoints(state), *alert_command_endpoints(state),
        *health_endpoints(state),
    ]  # fmt: skip
