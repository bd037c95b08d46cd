"""Rows as JSON text, each written once in each form, and what else is worked out once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from ..envelope import encode
from ..history import in_turns
from .form import FORMS, Form

T = TypeVar("T")
R = TypeVar("R")
ROWS_KEPT = 4096


class ByIdentity(Generic[T, R]):
    """What follows from values, worked out once for each that was asked for lately.

    A result belongs to its value, not to one that is equal to it, so that nothing has to be compared. It is kept with
    the value, whose identity therefore stays its own. What is not asked for between two fillings is forgotten.
    """

    def __init__(self, make: Callable[[T], R], kept_max: int) -> None:
        self._make, self._kept_max = make, kept_max
        self.kept: dict[int, tuple[T, R]] = {}
        self._before: dict[int, tuple[T, R]] = {}

    def of(self, value: T) -> R:
        known = self.kept.get(id(value))
        if known is None:
            if len(self.kept) >= self._kept_max:
                self._before, self.kept = self.kept, {}
            known = self._before.get(id(value)) or (value, self._make(value))
            self.kept[id(value)] = known
        return known[1]


class Rendered(Generic[T]):
    """The texts of the rows that were shown last."""

    def __init__(self, write: Callable[[T], Any], rows_kept: int = ROWS_KEPT) -> None:
        self._texts: ByIdentity[T, bytes] = ByIdentity(lambda value: encode(write(value)), rows_kept)

    def array(self, values: Sequence[T]) -> bytes:
        """A JSON array of them."""
        known, of = self._texts.kept.get, self._texts.of  # mostly all but one or two are known
        found = [text[1] if (text := known(id(value))) else of(value) for value in values]
        return b"[" + b",".join(found) + b"]"

    async def long_array(self, values: Sequence[T]) -> bytes:
        """The same of many rows: others are served between."""
        return b"[" + b",".join(await in_turns(self._texts.of, values)) + b"]"


def by_form(write: Callable[[T, Form], Any], rows_kept: int = ROWS_KEPT) -> dict[Form, Rendered[T]]:
    """The texts in each form."""

    def rendered(form: Form) -> Rendered[T]:
        return Rendered(lambda value: write(value, form), rows_kept)

    return {form: rendered(form) for form in FORMS}
