"""How the brokers are reached: as configured, or where the embedded one says on its page that it listens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ...ringbuf import RingError, page_filename, read_page

EMBEDDED = "embedded"  # what `bootstrap_servers` says where the broker is one of the instance's own actors
BROKER = "broker"  # name of its actor
DETAIL = "bootstrap_servers"  # in the detail of its page


class Brokers(msgspec.Struct, kw_only=True):
    """Addresses, encryption and credentials: the same for whoever reads a topic and whoever writes to one."""

    bootstrap_servers: Annotated[
        str,
        Meta(
            pattern=rf"^({EMBEDDED}|[^\s,]+:\d+(,[^\s,]+:\d+)*)$",
            description=f'"host:port,…", or "{EMBEDDED}" for a broker of our own, to try things out',
        ),
    ]
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str = ""
    sasl_password_file: str = ""  # mode 0600
    ssl_ca_file: str = ""  # "" = the system's authorities
    ssl_cert_file: str = ""  # our own certificate, where the brokers want one
    ssl_key_file: str = ""

    def connection(self, folder: Path) -> dict[str, Any]:
        """How aiokafka reaches the brokers; files are read now, so a renewed password or certificate is taken.

        Args:
            folder: the instance's in shared memory, where the embedded broker says its address.

        Raises:
            OSError, ssl.SSLError: a file cannot be read or is not what it should be; the embedded broker is not up.
        """
        from aiokafka.helpers import create_ssl_context

        settings: dict[str, Any] = {
            "bootstrap_servers": servers(self.bootstrap_servers, folder),
            "security_protocol": self.security_protocol,
        }  # fmt: skip
        if "SSL" in self.security_protocol:
            settings["ssl_context"] = create_ssl_context(
                cafile=_path(self.ssl_ca_file), certfile=_path(self.ssl_cert_file), keyfile=_path(self.ssl_key_file)
            )
        if self.security_protocol.startswith("SASL"):
            password = Path(self.sasl_password_file).expanduser().read_text("utf-8").strip()
            settings |= {
                "sasl_mechanism": self.sasl_mechanism, "sasl_plain_username": self.sasl_username,
                "sasl_plain_password": password,
            }  # fmt: skip
        return settings


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


def _path(text: str) -> str | None:
    return str(Path(text).expanduser()) if text else None
