"""Messages as the producers' own documents show them, and what each says in canonical form.

`desk_examples.jsonl` has the messages, `desk_canonical.jsonl` line by line what they say: amounts as decimals, times as
ISO 8601, members with their default left out.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from tickring.codecs.desk.canonical import Event
from tickring.codecs.desk.decoder import decoder
from tickring.codecs.desk.kinds import members
from tickring.codecs.desk.money import amount_text

from ..desk.messages import ALL_VARIANTS

HERE = Path(__file__).parent
MESSAGES = (HERE / "desk_examples.jsonl").read_bytes().splitlines()
CANONICAL = (HERE / "desk_canonical.jsonl").read_text().splitlines()


def said(struct: Struct) -> dict[str, Any]:
    """What a canonical struct says, for people."""
    out: dict[str, Any] = {}
    for member in members(type(struct)):
        value = getattr(struct, member.name)
        if value is None or (not member.required and value == member.default) or value == []:
            continue
        if member.kind == "amount":
            value = amount_text(value)
        elif member.kind == "time":
            value = datetime.fromtimestamp(value // 10**9, UTC).strftime("%FT%T") + f".{value % 10**9:09d}Z"
        elif member.kind == "items":
            value = [said(item) for item in value]
        out[member.name] = value
    return out


@pytest.mark.parametrize("number", range(len(ALL_VARIANTS)), ids=[f"{t}-{v}" for t, v in ALL_VARIANTS])
def test_example_of_each_topic_and_variant_becomes_its_canonical_form(number: int) -> None:
    topic, variant = ALL_VARIANTS[number]
    event = decoder(topic)(MESSAGES[number], 3, 17, 1_741_080_000_000)
    assert isinstance(event, Event)
    assert event.variant == variant
    assert said(event) == json.loads(CANONICAL[number])


def test_examples_cover_every_variant() -> None:
    assert len(MESSAGES) == len(CANONICAL) == len(ALL_VARIANTS)
