"""The form of texts is a part of a record's fingerprint, so no reader takes one version for another."""

from __future__ import annotations

import msgspec

from tickring.codecs.desk.canonical import Amount, Fill, Word
from tickring.codecs.desk.kinds import form
from tickring.codecs.desk.records import ALERT_STATE, FILL, STATEMENT
from tickring.codecs.record import RecordType


class Item(msgspec.Struct):
    price: Amount


class Statement(msgspec.Struct):
    symbol: Word
    items: list[Item]


def test_form_names_each_member_with_its_kind_and_those_of_its_items() -> None:
    assert form(Statement) == "Statement(symbol:word! items:items!Item(price:amount!))"


def test_form_changes_with_a_member_that_is_new_needed_or_of_another_kind() -> None:
    def made(*fields: tuple[str, object] | tuple[str, object, object]) -> str:
        return form(msgspec.defstruct("One", fields))  # type: ignore[arg-type]

    forms = [made(("a", Word)), made(("a", Amount)), made(("a", Word | None, None)), made(("a", Word), ("b", Word))]
    assert len(set(forms)) == len(forms)


def test_fingerprint_of_a_record_changes_with_the_form_of_its_texts() -> None:
    for record in (FILL, STATEMENT, ALERT_STATE):
        without = RecordType(record.name, "", record.fields, tail=record.tail)
        assert without.dtype == record.dtype and without.fingerprint != record.fingerprint
    same = RecordType(FILL.name, "", FILL.fields, tail=FILL.tail, texts=form(Fill))
    assert same.fingerprint == FILL.fingerprint
