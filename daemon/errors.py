"""Errors of the daemon, each with the exit code that it ends the command with, and the table of exit codes.

    TickringError
    └── DaemonError               exit 70
        ├── ConfigError           78  the configuration holds mistakes; all of them are in the message
        ├── InputMissing          66  a file named on the command line cannot be read
        ├── UnknownName           65  a request names something that there is not
        ├── NotConfigured         66  a request is about a market that the configuration does not have
        ├── NotRunning            69  no daemon answers for this instance
        ├── ExtraMissing          69  an optional part is not installed; the message names the command that installs it
        ├── FolderUnusable        73  a folder cannot be made or written
        ├── NotPermitted          73  a folder or file belongs to another user
        ├── SpaceShort            73  the rings do not fit into their file system
        ├── NotReady              75  it cannot be done yet
        ├── InstanceBusy          75  another supervisor already runs this instance
        ├── PortTaken             75  another process listens on the port
        └── ActorFailed           70  an actor could not start, so the daemon did not

The numbers are those of sysexits.h, so that a service manager or a script can tell what to do: 78 needs an edit, 75 can
be tried again, 73 needs room or rights. systemd/tickring.service lists those for which a restart is pointless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ringbuf.errors import TickringError

EXIT_OK = 0  # 2 is click's own: a wrong command line
EXIT_CANNOT_BOOT = 3  # an actor process: starting it again would fail the same way
EXIT_DATA = 65
EXIT_NO_INPUT = 66
EXIT_UNAVAILABLE = 69
EXIT_SOFTWARE = 70  # an actor process: it failed; it may well succeed when started again
EXIT_CANNOT_CREATE = 73
EXIT_TRY_AGAIN = 75
EXIT_CONFIG = 78


class DaemonError(TickringError):
    exit_code = EXIT_SOFTWARE


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake in a configuration: where it stands, what stands there, what may stand there."""

    path: str  # key path, `exchanges.binance.spot.channels[1]`
    problem: str  # 'expected one of "trade", "quote"'
    value: str | None = None  # as written, shortened; None where nothing stands
    nearest: str | None = None  # the allowed name that looks most like it
    line: int = 0  # of the file; 0 = unknown

    def __str__(self) -> str:
        shown = "" if self.value is None else f" = {self.value}"
        hint = "" if self.nearest is None else f"; did you mean {self.nearest!r}?"
        return f"{self.path}{shown}: {self.problem}{hint}"


class ConfigError(DaemonError):
    """Every mistake of one configuration at once."""

    exit_code = EXIT_CONFIG

    def __init__(self, source: str, mistakes: Sequence[Mistake]) -> None:
        self.source = source
        self.mistakes = list(mistakes)
        count = f"{len(self.mistakes)} mistake{'s' if len(self.mistakes) > 1 else ''}"
        lines = [f"line {one.line}: {one}" if one.line else str(one) for one in self.mistakes]
        super().__init__("\n  ".join([f"{source}: {count} in the configuration", *lines]))


class InputMissing(DaemonError):
    exit_code = EXIT_NO_INPUT


class UnknownName(DaemonError):
    exit_code = EXIT_DATA

    def __init__(self, field: str, text: str) -> None:
        super().__init__(text)
        self.field = field


class NotConfigured(DaemonError):
    exit_code = EXIT_NO_INPUT


class NotRunning(DaemonError):
    exit_code = EXIT_UNAVAILABLE


class ExtraMissing(DaemonError):
    exit_code = EXIT_UNAVAILABLE


class FolderUnusable(DaemonError):
    exit_code = EXIT_CANNOT_CREATE


class NotPermitted(DaemonError):
    exit_code = EXIT_CANNOT_CREATE


class SpaceShort(DaemonError):
    exit_code = EXIT_CANNOT_CREATE


class NotReady(DaemonError):
    exit_code = EXIT_TRY_AGAIN
    retriable = True


class InstanceBusy(DaemonError):
    exit_code = EXIT_TRY_AGAIN
    retriable = True


class PortTaken(DaemonError):
    exit_code = EXIT_TRY_AGAIN
    retriable = True


class ActorFailed(DaemonError):
    exit_code = EXIT_SOFTWARE


def exit_code_of(error: BaseException) -> int:
    """Exit code of a command that ends with this error; an error of a lower folder may carry one too."""
    retriable = isinstance(error, TickringError) and error.retriable
    return getattr(error, "exit_code", EXIT_TRY_AGAIN if retriable else EXIT_SOFTWARE)
