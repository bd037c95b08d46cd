"""A strategy for the demo: it trades by chance on the quotes of the instance and tells of it on the desk's topics.

What it decides follows from its seed alone; at which prices, from the market. It produces to the embedded broker only.

| module | what |
|---|---|
| `trader` | orders, executions and the strategy's own book, in exact decimals |
| `told` | what happened, as the messages of several producers |
| `strategy` | the actor: quotes in, messages out |
"""

from __future__ import annotations

from .config import Config
from .strategy import main

__all__ = ["Config", "main"]
