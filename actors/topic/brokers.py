"""Where the brokers are: as configured, or where the embedded one says on its page that it listens."""

from __future__ import annotations

from pathlib import Path

from ...ringbuf import RingError, page_filename, read_page

EMBEDDED = "embedded"  # what `bootstrap_servers` says where the broker is one of the instance's own actors
BROKER = "broker"  # name of its actor
DETAIL = "bootstrap_servers"  # in the detail of its page


class NotUp(ConnectionError):
    """The embedded broker has not said yet where it listens."""


def servers(configured: str, folder: Path) -> str:
    """The addresses of the brokers, `host:port,...`, as they are now.

    Args:
        configured: `bootstrap_servers` of the configuration.
        folder: the instance's in shared memory.

    Raises:
        NotUp: the embedded broker is starting.
    """
    if configured != EMBEDDED:
        return configured
    try:
        found = read_page(folder / page_filename(BROKER)).detail.get(DETAIL)
    except (RingError, OSError):
        found = None
    if not found:
        raise NotUp("the embedded broker is starting")
    return found
