"""The desk's alerts: what arrives on `alerts.v1` and what our own rules raise, each once, until it is resolved.

| module | what |
|---|---|
| `book` | every alert and its state |
| `rules` | conditions over signals, and when they hold |
| `defaults` | the rules that are there from the start |
| `signals` | what this machine can see: metrics, hosts, topics, risk |
| `store` | alerts and rules on disk |
| `told` | alerts that arrive on the topic |
| `past` | those of them that only ClickHouse has |
| `commands` | the socket: acknowledge, resolve, rules |
| `produce` | our own alerts on the topic, where that is wanted |
"""

from __future__ import annotations

from .actor import main
from .config import Config
from .publish import byte_rings, streams

__all__ = ["Config", "byte_rings", "main", "streams"]
