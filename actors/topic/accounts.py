"""Accounts as keys of the live streams."""

from __future__ import annotations

from collections.abc import Callable

OVERFLOW = "*overflow*"  # account of live rows whose own account has no row in the directory


class Accounts(dict[str, int]):
    """Account -> its row in the key directory; that of `OVERFLOW` for those that get none, which are not kept."""

    def __init__(self, add: Callable[[str], int | None]) -> None:
        super().__init__()
        self._add = add

    def __missing__(self, account: str) -> int:
        key_id = self._add(account)
        if key_id is None:
            return self[OVERFLOW]
        self[account] = key_id
        return key_id
