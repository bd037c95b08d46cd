"""The front: REST, WebSocket and the first page, answered from shared memory."""

from .config import Config
from .server import main

__all__ = ["Config", "main"]
