"""What the canonical form makes of what producers write: one test for each rule."""

from __future__ import annotations

import random
from decimal import Decimal
from typing import Any

import pytest

from tickring.codecs.desk.canonical import Alert, Event, ExecReport, Performance, PositionUpdate, Risk, SystemHealth
from tickring.codecs.desk.decoder import decoder
from tickring.codecs.desk.money import UNIT, parse_amount
from tickring.codecs.desk.reading import Defaults
from tickring.codecs.errors import Undecidable

from ..desk.messages import (
    ALL_VARIANTS,
    NO_SCHEMA,
    START_MS,
    TOPICS,
    TrueFill,
    body,
    compose,
    encode,
    execution_stream,
    undecidable,
)

EXECUTIONS, RISK, ALERTS, HEALTH, PERFORMANCE = TOPICS[:5]


def decode(topic: str, variant: str, /, *, offset: int = 5, **changes: Any) -> Any:
    """The event of a valid message with some members changed (`...` takes one away)."""
    return decoder(topic)(encode(body(topic, variant, random.Random(4), **changes)), 0, offset, START_MS)


def reason(topic: str, variant: str, /, **changes: Any) -> tuple[str, str]:
    """Why a message with some members changed is undecidable: the word and the text."""
    with pytest.raises(Undecidable) as caught:
        decode(topic, variant, **changes)
    return caught.value.reason, str(caught.value)


def units(text: str) -> int:
    return parse_amount(text)[0]


# -- variants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_variant_is_told_by_the_members(topic: str, variant: str) -> None:
    for seed in range(5):
        message = compose(topic, variant, random.Random(seed))
        event = decoder(topic)(message.value, 0, 1, START_MS)
        assert (event.variant, event.event_id) == (variant, message.event_id)


@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_members_that_nobody_knows_are_ignored(topic: str, variant: str) -> None:
    assert decode(topic, variant, zzz={"a": [1]}, another="x") == decode(topic, variant)


@pytest.mark.parametrize("variant", ["api", "dashboard", "mon-flat"])
def test_topic_and_key_mark_mon_rich_only_where_both_are_texts(variant: str) -> None:
    assert decode(EXECUTIONS, variant, topic=EXECUTIONS, key=None).variant == variant
    assert decode(EXECUTIONS, variant, topic=5, key="x").variant == variant
    assert decode(RISK, variant, topic=RISK, key="main_1", portfolio_id="p").variant == "mon-rich"


def test_execution_id_without_the_metadata_is_mon_flat() -> None:
    stripped = dict.fromkeys(("event_id", "produced_at", "producer_id", "schema_version"), ...)
    assert decode(EXECUTIONS, "mon-flat", **stripped).variant == "mon-flat"


def test_execution_report_without_lists_and_marks_is_api() -> None:
    report = decode(EXECUTIONS, "api", orders=..., fills=None)
    assert (report.variant, report.orders, report.fills) == ("api", [], [])


def test_risk_with_portfolio_id_is_monitoring_though_it_has_portfolio_value() -> None:
    assert decode(RISK, "dashboard", portfolio_id="main_portfolio").variant == "mon-flat"


@pytest.mark.parametrize(
    ("topic", "variant", "without"),
    [
        (ALERTS, "api", ["code"]), (ALERTS, "dashboard", ["alert_type"]),
        (HEALTH, "api", ["overall_status", "components"]), (PERFORMANCE, "dashboard", ["gross_profit", "strategy_id"]),
    ],
)  # fmt: skip
def test_message_of_no_variant_is_undecidable(topic: str, variant: str, without: list[str]) -> None:
    assert reason(topic, variant, **dict.fromkeys(without, ...))[0] == "unknown_variant"


def test_topic_without_a_schema_gives_bare_events() -> None:
    event = decoder(NO_SCHEMA)(b"\xff whatever", 1, 2, START_MS)
    assert (type(event), event.timestamp, event.variant) == (Event, START_MS * 1_000_000, "")
    with pytest.raises(ValueError, match="none of the desk's"):
        decoder("exec.reports.v2")


@pytest.mark.parametrize("empty", [..., None, ""])
@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_version_and_source_are_those_that_the_producer_means_by_leaving_them_out(
    topic: str, variant: str, empty: Any
) -> None:
    event = decode(topic, variant, version=empty, source="x" if variant != "mon-rich" else empty)
    assert event.version == ("v1" if variant in ("dashboard", "mon-rich") else None)
    assert event.source == ("dipmaster-monitoring" if variant == "mon-rich" else "x")
    assert decode(topic, variant, version="v2", source="y").version == "v2"


@pytest.mark.parametrize("absent", [..., None])
@pytest.mark.parametrize(
    ("topic", "variant", "name", "expected"),
    [
        (EXECUTIONS, "mon-rich", "commission", 0), (EXECUTIONS, "mon-flat", "commission", None),
        (EXECUTIONS, "mon-rich", "commission_asset", "USDT"), (EXECUTIONS, "api", "metadata", "{}"),
        (EXECUTIONS, "dashboard", "metadata", None), (RISK, "api", "metadata", "{}"),
        (RISK, "api", "position_concentration", "{}"), (RISK, "api", "correlation_matrix", "{}"),
        (RISK, "dashboard", "metadata", None), (ALERTS, "api", "context", "{}"), (ALERTS, "api", "metrics", "{}"),
        (ALERTS, "dashboard", "context", None), (HEALTH, "mon-rich", "health_score", 100.0),
        (HEALTH, "mon-flat", "health_score", 100.0), (HEALTH, "api", "health_score", None),
        ("trade.signals.v1", "mon-rich", "expected_holding_minutes", 60),
        ("trade.signals.v1", "mon-flat", "expected_holding_minutes", None),
    ],
)  # fmt: skip
def test_member_that_is_left_out_has_the_default_of_its_producer(
    topic: str, variant: str, name: str, expected: Any, absent: Any
) -> None:
    changes: dict[str, Any] = {name: absent}
    if (variant, name) == ("mon-flat", "commission"):
        changes["fees"] = absent
    if name == "commission_asset":
        changes["commission"] = absent
    assert getattr(decode(topic, variant, **changes), name) == expected


def test_api_risk_without_a_list_of_metrics_has_an_empty_one() -> None:
    assert decode(RISK, "api", risk_metrics=...).risk_metrics_detail == "[]"


# -- identity and time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", TOPICS)
def test_event_without_an_id_gets_one_of_its_place(topic: str) -> None:
    variant = next(v for t, v in ALL_VARIANTS if t == topic)
    first, again, next_one = (decode(topic, variant, event_id=missing, offset=o) for missing, o in
                              ((..., 7), (None, 7), ("", 8)))  # fmt: skip
    assert first.event_id == again.event_id != next_one.event_id
    assert len(first.event_id) == 32


def test_ids_written_as_numbers_are_texts() -> None:
    report = decode(EXECUTIONS, "dashboard", order_id=880019, exec_id=12, event_id=5)
    assert (report.order_id, report.fills[0].fill_id, report.event_id) == ("880019", "12", "5")


@pytest.mark.parametrize("written", ["2025-03-04T09:20:00Z", "2025-03-04T09:20:00", "2025-03-04T11:20:00+02:00",
                                     1741080000, 1741080000000, 1741080000.0])  # fmt: skip
@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_time_is_read_in_every_form(topic: str, variant: str, written: Any) -> None:
    assert decode(topic, variant, timestamp=written).timestamp == START_MS * 1_000_000


@pytest.mark.parametrize(("topic", "variant"), ALL_VARIANTS)
def test_event_without_a_time_is_undecidable(topic: str, variant: str) -> None:
    assert reason(topic, variant, timestamp=...) == ("missing_field", "timestamp: missing")
    word, text = reason(topic, variant, timestamp="yesterday")
    assert word == "bad_time" and text.startswith("timestamp: ") and "yesterday" in text


def test_fill_has_the_time_of_the_trade_where_the_report_says_it() -> None:
    at = decode(EXECUTIONS, "dashboard", trade_time="2025-03-04T09:00:00Z")
    assert at.fills[0].timestamp == 1_741_078_800_000_000_000 != at.timestamp
    without = decode(EXECUTIONS, "dashboard", trade_time=None)
    assert without.fills[0].timestamp == without.timestamp
    assert reason(EXECUTIONS, "dashboard", trade_time="soon")[0] == "bad_time"


def test_time_of_an_order_that_cannot_be_read_is_left_out() -> None:
    assert decode(EXECUTIONS, "dashboard", order_time="soon").order_time is None


# -- amounts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["0.015", 0.015, "1.5e-2", "0.0150"])
@pytest.mark.parametrize("variant", ["dashboard", "mon-rich", "mon-flat"])
def test_amount_is_read_from_text_and_number(variant: str, written: Any) -> None:
    assert decode(EXECUTIONS, variant, quantity=written).quantity == 1_500_000


def test_amount_with_more_than_eight_decimals_is_rounded_and_counted() -> None:
    report = decode(EXECUTIONS, "dashboard", last_qty="0.123456785", commission="0.000000015")
    assert report.rounded == 2
    assert (report.fills[0].quantity, report.fills[0].commission) == (12_345_678, 2)
    assert decode(RISK, "mon-rich", var_95=1 / 3).rounded == 1


@pytest.mark.parametrize("written", ["12,5", [], {"a": 1}, True, "9" * 400])
@pytest.mark.parametrize("name", ["last_qty", "last_price", "commission"])
def test_amount_of_a_fill_that_cannot_be_read_makes_the_report_undecidable(name: str, written: Any) -> None:
    word, text = reason(EXECUTIONS, "dashboard", **{name: written})
    assert word == "bad_amount" and text.startswith(f"{name}: ")


@pytest.mark.parametrize("written", ["12,5", [], {"a": 1}, True, "9" * 400])
@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("dashboard", "cum_qty"), ("dashboard", "avg_price"), ("dashboard", "realized_pnl"),
        ("dashboard", "unrealized_pnl"), ("dashboard", "position_qty"), ("dashboard", "order_time"),
        ("api", "total_cost"), ("api", "total_realized_pnl"), ("api", "slippage"), ("api", "execution_time_ms"),
        ("mon-rich", "slippage_bps"), ("mon-flat", "latency_ms"),
    ],
)  # fmt: skip
def test_member_that_decides_nothing_and_cannot_be_read_is_left_out_and_counted(
    variant: str, name: str, written: Any
) -> None:
    good, report = decode(EXECUTIONS, variant), decode(EXECUTIONS, variant, **{name: written})
    assert (getattr(report, name), report.malformed) == (None, 1) and good.malformed == 0
    (fill,), (expected,) = report.fills, good.fills
    assert (fill.fill_id, fill.quantity, fill.price, fill.commission, fill.timestamp) == (
        expected.fill_id, expected.quantity, expected.price, expected.commission, expected.timestamp,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["source", "order_type", "client_order_id", "position_side"])
def test_text_that_decides_nothing_and_is_none_is_left_out_and_counted(name: str) -> None:
    changes: dict[str, Any] = {name: ["x"]}
    report = decode(EXECUTIONS, "dashboard", **changes)
    assert (getattr(report, name), report.malformed, len(report.fills)) == (None, 1, 1)


@pytest.mark.parametrize("name", ["event_id", "symbol", "account_id", "order_id", "exec_id", "commission_asset"])
def test_text_that_decides_and_is_none_makes_the_report_undecidable(name: str) -> None:
    word, text = reason(EXECUTIONS, "dashboard", **{name: ["x"]})
    assert word == "bad_value" and text.startswith(f"{name}: ")


@pytest.mark.parametrize("written", ["12,5", [], None, "-1"])
def test_order_that_is_not_whole_is_left_out_beside_its_fill(written: Any) -> None:
    report = decode(EXECUTIONS, "dashboard", quantity=written)
    assert (report.orders, len(report.fills), report.malformed >= 1) == ([], 1, True)


# -- fills --------------------------------------------------------------------------------------------------------


def told(fill: Any) -> TrueFill:
    """A canonical fill in the terms of what really happened, as far as every variant says it."""
    return TrueFill(
        fill.account_id, fill.strategy_id, fill.venue, fill.fill_id, "", fill.symbol, fill.side,
        Decimal(fill.quantity) / UNIT, Decimal(fill.price) / UNIT, Decimal(fill.commission) / UNIT,
        fill.commission_asset, fill.timestamp // 1_000_000,
    )  # fmt: skip


def test_fills_of_a_stream_of_all_variants_are_those_that_happened() -> None:
    decode_report = decoder(EXECUTIONS)
    for n, message in enumerate(execution_stream(random.Random(3), 800)):
        report = decode_report(message.value, 0, n, START_MS)
        assert isinstance(report, ExecReport)
        true = [TrueFill(**{**vars(fill), "order_id": ""}) for fill in message.fills]
        assert [told(fill) for fill in report.fills] == true


@pytest.mark.parametrize("exec_type", ["NEW", "PARTIAL_FILL", "FILL", "CANCELED", "REJECTED", "EXPIRED"])
def test_dashboard_report_that_is_no_trade_has_no_fill(exec_type: str) -> None:
    report = decode(EXECUTIONS, "dashboard", exec_type=exec_type)
    assert report.fills == [] and report.exec_type == exec_type and len(report.orders) == 1


def test_dashboard_fill_falls_back_on_the_order() -> None:
    fill = decode(EXECUTIONS, "dashboard", last_qty=None, last_price=..., exec_id=None, quantity="3", price="7").fills[
        0
    ]
    assert (fill.quantity, fill.price) == (3 * UNIT, 7 * UNIT)
    assert fill.fill_id == decode(EXECUTIONS, "dashboard").event_id


@pytest.mark.parametrize(
    ("status", "canonical", "fills"),
    [
        ("FILLED", "FILLED", 1), ("filled", "FILLED", 1), ("PARTIAL", "PARTIALLY_FILLED", 1),
        ("Partial", "PARTIALLY_FILLED", 1), ("failed", "REJECTED", 0), ("REJECTED", "REJECTED", 0),
        ("CANCELLED", "CANCELED", 0), ("EXPIRED", "EXPIRED", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("variant", ["mon-rich", "mon-flat"])
def test_monitoring_status_decides_the_fill(variant: str, status: str, canonical: str, fills: int) -> None:
    report = decode(EXECUTIONS, variant, status=status)
    assert (report.order_status, len(report.fills)) == (canonical, fills)


def test_monitoring_fill_is_the_part_that_was_filled() -> None:
    fill = decode(
        EXECUTIONS, "mon-flat", status="PARTIAL", quantity=3.0, fill_qty=1.0, price=5.0, fill_price=5.5
    ).fills[0]
    assert (fill.quantity, fill.price) == (UNIT, units("5.5"))


def test_typed_producer_has_defaults_and_the_flat_one_has_not() -> None:
    report = decode(EXECUTIONS, "mon-rich", status=..., venue=..., strategy=..., execution_id="", commission_asset=...)
    fill = report.fills[0]
    assert (report.order_status, fill.venue, fill.strategy_id, fill.commission_asset) == (
        "FILLED", "binance", "dipmaster", "USDT",
    )  # fmt: skip
    assert fill.fill_id == report.event_id
    assert reason(EXECUTIONS, "mon-flat", status=...)[0] == "missing_field"
    assert reason(EXECUTIONS, "mon-flat", execution_id="")[0] == "missing_field"


def test_account_and_strategy_come_from_the_configuration_where_none_is_named() -> None:
    decode_report = decoder(EXECUTIONS, Defaults(account="desk-1", strategy="grid"))
    rng = random.Random(2)
    fill = decode_report(encode(body(EXECUTIONS, "mon-flat", rng, strategy=None)), 0, 1, 0).fills[0]  # type: ignore[attr-defined]
    assert (fill.account_id, fill.strategy_id) == ("desk-1", "grid")
    api = decode_report(encode(body(EXECUTIONS, "api", rng, strategy_id=None, account_id="acct-7")), 0, 1, 0).fills[0]  # type: ignore[attr-defined]
    assert (api.account_id, api.strategy_id) == ("acct-7", "grid")


def test_venue_is_one_whatever_its_case() -> None:
    venues = {decode(EXECUTIONS, variant, venue=venue).fills[0].venue for variant, venue in
              (("api", "BINANCE"), ("dashboard", "Binance"), ("mon-flat", None))}  # fmt: skip
    assert venues == {"binance"}


@pytest.mark.parametrize("variant", ["dashboard", "mon-rich", "mon-flat"])
@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"symbol": None}, "missing_field"), ({"symbol": ""}, "missing_field"), ({"side": "HOLD"}, "bad_value"),
        ({"side": None}, "missing_field"), ({"quantity": "-1", "last_qty": None, "fill_qty": None}, "bad_value"),
        ({"quantity": "0", "last_qty": None, "fill_qty": None}, "bad_value"),
        ({"price": 0, "last_price": None, "fill_price": None}, "bad_value"),
        ({"last_qty": "-2", "fill_qty": -2}, "bad_value"),
        ({"quantity": None, "last_qty": None}, "missing_field"), ({"quantity": [], "last_qty": []}, "bad_amount"),
        ({"quantity": True, "last_qty": True}, "bad_amount"),
        ({"order_status": "HALF", "status": "HALF"}, "bad_value"),
    ],
)  # fmt: skip
def test_fill_that_is_not_whole_is_undecidable(variant: str, changes: dict[str, Any], word: str) -> None:
    if variant == "mon-rich":
        changes = {name: value for name, value in changes.items() if name not in ("last_qty",)}
    assert reason(EXECUTIONS, variant, **changes)[0] == word


@pytest.mark.parametrize(
    ("items", "member", "value", "expected"),
    [
        ("fills", "fill_id", None, "missing_field"), ("fills", "quantity", "0", "bad_value"),
        ("fills", "price", "-1", "bad_value"), ("fills", "commission", "-0.1", "bad_value"),
        ("fills", "side", "LONG", "bad_value"), ("fills", "timestamp", "x", "bad_time"),
        ("fills", "quantity", "x", "bad_amount"), ("fills", "quantity", [], "bad_amount"),
        ("fills", "symbol", {}, "bad_value"),
    ],
)  # fmt: skip
def test_api_fill_that_is_not_whole_makes_the_report_undecidable_and_is_named(
    items: str, member: str, value: Any, expected: str
) -> None:
    good = body(EXECUTIONS, "api", random.Random(4))[items][0]
    word, text = reason(EXECUTIONS, "api", **{items: [good, {**good, member: value}]})
    assert word == expected and text.startswith(f"{items}[1].{member}: ")


@pytest.mark.parametrize(
    ("member", "value", "kept"),
    [
        ("status", "HALF", 1), ("order_id", "", 1), ("order_id", [], 1), ("quantity", "0", 1), ("update_time", {}, 1),
        ("price", "x", 2), ("stop_price", [], 2), ("filled_quantity", "-1", 2), ("create_time", "x", 2),
        ("client_order_id", {}, 2),
    ],
)  # fmt: skip
def test_api_order_that_cannot_be_read_costs_no_fill(member: str, value: Any, kept: int) -> None:
    good = body(EXECUTIONS, "api", random.Random(4))["orders"][0]
    report = decode(EXECUTIONS, "api", orders=[good, {**good, member: value}])
    assert (len(report.orders), report.malformed, len(report.fills)) == (kept, 1, 1)
    if kept == 2:
        assert getattr(report.orders[1], member) is None


@pytest.mark.parametrize("orders", ["x", {}, [1, "x"], [[]]])
def test_api_orders_that_are_none_cost_no_fill(orders: Any) -> None:
    report = decode(EXECUTIONS, "api", orders=orders)
    assert (report.orders, len(report.fills)) == ([], 1) and report.malformed >= 1


@pytest.mark.parametrize("member", ["trade_id", "order_id"])
def test_api_fill_without_the_ids_of_others_is_whole(member: str) -> None:
    good = body(EXECUTIONS, "api", random.Random(4))["fills"][0]
    report = decode(EXECUTIONS, "api", fills=[good, {**good, member: ["x"]}])
    assert [getattr(fill, member) for fill in report.fills] == [good[member], None] and report.malformed == 1


def test_dashboard_report_without_an_account_is_undecidable() -> None:
    assert reason(EXECUTIONS, "dashboard", account_id=None) == ("missing_field", "account_id: missing")
    assert reason(EXECUTIONS, "api", account_id="")[0] == "missing_field"


def test_slippage_in_quote_currency_and_in_basis_points_stay_apart() -> None:
    api, flat = decode(EXECUTIONS, "api", slippage="-0.25"), decode(EXECUTIONS, "mon-flat", slippage_bps=3.1)
    assert (api.slippage, api.slippage_bps) == (units("-0.25"), None)
    assert (flat.slippage, flat.slippage_bps, flat.fills[0].slippage_bps) == (None, 3.1, 3.1)


@pytest.mark.parametrize("dust", ["0.000000004", "0.000000005", 4e-9, "1e-400", 5e-324])
def test_fill_of_a_quantity_that_is_rounded_to_nothing_costs_no_other_fill(dust: Any) -> None:
    good = body(EXECUTIONS, "api", random.Random(4))["fills"][0]
    small = {**good, "fill_id": "dust", "quantity": dust}
    expected = decode(EXECUTIONS, "api", fills=[good]).fills
    for fills in ([good, small], [small, good]):
        report = decode(EXECUTIONS, "api", fills=fills)
        assert (report.fills, report.rounded, report.malformed) == (expected, 1, 0)
    alone = decode(EXECUTIONS, "api", fills=[small])
    assert (alone.fills, alone.rounded) == ([], 1)


@pytest.mark.parametrize(("variant", "size", "at"), [
    ("dashboard", "last_qty", "last_price"), ("mon-rich", "quantity", "price"), ("mon-flat", "fill_qty", "fill_price"),
])  # fmt: skip
def test_execution_of_nearly_nothing_is_an_event_without_a_fill_and_one_at_nearly_nothing_a_fill_at_zero(
    variant: str, size: str, at: str
) -> None:
    small: dict[str, Any] = {size: 4e-9}
    report = decode(EXECUTIONS, variant, status="FILLED", **small)
    assert (report.fills, report.rounded) == ([], 1)
    cheap: dict[str, Any] = {size: 3.0, at: "0.000000004"}
    report = decode(EXECUTIONS, variant, status="FILLED", **cheap)
    assert (report.fills[0].quantity, report.fills[0].price, report.rounded) == (3 * UNIT, 0, 1)
    for name in (size, at):
        assert reason(EXECUTIONS, variant, status="FILLED", **{name: "-0.000000004"})[0] == "bad_value"


def test_api_fill_and_order_of_nearly_nothing_are_above_zero() -> None:
    good = body(EXECUTIONS, "api", random.Random(4))
    (fill,) = decode(EXECUTIONS, "api", fills=[{**good["fills"][0], "price": "0.000000004"}]).fills
    assert (fill.quantity > 0, fill.price) == (True, 0)
    report = decode(EXECUTIONS, "api", orders=[{**good["orders"][0], "quantity": "0.000000004"}])
    assert (report.orders[0].quantity, report.rounded, report.malformed) == (0, 1, 0)
    for changes in ({"quantity": "-0.000000004"}, {"price": "-0.000000004"}, {"quantity": "4e-9", "price": "0"}):
        assert reason(EXECUTIONS, "api", fills=[{**good["fills"][0], **changes}])[0] == "bad_value"
    assert decode(EXECUTIONS, "api", orders=[{**good["orders"][0], "quantity": "-0.000000004"}]).malformed == 1


# -- orders -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("STOP", "STOP_LOSS"),
        ("STOP_LIMIT", "STOP_LOSS_LIMIT"),
        ("market", "MARKET"),
        ("TRAILING_STOP", "TRAILING_STOP"),
    ],
)
def test_order_type_is_the_canonical_one(written: str, canonical: str) -> None:
    report = decode(EXECUTIONS, "dashboard", order_type=written)
    assert (report.order_type, report.orders[0].type) == (canonical, canonical)


def test_dashboard_report_is_a_state_of_its_order() -> None:
    order = decode(EXECUTIONS, "dashboard", quantity="5", cum_qty="2", order_status="PARTIALLY_FILLED").orders[0]
    assert (order.quantity, order.filled_quantity, order.remaining_quantity) == (5 * UNIT, 2 * UNIT, 3 * UNIT)
    assert order.status == "PARTIALLY_FILLED"


@pytest.mark.parametrize(
    ("filled", "remaining", "expected"),
    [
        ("2.5", None, "10"), (None, None, "12.5"), ("12.5", None, "0"), ("2.5", "4", "4"), ("2.5", "0", "0"),
        ("13", None, None), ("x", None, None), ("2.5", "x", None),
    ],
)  # fmt: skip
def test_what_remains_of_an_api_order_is_what_it_says_or_what_is_not_filled(
    filled: str | None, remaining: str | None, expected: str | None
) -> None:
    good = body(EXECUTIONS, "api", random.Random(4))["orders"][0]
    changes = {"quantity": "12.5", "filled_quantity": filled, "remaining_quantity": remaining}
    (order,) = decode(EXECUTIONS, "api", orders=[{**good, **changes}]).orders
    assert order.remaining_quantity == (None if expected is None else units(expected))


# -- risk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "written", "fraction"),
    [
        ("api", "5", 0.05), ("api", "0.5", 0.005), ("dashboard", "1.8", 0.018), ("dashboard", "0.06", 0.06),
        ("mon-rich", 0.06, 0.06), ("mon-flat", 1.2, 1.2),
    ],
)  # fmt: skip
def test_drawdown_is_a_fraction(variant: str, written: Any, fraction: float) -> None:
    assert decode(RISK, variant, max_drawdown=written).max_drawdown == fraction


def test_value_at_risk_by_horizon_and_by_confidence_stay_apart() -> None:
    api, flat = decode(RISK, "api"), decode(RISK, "mon-flat")
    assert api.var_1d is not None and api.var_95 is None and flat.var_95 is not None and flat.var_1d is None


def test_api_risk_has_its_defaults() -> None:
    names = ("total_exposure", "max_position_size", "max_positions", "daily_loss_limit", "risk_score", "var_1d")
    risk = decode(RISK, "api", **dict.fromkeys(names), positions=None)
    assert isinstance(risk, Risk)
    assert (risk.total_exposure, risk.max_position_size, risk.max_positions) == (0, 1000 * UNIT, 3)
    assert (risk.daily_loss_limit, risk.risk_score, risk.var_1d, risk.positions) == (-500 * UNIT, 0, 0, [])


def test_claimed_positions_are_signed_and_those_of_nothing_left_out() -> None:
    def position(quantity: str, side: str) -> dict[str, Any]:
        return {"symbol": "SOLUSDT", "quantity": quantity, "avg_price": "1", "side": side, "position_side": side}

    listed = [position("2", "LONG"), position("2", "SHORT"), position("-2", "SHORT"), position("0", "FLAT")]
    assert [p.quantity // UNIT for p in decode(RISK, "api", positions=listed).positions] == [2, -2, -2]
    assert [p.quantity // UNIT for p in decode(RISK, "dashboard", positions=listed[:2]).positions] == [2, -2]
    assert reason(RISK, "api", positions=[{"symbol": "X", "quantity": "much"}])[1].startswith("positions[0].quantity: ")


def test_portfolio_is_kept_and_the_account_the_configured_one() -> None:
    risk = decode(RISK, "mon-flat", portfolio_id="other", account_id="acct-7")
    assert (risk.portfolio_id, risk.account_id) == ("other", "default")


# -- alerts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical", "emergency"),
    [
        ("INFO", "INFO", False), ("LOW", "LOW", False), ("WARNING", "MEDIUM", False), ("warning", "MEDIUM", False),
        ("ERROR", "HIGH", False), ("Critical", "CRITICAL", False), ("EMERGENCY", "CRITICAL", True),
        ("emergency", "CRITICAL", True),
    ],
)  # fmt: skip
def test_severity_is_canonical_and_kept_as_written(written: str, canonical: str, emergency: bool) -> None:
    alert = decode(ALERTS, "mon-flat", severity=written)
    assert isinstance(alert, Alert)
    assert (alert.severity, alert.severity_raw, alert.emergency) == (canonical, written, emergency)


def test_severity_that_nobody_knows_is_undecidable() -> None:
    assert reason(ALERTS, "api", severity="SCARY")[0] == "bad_value"
    assert reason(ALERTS, "api", severity=None)[0] == "missing_field"


def test_class_of_an_alert_is_its_code() -> None:
    codes = [decode(ALERTS, variant).code for variant in ("api", "dashboard", "mon-rich", "mon-flat")]
    assert codes == ["DAILY_LOSS_80", "LOSS_LIMIT", "CONNECTIVITY", "CONNECTIVITY"]


@pytest.mark.parametrize(
    ("variant", "changes"),
    [("api", {"auto_resolved": True}), ("dashboard", {"status": "resolved"}), ("mon-rich", {"resolved": True})],
)
def test_alert_that_is_over_is_resolved(variant: str, changes: dict[str, Any]) -> None:
    alert = decode(ALERTS, variant, **changes)
    assert alert.resolved and alert.status == "RESOLVED"
    still = decode(ALERTS, variant)
    assert not still.resolved and still.status == "ACTIVE"


@pytest.mark.parametrize("name", ["alert_id", "message"])
def test_alert_without_what_it_must_have_is_undecidable(name: str) -> None:
    assert reason(ALERTS, "dashboard", **{name: ...}) == ("missing_field", f"{name}: missing")


# -- health, performance, the rest --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "canonical"), [("HEALTHY", "healthy"), ("Degraded", "degraded"), ("odd", "unknown")]
)
def test_health_is_lower_case(written: str, canonical: str) -> None:
    api, flat = decode(HEALTH, "api", overall_status=written), decode(HEALTH, "mon-flat", status=written)
    assert isinstance(api, SystemHealth)
    assert (api.overall_status, flat.overall_status) == (canonical, canonical)
    assert api.components[0].status in ("healthy", "degraded", "unhealthy")


def test_health_of_a_component_has_the_same_members_from_both_producers() -> None:
    rich, flat = decode(HEALTH, "mon-rich"), decode(HEALTH, "mon-flat")
    assert rich.component == flat.component == "trading_engine"
    assert rich.network_latency_ms == flat.network_latency_ms and rich.disk_usage == flat.disk_usage


@pytest.mark.parametrize(
    ("variant", "written", "fraction"),
    [("dashboard", "0.70", 0.7), ("dashboard", "70", 0.7), ("dashboard", "1", 1.0), ("mon-rich", 0.7, 0.7)],
)
def test_win_rate_is_a_fraction(variant: str, written: Any, fraction: float) -> None:
    performance = decode(PERFORMANCE, variant, win_rate=written)
    assert isinstance(performance, Performance)
    assert performance.win_rate == fraction


def test_monitoring_performance_is_of_the_strategy_it_names() -> None:
    flat = decode(PERFORMANCE, "mon-flat", strategy_name="breakout")
    assert (flat.strategy_id, flat.strategy_name, flat.time_window) == ("breakout", "breakout", "1h")


@pytest.mark.parametrize(("variant", "written"), [("mon-rich", "CLOSED"), ("mon-flat", "closed")])
def test_status_of_a_position_is_upper_case(variant: str, written: str) -> None:
    update = decode("position.updates.v1", variant, status=written)
    assert isinstance(update, PositionUpdate)
    assert update.status == "CLOSED"


def test_signal_may_say_hold_and_nothing_else_than_the_three() -> None:
    assert decode("trade.signals.v1", "mon-flat", signal_type="hold").signal_type == "HOLD"
    assert reason("trade.signals.v1", "mon-flat", signal_type="WAIT")[0] == "bad_value"


def test_counts_are_whole_whatever_they_are_written_as() -> None:
    for written in (9, 9.0, "9"):
        assert decode(HEALTH, "api", daily_trades=written).daily_trades == 9
    assert reason(HEALTH, "api", daily_trades=9.5)[0] == "bad_value"
    assert reason(HEALTH, "api", daily_trades=10**19)[0] == "bad_value"


def test_objects_are_kept_as_the_text_they_came_as() -> None:
    value = encode(body(ALERTS, "dashboard", random.Random(1))).replace(
        b'{"limit":"500"}', '{ "é" : [1.50, null] }'.encode()
    )
    alert = decoder(ALERTS)(value, 0, 1, 0)
    assert isinstance(alert, Alert)
    assert alert.context == '{ "é" : [1.50, null] }'
    assert decode(ALERTS, "dashboard", context=None).context is None


# -- what cannot be understood ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (b"", "not_json"), (b"hello", "not_json"), (b'{"a":1', "not_json"), (b"{} {}", "not_json"),
        (b"[]", "not_object"), (b"null", "not_object"), (b'"text"', "not_object"), (b'{"event_id":"\xff"}', "not_utf8"),
        (b'{"event_id":["x"]}', "bad_value"), (b"{}", "missing_field"), (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"event_id":"\\ud800"}', "not_json"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_report_are_undecidable_with_a_reason(value: bytes, word: str) -> None:
    with pytest.raises(Undecidable) as caught:
        decoder(EXECUTIONS)(value, 0, 1, 0)
    assert caught.value.reason == word


@pytest.mark.parametrize("topic", TOPICS)
def test_undecidable_samples_are_so_for_every_topic(topic: str) -> None:
    rng = random.Random(topic)
    for _ in range(30):
        with pytest.raises(Undecidable):
            decoder(topic)(undecidable(rng, topic), 0, 1, 0)


def test_text_of_a_huge_value_is_short() -> None:
    word, text = reason(EXECUTIONS, "dashboard", last_qty="9" * 100_000)
    assert word == "bad_amount" and len(text) < 300
