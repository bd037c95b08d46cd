"""Accounts as keys of the live streams."""

from __future__ import annotations

from collections.abc import Callable

OVERFLOW = "*overflow*"  # account of live rows whose own account has no row in the directory


class Accounts:
    """Account -> its row in the key directory; that of `OVERFLOW` for those that get none, which are not kept.

    Attributes:
        rows: those that have one, for a look before `row` is asked.
    """

    def __init__(self, add: Callable[[str], int | None]) -> None:
        self.rows: dict[str, int] = {}
        self._add = add

    def row(self, account: str) -> int:
        """The row of an account that may be new."""
        key_id = self.rows.get(account)
        if key_id is None:
            key_id = self._add(account)
            if key_id is None:
                return self.rows[OVERFLOW]
            self.rows[account] = key_id
        return key_id
