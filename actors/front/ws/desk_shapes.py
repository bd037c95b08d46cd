"""PnL and positions in the form of each dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ....codecs.desk.money import UNIT
from ..desk.form import Form, form_of
from ..desk.pnl import realtime
from ..desk.portfolio import Latest, Portfolio, together
from ..desk.positions import by_symbol, position, side_of
from .desk_channels import PNL_KIND

if TYPE_CHECKING:
    from .desk_state import Standing

NUMBERS, STRINGS = form_of("number", "rfc3339"), form_of("string", "ms")
CENT = UNIT // 100


class PnlShapes:
    """PnL: a change of more than 0.01, or a fill, is worth a frame."""

    def __init__(self, portfolio: Portfolio) -> None:
        self._portfolio = portfolio

    def rows(self) -> list[Latest]:
        return self._portfolio.pnl()

    @staticmethod
    def open_rows(rows: list[Latest]) -> list[Latest]:
        return rows

    @staticmethod
    def figures(rows: Sequence[Latest]) -> tuple[int, ...]:
        now = together(list(rows))
        return now["fill_count"], now["total_pnl"], now["realized_pnl"], now["unrealized_pnl"]

    tolerances = (0, CENT, CENT, CENT)

    def api(self, standing: Standing, form: Form = NUMBERS) -> dict[str, Any]:
        now = together(standing.rows)
        shown = realtime(now, None, form)
        del shown["symbol"]
        return {**shown, "daily_change": form.amount(now["total_pnl"] - now["day_start_pnl"])}

    def whole(self, standing: Standing) -> dict[str, Any]:
        now = together(standing.rows)
        return {
            **self.api(standing, STRINGS), "total_exposure": STRINGS.amount(now["exposure"]),
            "volume": STRINGS.amount(now["volume"]), "positions": now["positions"],
            "by_symbol": {one.pop("symbol"): one for one in self._records(standing, STRINGS)},
        }  # fmt: skip

    def dashboard(self, standing: Standing) -> list[dict[str, Any]]:
        return self._records(standing, NUMBERS)

    def _records(self, standing: Standing, form: Form) -> list[dict[str, Any]]:
        return [
            {
                "timestamp": form.moment(row.recv_ns), "account_id": row.account, "symbol": row.symbol,
                "realized_pnl": form.amount(row["realized_pnl"]), "unrealized_pnl": form.amount(row["unrealized_pnl"]),
                "total_pnl": form.amount(row["total_pnl"]), "commission": form.amount(row["fees"]),
                "trade_count": row["fill_count"], "volume": form.amount(row["volume"]),
            }
            for account in sorted({row.account for row in standing.rows})
            for row in self._portfolio.pnl_by_symbol(account)
        ]  # fmt: skip


class PositionShapes:
    """Open positions: others, or on the other side; exposure by more than 1.0, unrealised PnL by more than 0.1."""

    def __init__(self, portfolio: Portfolio) -> None:
        self._portfolio = portfolio

    def rows(self) -> list[Latest]:
        return self._portfolio.positions(flat=True)

    @staticmethod
    def open_rows(rows: list[Latest]) -> list[Latest]:
        return [row for row in rows if row["quantity"]]

    @staticmethod
    def figures(rows: Sequence[Latest]) -> tuple[int, ...]:
        each = sum(abs(row["market_value"]) for row in rows)
        held = {(row.account, row.strategy, row.key["venue"], row.symbol, row["quantity"] > 0) for row in rows}
        unrealized = sum(row["unrealized_pnl"] for row in rows)
        return len(rows), each, PositionShapes._exposure(rows), unrealized, hash(frozenset(held))

    tolerances = (0, UNIT, UNIT, 10 * CENT, 0)

    @staticmethod
    def _exposure(rows: Sequence[Latest]) -> int:
        """As REST has it: what strategies hold against each other is none."""
        return sum(abs(one["market_value"]) for one in by_symbol(rows).values())

    def api(self, standing: Standing) -> dict[str, Any]:
        symbols = by_symbol(standing.rows)
        shown = [
            {
                "symbol": symbol, "quantity": NUMBERS.amount(one["quantity"]),
                "avg_price": NUMBERS.amount(one["avg_price"]), "market_value": NUMBERS.amount(one["market_value"]),
                "unrealized_pnl": NUMBERS.amount(one["unrealized_pnl"]), "side": side_of(one["quantity"]),
                "last_update": NUMBERS.moment(one["recv_ns"]),
            }
            for symbol, one in symbols.items()
        ]  # fmt: skip
        return {"positions": shown, **self._sums(standing, len(shown), NUMBERS)}

    def whole(self, standing: Standing) -> dict[str, Any]:
        shown = [position(row, STRINGS) for row in standing.rows]
        return {"positions": shown, **self._sums(standing, len(shown), STRINGS)}

    def _sums(self, standing: Standing, count: int, form: Form) -> dict[str, Any]:
        _, _, exposure, unrealized, _ = standing.figures
        return {
            "total_count": count, "total_exposure": form.amount(exposure),
            "total_unrealized_pnl": form.amount(unrealized), "update_time": form.moment(standing.recv_ns),
        }  # fmt: skip

    def dashboard(self, standing: Standing) -> list[dict[str, Any]]:
        """As execution events tell them, with `position_qty`; 0 once when a position was closed."""
        return [{**position(row, NUMBERS), "position_qty": NUMBERS.amount(row["quantity"])} for row in standing.changed]


Shapes = PnlShapes | PositionShapes


def shapes_of(kind: str, portfolio: Portfolio) -> Shapes:
    return PnlShapes(portfolio) if kind == PNL_KIND else PositionShapes(portfolio)
