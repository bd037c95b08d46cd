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
ROW_BYTES = 1024  # a row of ours takes 300 to 500
API_ROW_BYTES = 256  # and one of a symbol, for DipMaster's clients, up to 200


class Sized:
    """What has rows, of which so many go into a frame.

    Args:
        frame_bytes_max: size of the largest frame.
    """

    def __init__(self, portfolio: Portfolio, frame_bytes_max: int) -> None:
        self._portfolio = portfolio
        self._rows_max = max(1, frame_bytes_max // ROW_BYTES)
        self._symbols_max = max(1, frame_bytes_max // API_ROW_BYTES)

    def cut(self, rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """The same rows in parts that fit a frame; at least one, which may be empty."""
        return [rows[i : i + self._rows_max] for i in range(0, len(rows) or 1, self._rows_max)]


class PnlShapes(Sized):
    """PnL: a change of more than 0.01, or a fill, is worth a frame."""

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

    def parts(self, standing: Standing) -> list[dict[str, Any]]:
        """Everything, in as many parts as it takes: each has the sums, and the next of the rows."""
        now = together(standing.rows)
        sums = {
            **self.api(standing, STRINGS), "total_exposure": STRINGS.amount(now["exposure"]),
            "volume": STRINGS.amount(now["volume"]), "positions": now["positions"],
        }  # fmt: skip
        return [
            {**sums, "by_symbol": {one.pop("symbol"): one for one in part}}
            for part in self.cut(self._records(standing, STRINGS))
        ]

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


class PositionShapes(Sized):
    """Open positions: others, or on the other side; exposure by more than 1.0, unrealised PnL by more than 0.1."""

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
        """One frame in any case: its clients take each for everything. Where it would be too large, it has the largest
        positions, and `omitted` says how many more there are."""
        symbols = list(by_symbol(standing.rows).values())
        count, omitted = len(symbols), len(symbols) - self._symbols_max
        if omitted > 0:
            symbols = sorted(symbols, key=lambda one: -abs(one["market_value"]))[: self._symbols_max]
        shown = [
            {
                "symbol": one["symbol"], "quantity": NUMBERS.amount(one["quantity"]),
                "avg_price": NUMBERS.amount(one["avg_price"]), "market_value": NUMBERS.amount(one["market_value"]),
                "unrealized_pnl": NUMBERS.amount(one["unrealized_pnl"]), "side": side_of(one["quantity"]),
                "last_update": NUMBERS.moment(one["recv_ns"]),
            }
            for one in symbols
        ]  # fmt: skip
        told = {"positions": shown, **self._sums(standing, count, NUMBERS)}
        return {**told, "omitted": omitted} if omitted > 0 else told

    def parts(self, standing: Standing) -> list[dict[str, Any]]:
        """Everything, in as many parts as it takes: each has the sums, and the next of the rows."""
        shown = [position(row, STRINGS) for row in standing.rows]
        sums = self._sums(standing, len(shown), STRINGS)
        return [{"positions": part, **sums} for part in self.cut(shown)]

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


def shapes_of(kind: str, portfolio: Portfolio, frame_bytes_max: int) -> Shapes:
    return (PnlShapes if kind == PNL_KIND else PositionShapes)(portfolio, frame_bytes_max)
