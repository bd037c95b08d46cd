"""Request weight as the exchange counts it: windows of a minute for each address, refusal, then a ban."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from .config import Limits

BAN_S_MAX = 3 * 86_400.0


@dataclass
class Account:
    """One address."""

    window: int = -1
    used: int = 0
    used_max: int = 0  # highest of any window: what a test of the client's budget looks at
    refused: int = 0  # in this window
    bans: int = 0
    banned_until: float = 0.0  # UNIX seconds


@dataclass(frozen=True)
class Verdict:
    """What a request of some weight gets: `status` 200, 429 or 418."""

    status: int
    used: int
    retry_after_s: int = 0
    banned_until_ms: int = 0


class WeightLedger:
    """Weights of one product. Spot and USD-M have separate budgets."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.accounts: dict[str, Account] = {}
        self.requests = 0
        self.refusals = 0

    def charge(self, address: str, weight: int) -> Verdict:
        """Count a request. A refused one costs nothing but brings the ban nearer."""
        limits = self.limits
        now = time.time()
        account = self.accounts.setdefault(address, Account())
        window = int(now // limits.weight_window_s)
        if window != account.window:
            account.window = window
            account.used = account.refused = 0
        self.requests += 1
        if now < account.banned_until:
            self.refusals += 1
            left = math.ceil(account.banned_until - now)
            return Verdict(418, account.used, left, int(account.banned_until * 1000))
        if limits.weight_max and account.used + weight > limits.weight_max:
            self.refusals += 1
            account.refused += 1
            if limits.ban_after and account.refused > limits.ban_after:
                length = min(BAN_S_MAX, limits.ban_s * 2**account.bans)
                account.bans += 1
                account.banned_until = now + length
                return Verdict(418, account.used, math.ceil(length), int(account.banned_until * 1000))
            return Verdict(429, account.used, max(1, math.ceil((window + 1) * limits.weight_window_s - now)))
        account.used += weight
        account.used_max = max(account.used_max, account.used)
        return Verdict(200, account.used)
