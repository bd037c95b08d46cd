"""Whatever bytes come, an event or `Undecidable` follows; and what follows fits the tables."""

from __future__ import annotations

import contextlib
import json
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from tickring.codecs.desk.canonical import VARIANTS, Event, ExecReport
from tickring.codecs.desk.decoder import decoder
from tickring.codecs.desk.executions import Executions, fill_of
from tickring.codecs.desk.kinds import members
from tickring.codecs.desk.money import AMOUNT_MAX
from tickring.codecs.desk.plain_executions import REFUSALS, Live, Plain
from tickring.codecs.desk.reading import REASONS, Amounts, Defaults
from tickring.codecs.errors import Undecidable

from ..desk.messages import ALL_VARIANTS, TOPICS, body, encode, execution_stream

EXECUTIONS = "exec.reports.v1"
DECODERS = {topic: decoder(topic) for topic in TOPICS}
LIVE = Executions(EXECUTIONS, Defaults()).live
PLAIN = Plain(Amounts(), Defaults())

# Values that producers, bugs and attackers put where something else belongs.
HOSTILE: list[Any] = [
    None, True, False, 0, -0.0, -1, 1e308, 5e-324, 10**19, 10**39, -(10**60), 0.1 + 0.2, 1741080010, 1741080010123,
    1741080010123456789, "", " ", "0", "-0", "1e5", "1E-9", "+1", "1_000", " 1", "١٢", "nan", "Infinity", "1e999999999",
    "1e-999999999", "9" * 400, "0." + "1" * 400, "null", "\x00", "é" * 20, "😀", "2025-02-30T00:00:00Z",
    "2025-03-04T09:20:00", "2025-03-04T09:20:00.123456789+05:30", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z",
    "1970-01-01T00:00:00+14:00", "BUY", "buy", "FILLED", [], {}, [None], [[]], [{}], {"a": None}, [1, "x"],
]  # fmt: skip


def check(topic: str, value: bytes) -> Event | Undecidable:
    """Decode, and look at what must hold for every outcome."""
    try:
        event = DECODERS[topic](value, 2, 41, 1_741_080_000_000)
    except Undecidable as error:
        assert error.reason in REASONS
        assert str(error)
        if topic == EXECUTIONS:
            with pytest.raises(Undecidable) as live:
                LIVE(value, 2, 41, 1_741_080_000_000)
            assert (live.value.reason, str(live.value)) == (error.reason, str(error))
            assert plainly(value) is None
        return error
    assert event.variant in VARIANTS[1:]
    assert event.event_id
    fits(event)
    if isinstance(event, ExecReport):
        identity, time, variant, rounded, fills = LIVE(value, 2, 41, 0)
        assert (identity, time, VARIANTS[variant]) == (event.event_id, event.timestamp, event.variant)
        assert [fill_of(row) for row in fills] == event.fills
        assert plainly(value) in (None, (identity, time, variant, 0, fills))
        assert rounded <= event.rounded
        assert all(fill.quantity > 0 and fill.price >= 0 and fill.fill_id and fill.symbol for fill in event.fills)
    return event


def plainly(value: bytes) -> Live | None:
    """What the reader of plain messages says; None where it refuses."""
    with contextlib.suppress(*REFUSALS):
        return PLAIN.read(value)
    return None


def fits(struct: Struct) -> None:
    """Every value is of its kind and within what its column holds."""
    for member in members(type(struct)):
        value = getattr(struct, member.name)
        where = (type(struct).__name__, member.name, value)
        if value is None:
            assert member.optional, where
        elif member.kind == "items":
            for item in value:
                fits(item)
        elif member.kind == "amount":
            assert type(value) is int and abs(value) <= AMOUNT_MAX, where
        elif member.kind in ("count", "time"):
            assert type(value) is int and abs(value) < 2**63, where
            assert member.kind == "count" or value > 0, where
        elif member.kind == "ratio":
            assert type(value) is float and math.isfinite(value), where
        elif member.kind == "flag":
            assert type(value) is bool, where
        else:
            assert type(value) is str, where
            value.encode()
            if member.kind == "json":
                json.loads(value)


@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_message_with_any_member_replaced_is_an_event_or_undecidable(topic: str, variant: str) -> None:
    rng = random.Random(topic + variant)
    good = body(topic, variant, rng)
    assert isinstance(check(topic, encode(good)), Event)
    for name in good:
        for hostile in (..., None, *rng.sample(HOSTILE, 20)):
            changed = {key: value for key, value in {**good, name: hostile}.items() if value is not ...}
            check(topic, encode(changed))


@pytest.mark.parametrize("items", ["orders", "fills"])
def test_api_report_with_any_member_of_an_item_replaced_is_an_event_or_undecidable(items: str) -> None:
    good = body(EXECUTIONS, "api", random.Random(7))
    for name in good[items][0]:
        for hostile in HOSTILE:
            check(EXECUTIONS, encode({**good, items: [{**good[items][0], name: hostile}]}))


@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_message_with_bytes_changed_is_an_event_or_undecidable(topic: str, variant: str) -> None:
    rng = random.Random(topic + variant)
    for _ in range(100):
        value = bytearray(encode(body(topic, variant, rng)))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(value))
            match rng.randrange(3):
                case 0:
                    value[at] = rng.randrange(256)
                case 1:
                    del value[at : at + rng.randint(1, 9)]
                case _:
                    value[at:at] = rng.choice(
                        (b'"', b"{", b"\\", b"\\u0000", b"\\ud800", b"9" * 30, b"\xc3", b"]", b"-")
                    )
        check(topic, bytes(value))


@pytest.mark.parametrize("topic", TOPICS)
@given(value=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_undecidable(topic: str, value: bytes) -> None:
    assert isinstance(check(topic, value), Undecidable)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_message_with_members_of_any_json_is_an_event_or_undecidable(data: st.DataObject) -> None:
    topic, variant = data.draw(st.sampled_from(ALL_VARIANTS))
    good = body(topic, variant, random.Random(data.draw(st.integers(0, 99))))
    names = data.draw(st.lists(st.sampled_from(sorted(good)), max_size=4))
    check(topic, json.dumps({**good, **{name: data.draw(_JSON) for name in names}}).encode())


def test_message_nested_deeper_than_the_stack_is_undecidable() -> None:
    for inside in (b"[" * 100_000, b'{"a":' * 100_000):
        outcome = check(EXECUTIONS, b'{"extra":' + inside)
        assert isinstance(outcome, Undecidable) and outcome.reason == "not_json"


def test_bytes_that_are_no_utf8_are_undecidable_wherever_they_decide() -> None:
    for topic, variant in ALL_VARIANTS:
        good = body(topic, variant, random.Random(1), event_id="MARK", metadata={"a": "MARK"})
        for value in (encode(good).replace(b"MARK", b"\xff", 1), encode(good).replace(b"MARK", b"\xc3")):
            outcome = check(topic, value)
            assert isinstance(outcome, Undecidable) and outcome.reason == "not_utf8"
    good = body(EXECUTIONS, "api", random.Random(1), metadata={"a": "MARK"})
    outcome = check(EXECUTIONS, encode(good).replace(b"MARK", b"\xff"))
    assert isinstance(outcome, ExecReport)  # what nobody decides by is left out
    assert (outcome.metadata, outcome.malformed, len(outcome.fills)) == (None, 1, 1)


def test_number_of_thousands_of_digits_is_undecidable() -> None:
    good = body(EXECUTIONS, "mon-flat", random.Random(1))
    for digits in (b"9" * 5000, b"0." + b"9" * 5000, b"1e400"):
        value = encode({**good, "quantity": "QUANTITY"}).replace(b'"QUANTITY"', digits)
        check(EXECUTIONS, value)


def test_more_items_than_an_item_number_can_count_are_undecidable() -> None:
    good = body(EXECUTIONS, "api", random.Random(1))
    outcome = check(EXECUTIONS, encode({**good, "fills": good["fills"] * 65_536}))
    assert isinstance(outcome, Undecidable) and outcome.reason == "too_large"


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_message_as_its_producer_writes_it_is_read_as_a_plain_one_of_its_variant(variant: str) -> None:
    value = encode(body(EXECUTIONS, variant, random.Random(3)))
    read = plainly(value)
    assert read is not None and VARIANTS[read[2]] == variant and read[4]


def test_live_and_full_agree_on_a_stream_of_all_variants() -> None:
    for message in execution_stream(random.Random(11), 1500):
        assert isinstance(check(EXECUTIONS, message.value), ExecReport)
