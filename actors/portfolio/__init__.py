"""The portfolio: positions and PnL from the fills of the desk's topics, marked to market.

| module | what |
|---|---|
| `fold` | the arithmetic of one position |
| `statistics` | definitions: win rate, profit factor, Sharpe ratio, drawdown |
| `book` | the set of fills: each once, in order, late ones folded anew |
| `store` | the file with fills, positions and offsets |
| `totals` | sums by account, strategy and symbol, and their days |
| `marks` | prices and rates from the quotes of the feeds |
| `tellings`, `past` | fills from the topics' rings, and from ClickHouse |
| `statements`, `claims` | what others say of prices and positions |
| `publish` | records and their streams |
"""

from __future__ import annotations

from .config import Config
from .portfolio import main
from .publish import keys_numbered, streams

__all__ = ["Config", "keys_numbered", "main", "streams"]
