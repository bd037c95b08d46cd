"""Errors of the exchange simulator.

TickringError
└── SimulatorError
    ├── PortTaken             a listening port of the simulator is in use
    ├── CaptureUnusable       a capture holds no frames, or none of an exchange that is played
    └── UnknownFault          a fault name or parameter that the registry does not have
"""

from __future__ import annotations

from ...ringbuf.errors import TickringError


class SimulatorError(TickringError):
    """The simulator cannot do what its configuration or a control request asks."""


class PortTaken(SimulatorError):
    pass


class CaptureUnusable(SimulatorError):
    pass


class UnknownFault(SimulatorError):
    pass
