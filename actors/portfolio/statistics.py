"""What is said of a series of days and of round trips. Definitions, in plain functions.

A *day* is a UTC day. The equity of a day is the PnL since the beginning, after fees, with open positions valued as
they were last seen on that day, or on the last day before on which they were seen; its daily PnL is the difference to
the day before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

DAYS_A_YEAR = 365  # these markets never close
WEEK, MONTH = 7, 30  # days, the current one among them


def win_rate(wins: int, losses: int) -> float:
    """Share of the winning round trips among those that won or lost, a fraction; 0 without any."""
    return wins / (wins + losses) if wins + losses else 0.0


def profit_factor(gross_profit: int, gross_loss: int) -> float:
    """Profit of the winning round trips by the loss of the losing ones, both after fees; 0 where nothing was lost."""
    return gross_profit / gross_loss if gross_loss else 0.0


def sharpe_ratio(daily: Sequence[int]) -> float:
    """Mean of the daily PnL by its standard deviation (of a sample), times the square root of 365; no riskless rate.

    Days without a fill count, with what the market made of the open positions. 0 for fewer than two days, and where all
    days are alike.
    """
    n = len(daily)
    if n < 2:
        return 0.0
    mean = math.fsum(daily) / n
    deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in daily) / (n - 1))
    return mean / deviation * math.sqrt(DAYS_A_YEAR) if deviation else 0.0


def drawdown(capital: int, peak: int, pnl: int) -> float:
    """How far equity (capital and PnL) stands below its highest so far, a fraction of that where it is above 0.

    Without a configured capital equity is PnL alone: then a fall of more than all that was ever won exceeds 1.
    """
    top = capital + peak
    return (peak - pnl) / top if top > 0 and pnl < peak else 0.0


def equities(
    deltas: Mapping[int, int], closes: Mapping[int, int], last: int, unseen: Callable[[int], int] = lambda day: 0
) -> tuple[int, list[int]]:
    """Equity at the end of each day.

    On a day on which nobody looked at the marks they are as they were last seen, unless there were fills on it: these
    have changed what the difference is of, and tell the newest prices.

    Args:
        deltas: day -> by how much equity changed on it, as the fills alone say; a day with fills has one, even of 0.
        closes: day -> difference between equity at the marks last seen on that day and what the fills say.
        last: the last day wanted.
        unseen: the difference on a day with fills on which nobody looked.

    Returns:
        `(first day, one value for each day up to the last)`; no values where nothing happened until then.
    """
    if not deltas and not closes:
        return last, []
    first = min(*deltas, *closes, last + 1)
    total, beyond, seen, series = 0, 0, False, []
    for day in range(first, last + 1):
        total += deltas.get(day, 0)
        if day in closes:
            beyond, seen = closes[day], True
        elif seen and day in deltas:
            beyond = unseen(day)
        series.append(total + beyond)
    return first, series
