"""A simulated exchange in a process of its own, which outlives the daemons that listen to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from ..system.tree import Tree


class Exchange:
    """Binance spot and USD-M on the ports that a tree has for its own simulator, which then does without."""

    def __init__(self, tree: Tree, coins: Sequence[str], **config: Any) -> None:
        self.config = tree.config.pop("simulator") | {"symbols": list(coins), **config}
        command = [sys.executable, "-m", "tickring.actors.simulator", "--with-parent"]
        command += ["--config-json", json.dumps(self.config)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.urls: dict[str, str] = json.loads(self._process.stdout.readline())

    def markets(self, **fields: Any) -> dict[str, Any]:
        """`[exchanges.binance]` with the given fields for each product, at our addresses."""
        addresses = {
            "spot": {"ws_url": self.urls["spot_ws"], "rest_url": self.urls["spot_rest"]},
            "usdm": {
                "ws_public_url": self.urls["usdm_public_ws"],
                "ws_market_url": self.urls["usdm_market_ws"],
                "rest_url": self.urls["usdm_rest"],
            },
        }
        return {"binance": {product: {**addresses[product], **more} for product, more in fields.items()}}

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
